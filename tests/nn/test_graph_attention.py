"""Attention over the edges of graphs: as the matrix of all pairs, and as torch_geometric's layers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.nn import GraphMask, TensorBias
from zoo.nn.core import CORES, CoreSpec
from zoo.nn.graphs.edges import SMALL
from zoo.nn.graphs.graph_mask import EdgeBias, EdgeInputs
from zoo.nn.init import initialize

NODES, KINDS = 70, ("softmax", "gat", "gatv2")


def graph(sparse: bool | None = None, self_loops: bool = False) -> GraphMask:
    """Some nodes have no edges; some edges and self-loops are there twice."""
    edges = torch.randint(0, NODES - 5, (2, 200), generator=torch.Generator().manual_seed(0))
    loops = torch.tensor([[3, 3], [3, 3]])
    return GraphMask(torch.cat([edges, edges[:, :20], loops], 1), NODES, self_loops=self_loops, sparse=sparse)


def core_of(kind: str) -> Any:
    core: Any = CORES[kind](CoreSpec(heads=4, kv_heads=2, head_dim=5)).double().eval()
    with torch.no_grad():
        for p in core.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(9)))
    return core


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 4), (2, 2), (2, 2))
    q, k, v = (torch.randn(*shape, NODES, 5, dtype=torch.float64, generator=generator) for shape in shapes)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_edges_alone_give_what_all_pairs_give(kind: str, with_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    core, found = core_of(kind), []
    for sparse, small in ((True, SMALL), (True, 0), (False, SMALL)):
        monkeypatch.setattr("zoo.nn.graphs.edges.SMALL", small)
        mask, parts = graph(sparse), inputs()
        values = torch.randn(len(mask.edges), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        values.requires_grad_()
        y = core(*parts, mask, EdgeBias(mask, values) if with_bias else None)
        y.mul(torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).double()).sum().backward()
        grads = [*parts, *core.parameters(), *([values] if with_bias else [])]
        found.append([y.detach(), *(p.grad.clone() for p in grads)])
        core.zero_grad()
    for ours, large, theirs in zip(*found, strict=True):
        assert (large - theirs).abs().max() <= 1e-12 * max(1.0, float(theirs.abs().max()))
        assert (ours - theirs).abs().max() <= 1e-12 * max(1.0, float(theirs.abs().max()))
    assert (found[0][0][:, :, NODES - 5 :] == 0).all()  # nodes without edges


def test_a_matrix_of_biases_is_read_at_the_edges() -> None:
    core, (q, k, v) = core_of("softmax"), inputs()
    bias = TensorBias(torch.randn(1, 4, NODES, NODES, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    assert (core(q, k, v, graph(True), bias) - core(q, k, v, graph(False), bias)).abs().max() <= 1e-12


def test_the_rule_and_its_override() -> None:
    ring = torch.stack([torch.arange(64), (torch.arange(64) + 1) % 64])
    assert GraphMask(ring, 64).sparse and not GraphMask(ring[:, :20], 63).sparse
    full = torch.cartesian_prod(torch.arange(64), torch.arange(64)).T
    assert not GraphMask(full, 64).sparse and GraphMask(full, 64, sparse=True).sparse


def test_a_graph_that_is_too_large_for_other_kinds_is_refused() -> None:
    nodes = 9000
    mask = GraphMask(torch.tensor([[0], [1]]), nodes)
    x = torch.randn(1, 1, nodes, 2)
    assert CORES["softmax"](CoreSpec(1, 1, 2))(x, x, x, mask).shape == x.shape
    with pytest.raises(ValueError, match=r"9,000 nodes.*use attention='softmax', 'gat' or 'gatv2'"):
        CORES["additive"](CoreSpec(1, 1, 2))(x, x, x, mask)


@pytest.mark.parametrize("edge_dim", [None, 3])
@pytest.mark.parametrize("version", ["gat", "gatv2"])
def test_layers_of_torch_geometric(version: str, edge_dim: int | None) -> None:
    conv: Any = pytest.importorskip("torch_geometric.nn")
    generator = torch.Generator().manual_seed(4)
    layer: Any = (conv.GATConv if version == "gat" else conv.GATv2Conv)(6, 5, heads=4, edge_dim=edge_dim).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    x = torch.randn(NODES, 6, dtype=torch.float64, generator=generator)
    edges = torch.unique(torch.randint(0, NODES, (2, 150), generator=generator), dim=1)
    attributes = (
        None if edge_dim is None else torch.randn(edges.shape[1], edge_dim, dtype=torch.float64, generator=generator)
    )
    theirs, (their_edges, their_weights) = layer(x, edges, attributes, return_attention_weights=True)

    def heads(y: Tensor) -> Tensor:
        return y.view(1, -1, 4, 5).transpose(1, 2)

    options = {"edges": edge_dim is not None} if version == "gat" else {}
    core: Any = CORES[version](CoreSpec(4, 4, 5), **options).double()
    own = {"source": "att_src", "target": "att_dst", "edge": "att_edge", "a": "att"}
    with torch.no_grad():
        for name, p in core.named_parameters():
            p.copy_(getattr(layer, own[name])[0])
    k = heads(layer.lin(x) if version == "gat" else layer.lin_l(x))
    q = k if version == "gat" else heads(layer.lin_r(x))
    mask = GraphMask(edges, NODES)
    keys = None if attributes is None else layer.lin_edge(mask.align(attributes)).view(-1, 4, 5)
    more = {} if keys is None else {"edge_inputs": EdgeInputs(mask, keys)}
    ours = core(q, k, k, mask, **more)
    assert (ours.transpose(1, 2).reshape(NODES, 20) + layer.bias - theirs).abs().max() <= 1e-10
    weights, order = core.weights_of_edges(q, k, mask, None, keys), (their_edges[1] * NODES + their_edges[0]).argsort()
    assert torch.equal(mask.edge_index, their_edges[:, order])
    assert (weights - their_weights[order]).abs().max() <= 1e-12
    assert (core.maps(q, k, mask, **more) @ k - ours).abs().max() <= 1e-12
    if more:
        with pytest.raises(ValueError, match="features of edges need their own graph of 70 nodes"):
            core(q, k, k, GraphMask(edges, NODES), **more)


def test_attention_over_edges_is_initialized_by_the_seed() -> None:
    cores = [CORES["gat"](CoreSpec(2, 2, 3)) for _ in range(2)]
    for core in cores:
        initialize(core, 5)
    assert torch.equal(cores[0].state_dict()["source"], cores[1].state_dict()["source"])
