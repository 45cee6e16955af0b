"""Attention over the edges of a graph: a training step of one layer, against torch_geometric's.

    python benchmarks/graph_attention.py [nodes=100000] [edges=1000000] [width=64] [heads=8] [rounds=5]
        [kinds=gat,gatv2]

A random graph with self-loops, float32, one thread: forward and backward of GATConv and GATv2Conv of torch_geometric
and of our layers with the same weights, interleaved. The outputs are compared first. A step of ours begins with the
edge list, which it sorts. Then the peak of memory of a step above what was there before it.
"""

from collections.abc import Callable

import torch
from _measure import options, paired, peak_bytes, record
from torch import Tensor, nn

from zoo.models.gat.layer import GraphAttention
from zoo.models.gat.model import GATConfig
from zoo.nn import Context, GraphMask, initialize


def peer_and_ours(kind: str, width: int, heads: int) -> tuple[nn.Module, GraphAttention]:
    """A layer of torch_geometric, and ours with its weights."""
    from torch_geometric.nn import GATConv, GATv2Conv

    torch.manual_seed(0)
    peer = (GATConv if kind == "gat" else GATv2Conv)(width, width // heads, heads=heads)
    ours = GraphAttention(GATConfig(width=width, heads=heads, attention=kind, shared=kind == "gat"), 0, width)
    initialize(ours, 0)
    weights = peer.state_dict()
    with torch.no_grad():
        assert ours.out.bias is not None
        ours.out.bias.copy_(weights["bias"])
        if kind == "gat":
            ours.k.weight.copy_(weights["lin.weight"])
            ours.core.source.copy_(weights["att_src"][0])
            ours.core.target.copy_(weights["att_dst"][0])
        else:
            ours.k.load_state_dict({"weight": weights["lin_l.weight"], "bias": weights["lin_l.bias"]})
            assert ours.q is not None
            ours.q.load_state_dict({"weight": weights["lin_r.weight"], "bias": weights["lin_r.bias"]})
            ours.core.a.copy_(weights["att"][0])
    return peer, ours


def step_of(layer: nn.Module, forward: Callable[[], Tensor], x: Tensor) -> Callable[[], object]:
    leaves = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(forward().square().sum(), leaves)


def main() -> None:
    smoke = dict(nodes=500, edges=3000, width=16, heads=2, rounds=1)
    o = options(smoke, nodes=100_000, edges=1_000_000, width=64, heads=8, rounds=5, kinds="gat,gatv2")
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(o.nodes, (2, o.edges), generator=generator)
    edges = torch.unique(edges[:, edges[0] != edges[1]], dim=1)  # torch_geometric counts an edge that is there twice
    edges = edges[:, torch.randperm(edges.shape[1], generator=generator)]
    x = torch.randn(o.nodes, o.width, generator=generator).requires_grad_()
    for kind in o.kinds.split(","):
        peer, ours = peer_and_ours(kind, o.width, o.heads)

        def run_ours(ours: GraphAttention = ours) -> Tensor:
            y: Tensor = ours(x[None], Context(mask=GraphMask(edges, o.nodes, sparse=True)))[0]
            return y

        def run_peer(peer: nn.Module = peer) -> Tensor:
            y: Tensor = peer(x, edges)
            return y

        with torch.no_grad():
            difference = (run_ours() - run_peer()).abs().max().item()
        title = f"{kind}, {o.nodes:,} nodes, {o.edges:,} edges, width {o.width}, {o.heads} heads, training step"
        print(f"{kind}: the outputs differ by {difference:.1e} at most")
        calls = {"torch_geometric": step_of(peer, run_peer, x), "zoo": step_of(ours, run_ours, x)}
        paired(calls, rounds=o.rounds, title=title)
        peaks = {name: float(peak_bytes(call)) for name, call in calls.items()}
        print(
            "\npeak of memory of a step: "
            + ", ".join(f"{name} {bytes / 2**20:,.0f} MB" for name, bytes in peaks.items())
        )
        record(f"{title}, peak bytes", peaks)


if __name__ == "__main__":
    main()
