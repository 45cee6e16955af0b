"""The contract of models of graphs, whose batch is one graph of all nodes and has no rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import close
from torch import Tensor

import zoo
from zoo.models.example_batch import example_batch
from zoo.models.graph_transformer.shortest_paths import all_pairs
from zoo.models.registry import families, family

FAMILIES = [f.name for f in families() if f.modality == "graph"]
KINDS = ("softmax", "gat", "gatv2", "additive", "local")
SMALL = dict(in_features=5, num_classes=3, width=16, heads=4, depth=2, dropout=0.0, attention_dropout=0.0)


def small(name: str, **options: Any) -> zoo.Model:
    own = family(name)
    reads_edges = name == "graph_transformer" or options.get("attention", "gat") in ("softmax", "gat", "gatv2")
    more = {"edge_dim": 3} if reads_edges else {}
    return zoo.create_model(next(iter(own.variants)), seed=0, **SMALL | more | options).eval()


def graded(model: zoo.Model, batch: dict[str, Tensor], run: Callable[..., Tensor] | None = None) -> list[Tensor]:
    model.zero_grad()
    y = (run or model)(**batch)
    y.mul(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)).sum().backward()
    missing = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing
    return [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def permuted(batch: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    """The batch with its nodes in another order, and its edges in the reverse one."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    found = batch | {"node_features": batch["node_features"][order], "edge_index": place[batch["edge_index"]].flip(1)}
    return found | ({"edge_features": batch["edge_features"].flip(0)} if "edge_features" in batch else {})


def alone(batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """One graph of the batch of two with eight nodes each."""
    own = batch["edge_index"][0] // 8 == number
    found = {"node_features": batch["node_features"][8 * number : 8 * number + 8],
             "edge_index": batch["edge_index"][:, own] - 8 * number}  # fmt: skip
    return found | ({"edge_features": batch["edge_features"][own]} if "edge_features" in batch else {})


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_and_a_graph_does_not_depend_on_its_batch(name: str, kind: str) -> None:
    model = small(name, attention=kind)
    batch = example_batch(model)
    graded(model, batch)
    with torch.no_grad():
        y = model(**batch)
        for number in (0, 1):
            close(model(**alone(batch, number)), y[8 * number : 8 * number + 8])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("head", ["token", "classify", "pool", None])
def test_heads_and_another_order_of_the_nodes(name: str, head: str | None) -> None:
    model = small(name, head=head).double()
    batch = example_batch(model)
    batch = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    order = torch.cat([torch.randperm(8, generator=torch.Generator().manual_seed(2)), 8 + torch.arange(8)])
    y, other = model(**batch), model(**permuted(batch, order))
    per_node = head in ("token", None)
    assert y.shape == ((16 if per_node else 2), {"token": 3, "classify": 3, "pool": 16, None: 16}[head])
    assert (other - (y[order] if per_node else y)).abs().max() <= 1e-12


@pytest.mark.parametrize("name", FAMILIES)
def test_saves_loads_and_checkpoints(name: str, tmp_path: Path) -> None:
    model = small(name)
    batch = example_batch(model)
    kept = graded(model, batch)
    model.set_checkpointing(True)
    for a, b in zip(graded(model, batch), kept, strict=True):
        close(a, b)
    model.set_checkpointing(False)
    loaded = zoo.load(zoo.save(model, tmp_path / "model"))
    assert loaded.config == model.config and not loaded.load_report.initialized
    assert loaded.preprocess is None or loaded.preprocess.in_features == 5
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch), model(**batch))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.full
def test_compiled_models_leave_their_graph_for_the_edges(name: str) -> None:
    model = small(name, edge_dim=None).double()
    batch = {"node_features": torch.randn(70, 5, dtype=torch.float64), "edge_index": torch.randint(0, 70, (2, 90))}
    kept = graded(model, batch)
    for a, b in zip(graded(model, batch, torch.compile(model, backend="eager").__call__), kept, strict=True):
        assert (a - b).abs().max() <= 1e-12
    torch._dynamo.reset()
    with pytest.raises(Exception, match=r"edges of a graph are sorted .* without fullgraph=True"):
        torch.compile(model, backend="eager", fullgraph=True)(**batch)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_layers_and_nodes_without_edges(name: str) -> None:
    model = small(name, head=None)
    batch = example_batch(model)
    last, (low, high) = model.encode(**batch, layers=[0, -1])
    assert torch.equal(last, model(**batch)) and low.shape == high.shape == last.shape
    bare = {"node_features": batch["node_features"]}
    y = model(**bare)
    none = {"edge_index": batch["edge_index"][:, :0], "edge_features": batch["edge_features"][:0]}
    assert y.isfinite().all() and torch.equal(model(**bare, **none), y)
    graphs = [zoo.Graph(batch["node_features"], []), zoo.Graph(batch["node_features"][:2], [[0], [1]], [[1.0, 2, 3]])]
    close(model(**model.default_preprocess()(graphs))[:16], y)


@torch.no_grad()
def test_a_node_without_edges_and_self_loops_has_its_own_projection_alone() -> None:
    model = small("gat", add_self_loops=False, root_weight=True, act="tanh")
    batch = example_batch(model)
    root = model.blocks[0].mixer.root
    x = batch["node_features"]
    _, (first,) = model.encode(x, layers=[0])
    close(first, root(x).tanh())
    with pytest.raises(ValueError, match=r"beta=True weighs .* set root_weight=True"):
        small("gat", beta=True)


@pytest.mark.parametrize("kind", ["gat", "gatv2", "softmax"])
@torch.no_grad()
def test_captured_maps_have_the_features_of_the_edges(kind: str) -> None:
    model = small("gat", attention=kind, value_proj=kind == "softmax").double()
    batch = {name: x.double() if x.is_floating_point() else x for name, x in example_batch(model).items()}
    found = []
    for scale in (1, 2):
        with zoo.capture(model) as maps:
            model(**batch | {"edge_features": scale * batch["edge_features"]})
        found.append(maps["blocks.0.mixer"])
        assert found[-1].shape == (1, 4, 16, 16) and (found[-1].sum(-1) - 1).abs().max() <= 1e-12
    assert (found[0] - found[1]).abs().max() > 1e-3
    with zoo.capture(model, layers="blocks.0*", rows=[0], heads=[2]) as some:
        model(**batch)
    close(some["blocks.0.mixer"], found[0][:, 2:3])
    with zoo.capture(model, edges=True) as listed:
        model(**batch)
    (source, target), weights = listed["blocks.0.mixer"]
    close(weights, found[0][0, :, target, source].T)
    if kind == "softmax":
        edit = {"blocks.0.mixer": zoo.ablate(what="attention", heads=[1])}
        with pytest.raises(ValueError, match="adds edge features to the values"), zoo.intervene(model, edit):
            model(**batch)


def test_kinds_that_read_no_features_of_edges_are_named() -> None:
    with pytest.raises(ValueError, match="attention='additive' reads no features of edges: choose 'softmax'"):
        small("gat", attention="additive", edge_dim=3)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"node_features": torch.zeros(16, 4)}, r"node_features is \[16, 4\]: expected \[N, 5\]"),
        ({"edge_index": torch.tensor([[0], [16]])}, "expected node numbers 0 to 15"),
        ({"edge_index": torch.tensor([[0.0], [1.0]])}, "expected integers"),
        ({"graph_sizes": torch.tensor([8, 9])}, "whose sum is 16"),
        ({"graph_sizes": torch.tensor([8.0, 8.0])}, "expected integers"),
        ({"graph_sizes": torch.tensor([7, 9])}, "edge 6 goes from node 6 of graph 0 to node 7 of graph 1"),
    ],
)
def test_bad_input(name: str, change: dict[str, Tensor], message: str) -> None:
    model = small(name, head="classify", edge_dim=None)
    with pytest.raises(ValueError, match=message):
        model(**example_batch(model) | change)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_graphs_are_pooled_by_the_mean_or_the_sum(name: str) -> None:
    models = [small(name, head="pool", pool=pool) for pool in ("mean", "sum")]
    mean, total = (model(**example_batch(model)) for model in models)
    close(total, 8 * mean)


def test_residual_layers_of_gat_add_their_input() -> None:
    """By a projection in the first layer, whose input has another width."""
    plain, residual = small("gat", head=None), small("gat", head=None, residual=True)
    assert [type(block.skip) for block in residual.blocks] == [torch.nn.Linear, torch.nn.Identity]
    batch = example_batch(residual)
    graded(residual, batch)
    for block in residual.blocks:
        block.skip = torch.nn.Module()
        block.skip.forward = lambda x: 0.0
    with torch.no_grad():
        assert torch.equal(residual(**batch), plain(**batch))


@pytest.mark.parametrize("name", FAMILIES)
def test_edge_features_that_are_missing_or_too_many(name: str) -> None:
    model = small(name)
    batch = example_batch(model)
    with pytest.raises(ValueError, match=r"edge_features is missing: expected \[E, 3\]"):
        model(batch["node_features"], batch["edge_index"])
    with pytest.raises(ValueError, match="was made without: set edge_dim=3"):
        small(name, edge_dim=None)(**batch)


def test_shortest_paths() -> None:
    """Of a directed path of five nodes and of two nodes without an edge, beside those of networkx."""
    import networkx

    path = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    pairs, distances = all_pairs(path, torch.tensor([5, 2]), longest=3)
    graph = networkx.DiGraph(path.T.tolist())
    graph.add_nodes_from(range(7))
    lengths = dict(networkx.all_pairs_shortest_path_length(graph))
    assert pairs.shape == (2, 29)
    for (source, target), distance in zip(pairs.T.tolist(), distances.tolist(), strict=True):
        assert distance == min(lengths[source].get(target, 9), 4)
    with pytest.raises(ValueError, match="shortest paths between all pairs of 1 graphs with up to 5,000 nodes"):
        all_pairs(path, torch.tensor([5000]), longest=3)


@pytest.mark.parametrize("edge_dim", [None, 3])
def test_attention_to_all_nodes_with_a_bias_of_the_shortest_paths(edge_dim: int | None) -> None:
    model = small("graph_transformer", structure="shortest_paths", max_distance=2, edge_dim=edge_dim)
    batch = example_batch(model)
    graded(model, batch)
    with torch.no_grad():
        y = model(**batch)
        for number in (0, 1):
            close(model(**alone(batch, number)), y[8 * number : 8 * number + 8])
        moved = batch | {"node_features": batch["node_features"].clone()}
        moved["node_features"][4] += 1  # four edges from node 0, which sees it in the first layer
        first = [model.encode(**each, layers=[0])[1][0][0] for each in (batch, moved)]
    assert not torch.allclose(*first)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("head", ["token", None])
def test_hops_are_how_far_a_node_looks(name: str, head: str | None) -> None:
    path = torch.stack([torch.arange(9), torch.arange(1, 10)])  # each node attends to the one before it
    for edge_dim in (None, 2):
        model = small(name, head=head, edge_dim=edge_dim)
        inputs = [torch.randn(10, 5, requires_grad=True)]
        inputs += [torch.randn(9, edge_dim, requires_grad=True)] if edge_dim else []
        model(inputs[0], path, *inputs[1:])[-1, 0].backward()
        farthest = [len(x) - int((x.grad != 0).any(1).nonzero()[0]) for x in inputs]  # type: ignore[union-attr]
        assert max(farthest[0] - 1, *farthest[1:], 0) == model.hops, (edge_dim, farthest)
    if name == "graph_transformer":
        assert small(name, structure="shortest_paths").hops is None
