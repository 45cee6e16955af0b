"""zoo.predict for graphs: a label for each graph, or for each node of it."""

import math
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.models.base import Model
from zoo.preprocessing import graph_files
from zoo.preprocessing.graph import Graph, GraphProcessor


class Config:
    """What zoo.predict reads of a config."""

    resolved_problem_type = "single_label_classification"

    def __init__(self, head: str) -> None:
        self.head, self.in_features, self.edge_dim, self.parts = head, 2, None, ()


class MeanOfNeighbors(Model):
    """Logits [N, 3] from the sums of the features of the sources of a node's edges, or their sums over each graph."""

    inputs = ("node_features", "edge_index", "edge_features", "graph_sizes")
    family = "mean"

    def __init__(self, head: str) -> None:
        super().__init__(Config(head))
        torch.manual_seed(0)
        self.proj = nn.Linear(2, 3)
        self.preprocess = GraphProcessor(in_features=2)
        self.labels = ["a", "b", "c"]

    def forward(self, node_features: Tensor, edge_index: Tensor, graph_sizes: Tensor) -> Tensor:  # type: ignore[override]
        sums = node_features.index_add(0, edge_index[1], node_features[edge_index[0]])
        logits = self.proj(sums)
        if self.config.head == "token":
            return logits
        return torch.stack([part.sum(0) for part in logits.split(graph_sizes.tolist())])


def graphs() -> list[Graph]:
    generator = torch.Generator().manual_seed(0)
    return [Graph(torch.randn(n, 2, generator=generator), torch.randint(n, (2, 2 * n), generator=generator))
            for n in (3, 1, 5)]  # fmt: skip


def test_one_prediction_for_each_graph() -> None:
    model, items = MeanOfNeighbors("classify"), graphs()
    found = zoo.predict(model, items, top_k=3)
    for item, own in zip(items, found):
        scores = model(**model.preprocess(item)).softmax(-1)[0]
        assert dict(own) == pytest.approx(dict(zip("abc", scores.tolist())), abs=1e-6)
        assert zoo.predict(model, item, top_k=3)[0][0] == own[0][0]


def test_one_label_for_each_node(tmp_path: Path) -> None:
    model, items = MeanOfNeighbors("token"), graphs()
    named = Graph(items[0].node_features, items[0].edge_index, names=("x", "y", "z"))
    first, *others = zoo.predict(model, [named, *items[1:]])
    assert [node.node for node in first] == ["x", "y", "z"] and [len(own) for own in others] == [1, 5]
    scores = model(**model.preprocess(named)).softmax(-1)
    assert [node.label for node in first] == ["abc"[i] for i in scores.argmax(-1)]
    assert [node.probability for node in first] == pytest.approx(scores.amax(-1).tolist(), abs=1e-6)
    file = tmp_path / "graph.npz"
    np.savez(file, x=named.node_features, edge_index=named.edge_index, names=np.array(["x", "y", "z"]))
    assert [node.label for node in zoo.predict(model, file)] == [node.label for node in first]
    friends = networkx.Graph([(0, 1)])
    networkx.set_node_attributes(friends, {0: [1.0, 2.0], 1: [0.0, 1.0]}, "x")
    assert [node.node for node in zoo.predict(model, friends)] == ["0", "1"]


def test_a_file_is_read_once_for_its_graph_and_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, graph, read = tmp_path / "graph.npz", graphs()[0], []
    np.savez(file, x=graph.node_features, edge_index=graph.edge_index, names=np.array(["x", "y", "z"]))
    real = graph_files.read
    monkeypatch.setattr(graph_files, "read", lambda path: (read.append(path), real(path))[1])
    found = zoo.predict(MeanOfNeighbors("token"), file)
    assert [node.node for node in found] == ["x", "y", "z"] and read == [file]
    with pytest.raises(ValueError, match="given a list of 2 inputs: expected one input, or a list of them"):
        zoo.predict(MeanOfNeighbors("token"), [graphs()[:2]])


def test_graphs_that_cannot_be_predicted_are_named() -> None:
    model = MeanOfNeighbors("token")
    wide = Graph(torch.ones(2, 5), [])
    with pytest.raises(ValueError, match="graph 1: the graph has 5 features of each node"):
        zoo.predict(model, [graphs()[0], wide])
    with pytest.warns(UserWarning, match="1 of 2 inputs"):
        good, bad = zoo.predict(model, [graphs()[0], wide], on_error="label")
    assert len(good) == 3 and "5 features" in bad[0].label and math.isnan(bad[0].probability)
    infinite = Graph(torch.full((1, 2), 3e38), torch.tensor([[0], [0]]))
    with pytest.raises(ValueError, match="not finite"):
        zoo.predict(model, infinite)
