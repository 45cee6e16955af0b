"""Plots of attention on graphs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from plot_checks import check_texts

import zoo
from zoo.interpret.plot_graph import along, edge_attention, plot_graph_attention, received
from zoo.preprocessing.graph import GraphProcessor

NAMES = ("ann", "bob", "cy", "dan", "eve")


@pytest.fixture(scope="module")
def model() -> Any:
    made = zoo.create_model("gat_small", seed=0, in_features=4, num_classes=2, depth=1).eval()
    made.preprocess = GraphProcessor(in_features=4)
    return made


@pytest.fixture(scope="module")
def graph() -> zoo.Graph:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    return zoo.Graph(x, torch.tensor([[0, 1, 1, 2, 3, 3], [1, 0, 2, 3, 2, 3]]), names=NAMES)


def test_what_nodes_receive_and_what_goes_along_edges(model: Any, graph: zoo.Graph) -> None:
    batch = model.preprocess(graph)
    with zoo.capture(model) as maps, torch.no_grad():
        model(**batch)
    whole = torch.stack([maps[name].mean(1)[0] for name in ("blocks.0.mixer", "head.mixer")]).mean(0)
    found = edge_attention(model, batch)
    assert torch.allclose(received(found, 5), whole.sum(0) - whole.diag(), atol=1e-6)
    expected = [(whole[1, 0] + whole[0, 1]) / 2, whole[2, 1], (whole[3, 2] + whole[2, 3]) / 2]
    assert torch.allclose(along(found, torch.tensor([[0, 1, 2], [1, 2, 3]]), 5), torch.stack(expected), atol=1e-6)
    one = edge_attention(model, batch, layer="blocks.0.mixer", head=1)
    assert torch.allclose(one.weights, maps["blocks.0.mixer"][0, 1][one.edge_index[1], one.edge_index[0]], atol=1e-6)


def test_the_plot_has_the_nodes_around_one(model: Any, graph: zoo.Graph, tmp_path: Path) -> None:
    figure = plot_graph_attention(model, graph, around="cy", nodes=3, head=0, path=tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    texts = check_texts(figure)
    assert {"cy", "bob", "dan", "mean of all layers, head 0", "attention from other nodes"} <= set(texts)
    assert not {"ann", "eve"} & set(texts)
    with pytest.raises(ValueError, match="around='zoe': expected the name or the number of a node, such as 'ann'"):
        plot_graph_attention(model, graph, around="zoe")
    with pytest.raises(ValueError, match=r"no attention layer is named 'blocks\.1\.mixer'"):
        plot_graph_attention(model, graph, layer="blocks.1.mixer")
    with pytest.raises(ValueError, match="ViT does not take graphs"):
        edge_attention(zoo.create_model("vit_tiny_patch16_224", depth=1), {})
