"""Nodes of a graph as a dataset: what is read, held out and refused, and the batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zoo.data.graph import neighbors
from zoo.data.graph.load_nodes import load_nodes, merge_graphs
from zoo.data.graph.nodes import GraphNodesDataModule
from zoo.data.graph_config import GraphNodeSettings
from zoo.data.keyed_batches import Keys
from zoo.data.sources.dataset_cards import load_card
from zoo.data.synthetic import graphs as synthetic
from zoo.preprocessing.graph import Graph, GraphProcessor
from zoo.utils.errors import DataError


def write_citations(file: Path, **changes: Any) -> Path:
    """A citation graph in the layout of cora.npz: 12 papers of 3 classes, whose words are their class's and noise."""
    rng = np.random.default_rng(0)
    y = np.arange(12) % 3
    x = (rng.random((12, 9)) < 0.2).astype(np.float32)
    x[np.arange(12), y] = 1
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j and (y[i] == y[j] or (i + j) % 7 == 0)]
    arrays = {"x": x, "y": y, "edge_index": np.array(pairs).T, "train": np.arange(6), "val": np.arange(6, 9),
              "test": np.arange(9, 12)}  # fmt: skip
    np.savez(file, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return file


def module(data: Any, **options: Any) -> GraphNodesDataModule:
    nodes = load_nodes(GraphNodeSettings(name=str(data)))
    return GraphNodesDataModule(nodes, GraphProcessor(in_features=nodes.train.graph.node_features.shape[1]), **options)


def test_a_batch_has_the_whole_graph_and_the_nodes_of_the_split(tmp_path: Path) -> None:
    data = module(write_citations(tmp_path / "graph.npz"))
    graph = data.splits.train.graph
    assert data.steps_per_epoch == 1 and data.classes == ["0", "1", "2"]
    for stage, nodes in (("train", range(6)), ("val", range(6, 9)), ("test", range(9, 12))):
        batch = next(iter(getattr(data, f"{stage}_dataloader")()))
        assert sorted(batch["nodes"].tolist()) == list(nodes)
        assert torch.equal(batch["labels"], graph.labels[batch["nodes"]])
        assert torch.equal(batch["edge_index"], graph.edge_index) and len(batch["node_features"]) == 12
    small = module(tmp_path / "graph.npz", batch_size=2)
    assert small.steps_per_epoch == 3 and len(next(iter(small.train_dataloader()))["nodes"]) == 2


def test_inductive_training_never_sees_what_is_held_out(tmp_path: Path) -> None:
    data = module(write_citations(tmp_path / "graph.npz", train=np.array([1, 3, 5]), val=np.array([0, 2])),
                  inductive=True)  # fmt: skip
    batch, graph = next(iter(data.train_dataloader())), data.splits.train.graph
    seen = [1, 3, 4, 5, 6, 7, 8]  # also those of no part
    assert torch.equal(batch["node_features"], graph.node_features[seen])
    own = {(seen[a], seen[b]) for a, b in batch["edge_index"].T.tolist()}
    assert own == {(a, b) for a, b in graph.edge_index.T.tolist() if a in seen and b in seen}
    assert torch.equal(batch["labels"], graph.labels[torch.tensor(seen)[batch["nodes"]]])
    assert len(next(iter(data.test_dataloader()))["node_features"]) == 12


def test_parts_that_a_graph_lacks_are_held_out(tmp_path: Path) -> None:
    file = write_citations(tmp_path / "graph.npz", train=None, val=None, test=None)
    nodes = load_nodes(GraphNodeSettings(name=str(file))).with_validation(0.25, 0)
    parts = [set(part.nodes.tolist()) for part in nodes.parts]
    assert set().union(*parts) == set(range(12)) and sum(map(len, parts)) == 12
    assert all(len(part.labels.unique()) == 3 for part in nodes.parts) and nodes.test_name


def test_several_graphs_train_and_test(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for name in "ab":
            write_citations(tmp_path / part / f"{name}.npz", train=None, val=None, test=None)
    data = module(tmp_path, inductive=True)
    assert len(data.train) == len(data.test) == 24
    batch = next(iter(data.train_dataloader()))
    assert len(batch["node_features"]) == 24
    half = batch["edge_index"] < 12
    assert torch.equal(half[0], half[1]), "an edge joins two graphs"
    one, other = (Graph(torch.ones(1, 1), [], labels=[0], classes=(name,)) for name in "ba")
    merged = merge_graphs([one, other])
    assert merged.classes == ("a", "b") and merged.labels is not None and merged.labels.tolist() == [1, 0]
    with pytest.raises(DataError, match="some graphs have names of classes, and others numbers"):
        merge_graphs([one, Graph(torch.ones(1, 1), [], labels=[0])])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(y=None), "graph.npz has no classes of nodes: expected an array y"),
        (dict(val=np.array([5, 6])), "node 5 is in train and in val: expected each node in one part"),
        (dict(y=np.array([-1, *([0, 1, 1] * 3), 0, 1])), "node 0 is in train and has no class"),
        (dict(train=None), "has the parts val, test and none to train on"),
        (dict(edge_index=np.array([[0], [12]])), "graph.npz: edge 0 goes from node 0 to node 12"),
        (dict(y=np.zeros(12, dtype=int)), "has 1 classes for labels up to 0: expected at least two"),
        (dict(x=np.full((12, 9), np.nan)), "graph.npz: node_features has NaN"),
    ],
)
def test_graphs_that_cannot_be_trained_on(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_nodes(GraphNodeSettings(name=str(write_citations(tmp_path / "graph.npz", **changes))))


def test_names_that_are_not_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data='karat': expected a graph in an \.npz file that exists.*'karate'"):
        load_nodes(GraphNodeSettings(name="karat"))
    with pytest.raises(DataError, match=r"has no graph to train on: expected nodes\.csv and edges\.csv, or"):
        load_nodes(GraphNodeSettings(name=str(tmp_path)))
    with pytest.raises(DataError, match="Set ZOO_DATA_DIR"):
        load_nodes(GraphNodeSettings(name="cora", data_dir=str(tmp_path)))
    for options, message in (({"mode": "both"}, "expected 'transductive'"), ({"neighbors": [0]}, "expected a number"),
                             ({"sep": "tab"}, "header=, sep=")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            GraphNodeSettings(**options)  # type: ignore[arg-type]


def test_graphs_that_come_with_the_package() -> None:
    for name, card in (("synthetic", "synthetic_graph"), ("karate", "karate")):
        nodes, known = load_nodes(GraphNodeSettings(name=name)), load_card(card)
        sizes = dict(zip(("train", "validation", "test"), map(len, nodes.parts)))
        assert sizes == known.splits and list(known.labels) == nodes.classes and nodes.real == known.real
        graph = nodes.train.graph
        pairs = {tuple(pair) for pair in graph.edge_index.T.tolist()}
        assert all((b, a) in pairs and a != b for a, b in pairs)
    again = synthetic.make_block_model(seed=0)
    assert torch.equal(again.edge_index, synthetic.make_block_model(seed=0).edge_index)
    assert not torch.equal(again.labels, synthetic.make_block_model(seed=1).labels)  # type: ignore[arg-type]
    same = again.labels[again.edge_index]  # type: ignore[index]
    assert (same[0] == same[1]).float().mean().item() == pytest.approx(2 / 3, abs=0.05)


def test_cora() -> None:
    card = load_card("cora")
    try:
        nodes = load_nodes(GraphNodeSettings(name="cora"))
    except DataError as error:
        pytest.skip(str(error))
    assert list(map(len, nodes.parts)) == list(card.splits.values()) and nodes.classes == list(card.labels)
    assert torch.bincount(nodes.train.graph.labels).tolist() == [351, 217, 418, 818, 426, 298, 180]  # type: ignore[arg-type]


class SampledWhole:
    """Stands for the sampler of torch_geometric's loader, which needs pyg-lib: the seeds, then all other nodes."""

    made = 0
    edge_permutation = None

    def __init__(self, data: Any, num_neighbors: list[int], **options: Any) -> None:
        type(self).made += 1
        self.edge_index, self.nodes = data.edge_index, len(data.x)

    def sample_from_nodes(self, inputs: Any) -> Any:
        sampler = pytest.importorskip("torch_geometric.sampler")
        others = torch.ones(self.nodes, dtype=torch.bool)
        others[inputs.node] = False
        order = torch.cat([inputs.node, others.nonzero().flatten()])
        row, col = order.argsort()[self.edge_index]
        edges = torch.arange(len(row))
        return sampler.SamplerOutput(order, row, col, edges, metadata=(inputs.input_id, inputs.time))


def test_sampled_neighbors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typing = pytest.importorskip("torch_geometric.typing")
    file = write_citations(tmp_path / "graph.npz")
    if not (typing.WITH_PYG_LIB or typing.WITH_TORCH_SPARSE):
        with pytest.raises(ImportError, match=r"pip install pyg-lib -f https://data\.pyg\.org"):
            module(file, neighbors=[5])
        monkeypatch.setattr(neighbors, "check_installed", lambda: None)
        monkeypatch.setattr("torch_geometric.loader.neighbor_loader.NeighborSampler", SampledWhole)
        monkeypatch.setattr(SampledWhole, "made", 0)
    data = module(file, neighbors=[100, 100], batch_size=3)
    batch = data.train.__getitems__(Keys([4, 1], 0))
    graph = data.splits.train.graph
    assert batch["nodes"].tolist() == [0, 1] and torch.equal(batch["labels"], graph.labels[[4, 1]])
    assert torch.equal(batch["node_features"][:2], graph.node_features[[4, 1]])
    assert batch["graph_sizes"].tolist() == [len(batch["node_features"])]
    incoming = torch.bincount(graph.edge_index[1], minlength=12)[[4, 1]]  # fewer than 100
    assert torch.equal(torch.bincount(batch["edge_index"][1])[:2], incoming)
    again = data.train.__getitems__(Keys([4, 1], 0))
    assert all(torch.equal(batch[name], again[name]) for name in ("node_features", "edge_index"))
    if SampledWhole.made:
        other = data.train.__getitems__(Keys([0, 2], 0))
        number = torch.cat([torch.tensor([0, 2]), torch.tensor([i for i in range(12) if i not in (0, 2)])])
        assert torch.equal(number[other["edge_index"]], graph.edge_index)
        assert SampledWhole.made == 3, "the edges are sorted once for each split, not for each batch"
