"""zoo.capture of models of graphs."""

import torch

import zoo
from zoo.models.example_batch import example_batch


@torch.no_grad()
def test_layers_of_gat_have_maps_of_their_edges():
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
