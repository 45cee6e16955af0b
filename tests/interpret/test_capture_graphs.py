"""zoo.capture of models of graphs: maps of all pairs, and weights of edges."""

from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.interpret.attention_maps import entropy
from zoo.interpret.edge_weights import EdgeWeights
from zoo.models.example_batch import example_batch

SMALL: dict[str, Any] = dict(in_features=5, num_classes=3, width=16, heads=4, depth=2)


@torch.no_grad()
def test_layers_of_gat_have_maps_of_their_edges() -> None:
    model = zoo.create_model("gat_small", seed=0).eval()
    batch = example_batch(model)
    with zoo.capture(model) as maps:
        model(**batch)
    assert list(maps) == ["blocks.0.mixer", "blocks.1.mixer", "head.mixer"]
    seen = torch.eye(16, dtype=torch.bool)
    seen[batch["edge_index"][1], batch["edge_index"][0]] = True
    for weights in maps.values():
        assert weights.shape[2:] == (16, 16) and torch.equal((weights != 0).all((0, 1)), seen)
        assert torch.allclose(weights.sum(-1), torch.ones(()))


def matrix(found: EdgeWeights, nodes: int) -> Tensor:
    """[1, H, N, N]."""
    pairs = torch.zeros(found.weights.shape[1], nodes, nodes, dtype=found.weights.dtype)
    pairs[:, found.edge_index[1], found.edge_index[0]] = found.weights.T
    return pairs[None]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gat_small", {}),
        ("gatv2_small", {}),
        ("gat_small", {"attention": "local"}),  # from the matrix of all pairs
        ("graph_transformer_tiny", {"edge_dim": 2}),
        ("graph_transformer_tiny", {"structure": "shortest_paths", "kv_heads": 2}),
    ],
)
@torch.no_grad()
def test_weights_of_edges_are_those_of_the_maps(name: str, options: dict[str, Any]) -> None:
    model = zoo.create_model(name, seed=0, **SMALL | options).double().eval()
    batch = {key: x.double() if x.is_floating_point() else x for key, x in example_batch(model).items()}
    choice: dict[str, Any] = {"layers": "blocks.*.mixer", "rows": 0, "heads": [-1, 1]}
    with (
        zoo.capture(model) as maps,
        zoo.capture(model, edges=True) as every,
        zoo.capture(model, edges=True, **choice) as some,
        zoo.capture(model, edges=True, reduce=lambda w: w.mean(1), **choice) as means,
    ):
        model(**batch)
    assert list(every) == list(maps) and list(means) == list(some) == ["blocks.0.mixer", "blocks.1.mixer"]
    for layer, (edge_index, weights) in every.items():
        assert torch.equal(edge_index, edge_index[:, (edge_index[1] * 16 + edge_index[0]).sort().indices])
        assert (matrix(every[layer], 16) - maps[layer]).abs().max() <= 1e-12
        assert (entropy(every[layer]) - entropy(maps[layer])).abs().max() <= 1e-12
        if layer in some:
            assert torch.equal(some[layer].weights, weights[:, [3, 1]])
            assert torch.equal(means[layer].weights, some[layer].weights.mean(1))
            assert torch.equal(means[layer].edge_index, edge_index)


@torch.no_grad()
def test_a_graph_of_100_000_nodes() -> None:
    nodes = 100_000
    model = zoo.create_model("gat_small", seed=0, **SMALL | {"depth": 1, "heads": 2}).eval()
    batch = {"node_features": torch.randn(nodes, 5), "edge_index": torch.randint(0, nodes, (2, 100_000))}
    with zoo.capture(model, reduce=lambda w: w.mean(1)) as maps:
        model(**batch)
    for edge_index, weights in maps.values():
        assert weights.shape == edge_index.shape[1:]
        sums = torch.zeros(nodes).index_add(0, edge_index[1], weights)
        assert (sums - 1).abs().max() <= 1e-5
    with pytest.raises(ValueError, match=r"100,000 nodes, too many for a map of all pairs: use .*edges=True"), \
            zoo.capture(model, edges=False):  # fmt: skip
        model(**batch)
    edit = zoo.ablate(0, what="attention")
    with (
        pytest.raises(ValueError, match="100,000 nodes, too many for a map of all pairs: edit its head outputs"),
        zoo.intervene(model, {"blocks.0.mixer": edit}),
    ):
        model(**batch)


@torch.no_grad()
def test_edits_of_maps_are_in_the_weights_of_edges() -> None:
    model = zoo.create_model("gat_small", seed=0, **SMALL).eval()
    with (
        zoo.intervene(model, {"blocks.0.mixer": zoo.ablate(1, by="mean", what="attention")}),
        zoo.capture(model, layers=0, edges=True) as maps,
    ):
        model(**example_batch(model))
    edge_index, weights = maps["blocks.0.mixer"]
    counts = torch.bincount(edge_index[1])[edge_index[1]]
    assert torch.allclose(weights[:, 1], 1 / counts) and not torch.allclose(weights[:, 0], 1 / counts)


@torch.no_grad()
def test_what_has_no_weights_of_edges_says_so() -> None:
    vit = zoo.create_model("vit_tiny_patch16_224", seed=0, depth=1, image_size=32)
    with pytest.raises(ValueError, match=r"edges=True: blocks\.0\.mixer does not attend along the edges of a graph"), \
            zoo.capture(vit, edges=True):  # fmt: skip
        vit(torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match="what='residual' has no weights of edges"), \
            zoo.capture(vit, "residual", edges=True):  # fmt: skip
        pass
    found = EdgeWeights(torch.zeros(2, 1, dtype=torch.long), torch.ones(1, 1))
    with pytest.raises(ValueError, match="rollout multiplies maps of all pairs"):
        zoo.rollout([found])
    with pytest.raises(ValueError, match="plot_graph_attention"):
        zoo.plot_attention(None, {"blocks.0.mixer": found})
