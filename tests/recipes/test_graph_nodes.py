"""The recipe for nodes of graphs from its command line: what it leaves behind, refuses, and hands on."""

import csv
from pathlib import Path

import numpy as np
import pytest
from recipe_calls import RESUMED, caller, check_resumed_run, result

import zoo
from zoo.cli.main import main as command
from zoo.data.graph.load_nodes import load_nodes
from zoo.data.graph_config import GraphNodeSettings
from zoo.training.recipes.graph_config import GraphNodesSettings
from zoo.utils.errors import DataError

run = caller({"graph_nodes": GraphNodesSettings})
TINY = ("model=gat_cora", "accelerator=cpu", "precision=fp32", "progress=false", "log_every=1")


def call(folder: Path, *words: str) -> int:
    return run("graph_nodes", folder, *TINY, *words)


def write_citations(file: Path, words: int = 12) -> Path:
    """Another citation graph in the layout of cora.npz: 60 papers of 3 classes that cite their own class."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = (rng.random((60, words)) < 0.1).astype(np.float32)
    x[np.arange(60), y] = rng.random(60) < 0.7
    same = y[:, None] == y
    cites = np.triu(rng.random((60, 60)) < np.where(same, 0.3, 0.01), 1)
    source, target = cites.nonzero()
    np.savez(file, x=x, y=y, edge_index=np.stack([np.r_[source, target], np.r_[target, source]]), train=np.arange(12),
             val=np.arange(12, 30), test=np.arange(30, 60))  # fmt: skip
    return file


def test_the_whole_way_on_a_citation_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = write_citations(tmp_path / "citeseer.npz"), tmp_path / "run"
    assert call(folder, f"data={file}", "steps=30", "lr=0.02", "validate_every=10") == 0
    said = capsys.readouterr().out
    for text in ("12 training", "30 test items", "60 nodes of 12 features", "test accuracy", "features of the nodes",
                 f"zoo predict {folder}"):  # fmt: skip
        assert text in said, text
    assert {"confusion.png", "curves.png", "model", "metrics.csv"} <= {path.name for path in folder.iterdir()}
    found = result(folder)
    assert found["result"]["test_accuracy"] > 0.6 and found["baseline"]["name"] == (
        "features of the nodes + logistic regression")  # fmt: skip
    model = zoo.load(folder)
    assert model.preprocess.normalize_features and model.config.in_features == 12
    nodes = zoo.predict(model, file)
    y = np.load(file)["y"]
    assert np.mean([int(node.label) == y[int(node.node)] for node in nodes[30:]]) == pytest.approx(
        found["result"]["test_accuracy"], abs=1e-6)  # fmt: skip
    assert command(["predict", str(folder), str(file), "--out", str(tmp_path / "nodes.csv")]) == 0
    with (tmp_path / "nodes.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["label"] for row in rows] == [node.label for node in nodes] and rows[59]["node"] == "59"
    with pytest.raises(ValueError, match="13 features of each node: expected 12"):
        zoo.predict(model, write_citations(tmp_path / "other.npz", words=13))


def test_inductive_training_and_the_folders_of_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "graph"
    folder.mkdir()
    names = ("red", "blue")
    rows = [f"n{i},{i % 2},{i},{names[i % 2]},{('train', 'val', 'test')[i // 2 % 3]}" for i in range(18)]
    (folder / "nodes.csv").write_text("\n".join(["id,color,number,label,part", *rows]))
    (folder / "edges.csv").write_text("\n".join(["source,target", *(f"n{i},n{(i + 2) % 18}" for i in range(18))]))
    words = (f"data={folder}", "mode=inductive", "undirected=true", "steps=3", "plots=false", "baseline=false")
    assert call(tmp_path / "run", *words) == 0
    model = zoo.load(tmp_path / "run")
    assert model.labels == ["blue", "red"] and model.preprocess.undirected
    capsys.readouterr()
    assert command(["predict", str(tmp_path / "run"), str(folder)]) == 0
    assert "n17" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert command(["explore", str(tmp_path / "run"), str(folder), "--html", str(page), "--layers", "0"]) == 0
    assert "n17" in page.read_text()
    with pytest.raises(ValueError, match=r"the model takes graphs: expected a file that ends with \.npz"):
        zoo.embed(zoo.load(tmp_path / "run", head="pool"), [str(folder)], tmp_path / "found.safetensors")


@pytest.mark.parametrize(("words", "says"), [
    (["data=karat"], "did you mean 'karate'"),
    (["model=vit_cifar_tiny"], "expected one of graphs"),
    (["mode=both"], "transductive"),
    (["data=karate", "neighbors=[0]"], "expected a number of at least 1 for each layer"),
    (["data=karate", "neighbors=[5]"], "expected 2 numbers, such as neighbors=[10,10]"),
    (["data=karate", "model=graph_transformer_tiny", "model.structure=shortest_paths", "neighbors=[5]"],
     "attend to the whole graph"),
])  # fmt: skip
def test_what_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    other_model = any(word.startswith("model=") for word in words)
    own = [word for word in TINY if not (word.startswith("model=") and other_model)]
    assert run("graph_nodes", tmp_path / "run", *own, *words) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_a_run_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_resumed_run(lambda folder: call(folder, "data=karate", *RESUMED, "batch_size=2", "baseline=false"), tmp_path,
                      monkeypatch)  # fmt: skip


def test_classes_that_are_codes_or_not_in_every_graph(tmp_path: Path) -> None:
    x, edges = np.eye(4, dtype=np.float32), np.array([[0], [1]])
    file = tmp_path / "codes.npz"
    node = np.arange(4)
    np.savez(file, x=x, edge_index=edges, y=np.array([-1, 900, 7, 900]), train_mask=node == 1, test_mask=node > 1)
    splits = load_nodes(GraphNodeSettings(name=str(file)))
    assert splits.classes == ["7", "900"] and splits.test.labels.tolist() == [0, 1]
    assert "2 nodes have no edge" in splits.notes
    assert "no training node has the class 7: the model cannot learn it" in splits.notes
    for part, names in (("train", "bca"), ("test", "dbb")):
        (tmp_path / "graphs" / part).mkdir(parents=True)
        np.savez(tmp_path / "graphs" / part / "0.npz", x=x[:3], edge_index=edges, y=np.array(list(names)))
    splits = load_nodes(GraphNodeSettings(name=str(tmp_path / "graphs")))
    assert splits.classes == ["a", "b", "c", "d"]
    assert splits.train.labels.tolist() == [1, 2, 0] and splits.test.labels.tolist() == [3, 1, 1]
    np.savez(tmp_path / "graphs" / "test" / "0.npz", x=x[:3], edge_index=edges, y=np.arange(3))
    with pytest.raises(DataError, match="some graphs have names of classes, and others numbers"):
        load_nodes(GraphNodeSettings(name=str(tmp_path / "graphs")))
