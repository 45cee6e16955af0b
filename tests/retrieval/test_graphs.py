"""Graphs and molecules as items: zoo.embed, zoo.search, folders of the command line, examples in model cards."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zoo
from zoo.checkpoints.model_card import model_card
from zoo.cli.main import main
from zoo.preprocessing.modality import of_file
from zoo.preprocessing.molecule import MoleculeProcessor
from zoo.retrieval.embed import EmbedError

SMALL = dict(width=16, depth=1, heads=2, seed=0)


def test_graphs_of_npz_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The suffix is that of point clouds, too; and a batch of graphs has no row for each."""
    rng = np.random.default_rng(0)
    for name, nodes in (("a", 3), ("b", 5), ("c", 4)):
        edges = rng.integers(nodes, size=(2, 4))
        np.savez(tmp_path / f"{name}.npz", x=rng.normal(size=(nodes, 6)).astype(np.float32), edge_index=edges)
    model = zoo.create_model("graph_transformer_tiny", in_features=6, head="pool", **SMALL).eval()
    files = [tmp_path / f"{name}.npz" for name in "abc"]
    with torch.no_grad():
        expected = F.normalize(torch.cat([model(**model.preprocess(file)) for file in files]), dim=-1)
    for items in (tmp_path, files):
        found = zoo.embed(model, items, tmp_path.parent / "graphs.safetensors", overwrite=True, progress=False)
        torch.testing.assert_close(found.vectors, expected)
    best = zoo.search(files[1], found, model=model, k=1)[0]
    assert best.name == str(files[1]) and best.score == pytest.approx(1, abs=1e-5)
    classifier = zoo.create_model("graph_transformer_tiny", in_features=6, head="classify", num_classes=2, **SMALL)
    zoo.save(classifier, tmp_path.parent / "classifier")
    assert main(["predict", str(tmp_path.parent / "classifier"), str(tmp_path)]) == 0
    assert "c.npz" in capsys.readouterr().out
    assert of_file("a.npz", ["graph"]) is not of_file("a.npz") and 'zoo.predict(model, "graph.npz")' in model_card(
        zoo.create_model("gat_small", num_classes=3), "runs/nodes")  # fmt: skip


def test_molecules(tmp_path: Path) -> None:
    pytest.importorskip("rdkit", reason="molecules need the extra `molecules`")
    processor = MoleculeProcessor()
    sizes = {"in_features": processor.in_features, "edge_dim": processor.edge_dim}
    model = zoo.create_model("graph_transformer_tiny", head="pool", **sizes, **SMALL).eval()
    model.preprocess = processor
    smiles = ["CCO", "c1ccccc1", "[Na+].[Cl-]", "C"]
    (tmp_path / "ring.smi").write_text("c1ccccc1 benzene\n")
    with torch.no_grad():
        expected = F.normalize(torch.cat([model(**processor(text)) for text in smiles]), dim=-1)
    found = zoo.embed(model, [*smiles, tmp_path / "ring.smi"], tmp_path / "m.safetensors", progress=False)
    torch.testing.assert_close(found.vectors, torch.cat([expected, expected[1:2]]))
    for query in ("OCC", tmp_path / "ring.smi"):
        assert zoo.search(query, found, model=model, k=1)[0].score == pytest.approx(1, abs=1e-5)
    with pytest.raises(EmbedError, match="'C1CC' is not the SMILES of a molecule: unclosed ring"):
        zoo.embed(model, ["CCO", "C1CC"], tmp_path / "n.safetensors", progress=False)
    model = zoo.create_model("graph_transformer_tiny", head="classify", num_classes=2, **sizes, **SMALL)
    model.preprocess = processor
    assert 'zoo.predict(model, "CCO")' in model_card(model, "runs/molecules")
