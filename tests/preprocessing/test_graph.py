"""Graphs: what they check, their readers, and the batch without padding."""

from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
import torch

from zoo.preprocessing.graph import Graph, GraphProcessor, load_graph
from zoo.preprocessing.graph_display import graph_html, plot_graph
from zoo.utils.errors import LoadError

FEATURES = torch.tensor([[1.0, 3.0], [0.0, 0.0], [2.0, 2.0]])


def triangle(**options: Any) -> Graph:
    return Graph(FEATURES, torch.tensor([[0, 1, 2], [1, 2, 0]]), **options)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(edge_index=[[0, 5], [1, 0]]), "edge 1 goes from node 5 to node 0: expected numbers of nodes from 0 to 2"),
        (dict(edge_index=[[0, -1], [1, 0]]), "edge 1 goes from node -1 to node 0"),
        (dict(edge_index=[[0.0, 1.0], [1.0, 0.0]]), "edge_index has the type torch.float64: expected integers"),
        (dict(edge_index=[[0, 1], [1, 0], [1, 1]]), r"edge_index is \[3, 2\]: expected \[2, E\].*transpose it"),
        (dict(edge_features=[[1.0]]), "edge_features has 1 rows for 3 edges"),
        (dict(labels=[0, 1]), r"labels is \[2\]: expected \[3\]"),
        (dict(labels=[0.0, 1.0, 0.5]), "labels has the type torch.float64: expected integers"),
        (dict(labels=np.eye(3)), r"labels is \[3, 3\]: expected \[3\].*labels.argmax\(1\)"),
        (dict(labels=["a", "b", "a"]), r"labels is \[3\] of <U1: expected numbers"),
        (dict(parts={"val": np.ones((3, 2), bool)}), r"the part 'val' is \[3, 2\].*choose one, mask\[:, 0\]"),
        (dict(names=["a"]), "names has 1 entries for 3 nodes"),
        (dict(parts={"val": [3]}), "the part 'val' has the nodes 3 to 3: expected numbers from 0 to 2"),
        (dict(node_features=[[1.0], [float("nan")], [2.0]]), "NaN or infinite numbers in 1 of 3 rows, first in row 1"),
        (dict(node_features=[1.0, 2.0, 3.0]), r"node_features is \[3\]"),
        (dict(node_features=[[1.0], [1.0, 2.0], [3.0]]), "node_features cannot be read as numbers"),
        (dict(node_features=np.zeros((0, 2)), edge_index=[]), "a graph without nodes"),
    ],
)
def test_a_graph_that_is_wrong_says_where(fields: dict[str, Any], message: str) -> None:
    given = {"node_features": FEATURES, "edge_index": torch.tensor([[0, 1, 2], [1, 2, 0]])} | fields
    with pytest.raises(ValueError, match=message):
        Graph(**given)


def test_a_batch_has_the_nodes_of_all_graphs_and_no_padding() -> None:
    alone = Graph(FEATURES[:1], [])
    batch = GraphProcessor(in_features=2)([triangle(), alone, triangle()])
    assert batch["graph_sizes"].tolist() == [3, 1, 3]
    assert batch["edge_index"].tolist() == [[0, 1, 2, 4, 5, 6], [1, 2, 0, 5, 6, 4]]
    assert torch.equal(batch["node_features"], torch.cat([FEATURES, FEATURES[:1], FEATURES]))
    assert "edge_features" not in batch


def test_what_the_processor_changes() -> None:
    processor = GraphProcessor(in_features=2, edge_dim=1, normalize_features=True, undirected=True)
    batch = processor(triangle(edge_features=[[1.0], [2.0], [3.0]]))
    assert batch["node_features"].tolist() == [[0.25, 0.75], [0.0, 0.0], [0.5, 0.5]]
    pairs = {tuple(pair) for pair in batch["edge_index"].T.tolist()}
    assert len(pairs) == 6 and all((b, a) in pairs for a, b in pairs)
    assert batch["edge_features"].flatten().tolist() == [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]
    assert GraphProcessor.from_dict(processor.to_dict()) == processor


def test_graphs_of_other_features_are_refused_by_their_number() -> None:
    with pytest.raises(ValueError, match="graph 1 has 3 features of each node: expected 2"):
        GraphProcessor(in_features=2)([triangle(), Graph(torch.zeros(1, 3), [])])
    with pytest.raises(ValueError, match="the graph has no features of each edge: expected 4"):
        GraphProcessor(in_features=2, edge_dim=4)(triangle())
    with pytest.raises(ValueError, match=r"the graph is a dict: expected a zoo\.Graph, a path"):
        GraphProcessor(in_features=2)({"x": 1})
    with pytest.raises(ValueError, match="list of graphs is empty"):
        GraphProcessor(in_features=2)([])


def test_a_part_of_a_graph() -> None:
    part = triangle(labels=[4, 5, 6], names=["a", "b", "c"], parts={"train": [1, 2]}).subgraph(
        torch.tensor([False, True, True])
    )
    assert part.edge_index.tolist() == [[0], [1]] and part.names == ("b", "c")
    assert part.labels is not None and part.labels.tolist() == [5, 6]
    assert part.parts is not None and part.parts["train"].tolist() == [True, True]


def test_a_graph_is_saved_whole(tmp_path: Path) -> None:
    parts = {"train": [True, False, False], "test": [False, False, True]}
    whole = Graph(FEATURES, [[0, 1], [2, 0]], [0.5, 2.0], [0, -1, 1], ("p", "q", "ü"), parts, ("no", "yes"))
    for graph in (whole, Graph(FEATURES, [[0], [2]])):
        graph.save(tmp_path / "graph.npz")
        found = load_graph(tmp_path / "graph.npz")
        for name in ("node_features", "edge_index", "edge_features", "labels", "parts"):
            torch.testing.assert_close(getattr(found, name), getattr(graph, name))
        assert found.names == graph.names and found.classes == graph.classes
    with pytest.raises(ValueError, match=r"graph\.csv: expected the name of an \.npz file"):
        whole.save(tmp_path / "graph.csv")
    with pytest.raises(ValueError, match="the graph has the parts holdout: a file has train, val, test"):
        Graph(FEATURES, [[0], [2]], parts={"holdout": [True, False, False]}).save(tmp_path / "graph.npz")


def test_npz(tmp_path: Path) -> None:
    file = tmp_path / "graph.npz"
    np.savez(file, x=FEATURES, y=np.array([0, 1, 1]), edge_index=np.array([[0], [2]]), train=np.array([0]))
    graph = load_graph(file)
    assert graph.num_edges == 1 and graph.labels is not None and graph.labels.tolist() == [0, 1, 1]
    assert graph.parts is not None and graph.parts["train"].tolist() == [True, False, False]
    edges = np.array([[0, 1], [2, 0]])
    np.savez(file, x=FEATURES, edge_index=edges, edge_weight=np.array([0.5, 2.0]), y=np.array([["b"], ["a"], ["b"]]),
             test_mask=np.array([False, True, False]))  # fmt: skip
    graph = load_graph(file)
    assert graph.edge_features is not None and graph.edge_features.tolist() == [[0.5], [2.0]]
    assert graph.classes == ("a", "b") and graph.labels is not None and graph.labels.tolist() == [1, 0, 1]
    assert graph.parts is not None and graph.parts["test"].tolist() == [False, True, False]
    np.savez(file, x=FEATURES, edge_index=edges, year=np.arange(3))
    with pytest.raises(LoadError, match=r"has the arrays year, which are not read.*val or val_mask"):
        load_graph(file)
    np.savez(file, x=FEATURES, edge_index=edges, edge_attr=np.ones(2), edge_weight=np.ones(2))
    with pytest.raises(LoadError, match="the arrays edge_attr and edge_weight, which mean the same"):
        load_graph(file)
    np.savez(file, x=FEATURES)
    with pytest.raises(LoadError, match=r"graph.npz has no array edge_index; it has x"):
        load_graph(file)
    np.savez(file, x=np.array([{}], dtype=object), edge_index=np.array([[0], [0]]))
    with pytest.raises(LoadError, match="cannot be read as arrays of numbers"):
        load_graph(file)
    with pytest.raises(LoadError, match=r"graph.txt has an unknown file type: expected a graph in an \.npz file"):
        load_graph(tmp_path / "graph.txt")


@pytest.mark.parametrize(("separator", "part"), [(",", "part"), (";", "split"), ("\t", "split")])
def test_csv(separator: str, part: str, tmp_path: Path) -> None:
    nodes = f"id,age,label,{part}\n007,1.5,0,train\nb,2,1,\nc,3,,val\n"
    (tmp_path / "nodes.csv").write_text(nodes.replace(",", separator))
    (tmp_path / "edges.csv").write_text("source,target,weight\n007,b,0.5\nc,007,2\n".replace(",", separator))
    graph = load_graph(tmp_path)
    assert graph.names == ("007", "b", "c") and graph.edge_index.tolist() == [[0, 2], [1, 0]]
    assert graph.node_features.tolist() == [[1.5], [2.0], [3.0]]
    assert graph.edge_features is not None and graph.edge_features.tolist() == [[0.5], [2.0]]
    assert graph.labels is not None and graph.labels.tolist() == [0, 1, -1]
    assert graph.parts is not None and graph.parts["val"].tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ("id,x\na,1\n", "source,target\na,z\n", "edges.csv, row 2: there is no node 'z' in nodes.csv"),
        ("id,x\na,one\n", "source,target\n", "nodes.csv, row 2: column 'x' has 'one', expected a number"),
        ("id,x\na,1\na,2\n", "source,target\n", "nodes.csv: the id 'a' is there twice"),
        ("name,x\na,1\n", "source,target\n", "nodes.csv has no column 'id'; it has name, x"),
        ("id,x,part\na,1,dev\n", "source,target\n", "nodes.csv, row 2: part 'dev': expected train, val, test"),
        ("id\na\n", "source,target\n", "nodes.csv has no column of features"),
    ],
)
def test_csv_that_is_wrong_says_where(nodes: str, edges: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "nodes.csv").write_text(nodes)
    (tmp_path / "edges.csv").write_text(edges)
    with pytest.raises(LoadError, match=message):
        load_graph(tmp_path)


def test_graphs_of_networkx() -> None:
    graph = networkx.Graph([("a", "b"), ("b", "c")])
    found = load_graph(graph)
    assert found.names == ("a", "b", "c") and torch.equal(found.node_features, torch.eye(3))
    assert sorted(found.edge_index.T.tolist()) == [[0, 1], [1, 0], [1, 2], [2, 1]]
    directed = networkx.DiGraph([(0, 1)])
    networkx.set_node_attributes(directed, {0: [1.0, 2.0], 1: [3.0, 4.0]}, "x")
    networkx.set_node_attributes(directed, {0: 1, 1: 0}, "y")
    found = load_graph(directed)
    assert found.edge_index.tolist() == [[0], [1]] and found.node_features.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert found.labels is not None and found.labels.tolist() == [1, 0]
    directed.nodes[1]["x"] = [1.0]
    with pytest.raises(ValueError, match="node 1 has 1 numbers in 'x', and node 0 2: expected as many"):
        load_graph(directed)
    directed.nodes[1]["x"] = "red"
    with pytest.raises(ValueError, match="node 1 has x='red': expected a number, or several"):
        load_graph(directed)
    del directed.nodes[1]["x"]
    with pytest.raises(ValueError, match="node 1 has no attribute 'x', and other nodes have one"):
        load_graph(directed)


def test_graphs_of_torch_geometric() -> None:
    data = pytest.importorskip("torch_geometric.data")
    graph = data.Data(
        x=FEATURES, edge_index=torch.tensor([[0], [1]]), edge_attr=torch.ones(1), y=torch.tensor([0, 1, 2])
    )
    graph.train_mask = torch.tensor([True, False, False])
    found = load_graph(graph)
    assert found.edge_features is not None and found.edge_features.shape == (1, 1)
    assert found.labels is not None and found.labels.tolist() == [0, 1, 2]
    assert found.parts is not None and list(found.parts) == ["train"]
    graph.y, graph.edge_weight = graph.y[:, None], torch.ones(1)
    with pytest.raises(ValueError, match="has edge_attr and edge_weight"):
        load_graph(graph)
    del graph.edge_attr
    found = load_graph(graph)
    assert found.edge_features is not None and found.labels is not None and found.labels.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="has no x: give its nodes features"):
        load_graph(data.Data(edge_index=graph.edge_index))
    with pytest.raises(ValueError, match=r"no edge_index: without edges it is torch\.empty"):
        load_graph(data.Data(x=FEATURES))


def test_an_edge_of_both_directions_is_one_line() -> None:
    both = Graph(FEATURES, torch.tensor([[0, 1, 1, 2, 2], [1, 0, 2, 1, 2]]), labels=[0, 1, -1])
    assert graph_html(both, "").count("<line") == 2
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    plot_graph(axes, both)
    lines, nodes = axes.collections
    assert len(lines.get_segments()) == 2 and len(nodes.get_offsets()) == 3
    assert axes.get_xlim()[0] < 0 and axes.get_xlim()[1] > 1


def test_a_graph_in_html() -> None:
    shown = graph_html(triangle(), "a <graph>")
    assert shown.count("<circle") == 3 and shown.count("<line") == 3 and "a &lt;graph&gt;" in shown
