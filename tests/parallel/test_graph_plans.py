"""Graphs in several processes: gradients of one process, and plans that are refused by name."""

import warnings
from typing import Any

import pytest
import torch
from plan_cases import part_of_this_rank
from ranks import ranks
from torch import Tensor
from torch.distributed.tensor import DTensor

import zoo
from zoo.parallel import Plan, batch_mesh, parallelize
from zoo.preprocessing.graph import Graph, batch_graphs

SIZES = (40, 50, 30, 60)  # of graphs that are large enough for attention over edges alone


def make(name: str, **options: Any) -> zoo.Model:
    sizes: dict[str, Any] = dict(in_features=5, num_classes=3, width=16, heads=4, depth=2, head="classify")
    return zoo.create_model(name, seed=0, **sizes | options).double()


MODELS: dict[str, dict[str, Any]] = {
    "gat_small": {},
    "gatv2_small": {"head": "token"},
    "graph_transformer_tiny": {"edge_dim": 2},
}
BY_EDGES = ("gat_small", "gatv2_small")


def graphs(edge_dim: int | None) -> list[Graph]:
    generator = torch.Generator().manual_seed(0)
    edges = [torch.randint(0, nodes, (2, 2 * nodes), generator=generator) for nodes in SIZES]
    return [Graph(torch.randn(nodes, 5, generator=generator), own,
                  None if edge_dim is None else torch.randn(2 * nodes, edge_dim, generator=generator))
            for nodes, own in zip(SIZES, edges, strict=True)]  # fmt: skip


def gradients(model: Any, items: list[Graph], nodes: slice = slice(None)) -> dict[str, Tensor]:
    """Of a mean over graphs, or over some nodes."""
    batch = {name: x.double() if x.is_floating_point() else x for name, x in batch_graphs(items).items()}
    model(**batch)[nodes].square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def differences(rank: int, plan: Plan, names: tuple[str, ...]) -> dict[str, float]:
    """{model: the largest difference of a gradient, relative to the largest of one process}."""
    warnings.simplefilter("ignore")
    mesh = plan.mesh("cpu")
    found: dict[str, float] = {}
    part = batch_mesh(mesh).get_local_rank()
    for name in names:
        options, items = MODELS[name], graphs(MODELS[name].get("edge_dim"))
        whole = gradients(make(name, **options), items)
        model, parts, nodes = make(name, **options), plan.batch_parts, slice(None)
        parallelize(model, plan, mesh, gather_output=True)
        if options.get("head") == "token":  # one graph, of which each process has the loss of some nodes
            count = sum(SIZES) // parts
            nodes = slice(part * count, (part + 1) * count)
        elif parts > 1:
            items = items[part::parts]
        gradients(model, items, nodes)
        largest = max(float(x.abs().max()) for x in whole.values())
        for key, value in model.named_parameters():
            if key in whole:
                assert value.grad is not None
                mine = value.grad._local_tensor if isinstance(value.grad, DTensor) else value.grad
                error = (mine - part_of_this_rank(whole[key], value)).abs()
                found[name] = max(found.get(name, 0.0), float(error.max() if error.numel() else 0.0) / largest)
    return found


@pytest.mark.parametrize(
    ("plan", "names"),
    [
        (Plan(data=2), tuple(MODELS)),
        (Plan(shard=2), tuple(MODELS)),
        (Plan(tensor=2, sequence=True), ("graph_transformer_tiny",)),
        (Plan(context=2), ("graph_transformer_tiny",)),
    ],
    ids=["copies", "shards", "heads and tokens", "context"],
)
def test_gradients_are_those_of_one_process(plan: Plan, names: tuple[str, ...]) -> None:
    for found in ranks(2, differences, plan, names):
        assert found.keys() == set(names) and all(error <= 1e-12 for error in found.values()), found


@pytest.mark.parametrize("name", MODELS)
def test_what_does_not_divide_graphs_is_refused_by_name(name: str) -> None:
    model = make(name, **MODELS[name])
    with pytest.raises(ValueError, match=r"computes all graphs of a batch as one, .*: use data= or shard="):
        Plan(pipeline=2, microbatches=2).check(model)
    if name in BY_EDGES:
        with pytest.raises(ValueError, match=r"blocks\.0\.mixer is a GraphAttention, whose heads .* not divide"):
            Plan(tensor=2).check(model)
        with pytest.raises(ValueError, match=r"blocks\.0 cannot divide .* it is a GATBlock.*use data= or shard="):
            Plan(context=2).check(model)
