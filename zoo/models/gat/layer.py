"""A layer of GAT, GATv2 and UniMP: projections, attention to the neighbors, and the heads side by side or averaged."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from zoo.nn.attention import Attention
from zoo.nn.context import Context
from zoo.nn.core import CORES, Core, CoreSpec
from zoo.nn.graph_attention import SoftmaxEdgeAttention
from zoo.nn.graphs.graph_core import EdgeFeatureCore
from zoo.nn.graphs.graph_mask import EdgeInputs, GraphMask
from zoo.nn.init import Initializer
from zoo.nn.kv_cache import LayerState
from zoo.nn.masks import MaskView
from zoo.nn.registry import build_core, construct, for_layer, resolve
from zoo.nn.softmax_attention import SoftmaxAttention


class GraphAttention(Attention):
    """Layer number `layer` of a config, without its activation: x [1, N, D] -> [1, N, H * P].

    head: the last layer, whose heads are averaged, [1, N, C]. Queries are the keys where `config.shared`, and values
    the keys unless `config.value_proj`. Edge features are projected, and added to the keys and to values that are not
    the keys.
    """

    divides_heads = False  # `out` joins the heads, and does not sum over them

    def __init__(self, config: Any, layer: int, width: int, *, head: bool = False) -> None:
        nn.Module.__init__(self)  # it has no projection of the output, and may have none of queries and values
        c = config
        heads, dim = (c.head_heads, c.num_classes) if head else (c.heads, c.width // c.heads)
        spec = CoreSpec(heads, heads, dim, layer=layer, depth=c.depth + 1, dropout=c.attention_dropout)
        self.head_dim, self.gate, self.q_norm, self.k_norm = dim, None, None, None
        bias = c.bias and not c.shared if c.qkv_bias is None else c.qkv_bias
        self.k = nn.Linear(width, heads * dim, bias)
        self.q = None if c.shared else nn.Linear(width, heads * dim, bias)  # type: ignore[assignment]
        self.v = nn.Linear(width, heads * dim, bias) if c.value_proj else None  # type: ignore[assignment]
        self.edge = None if c.edge_dim is None else nn.Linear(c.edge_dim, heads * dim, bias=False)
        kind = for_layer(c.attention, layer, c.depth + 1)
        self.core = build_core(kind, spec) if c.edge_dim is None else core_of_edges(kind, spec)
        self.out = JoinHeads(spec, average=head, bias=c.bias and not c.root_weight)  # type: ignore[assignment]
        size = dim if head else heads * dim
        self.root = nn.Linear(width, size, c.bias) if c.root_weight else None
        self.beta = nn.Linear(3 * size, 1, bias=False) if c.beta else None

    def forward(
        self, x: Tensor, context: Context, state: LayerState | None = None, memory: Tensor | None = None
    ) -> Tensor:
        """context.mask: the graph, with features where there is `edge`."""
        y = super().forward(x, context, state) if self.edge is None else self.attend_with_features(x, context)
        if self.root is None:
            return y
        own = self.root(x)
        if self.beta is None:
            return y + own
        share = self.beta(torch.cat([y, own, y - own], -1)).sigmoid()
        return share * own + (1 - share) * y

    def attend_with_features(self, x: Tensor, context: Context) -> Tensor:
        """The output [1, N, H * P or C] of heads whose keys, and values, differ between edges."""
        graph = context.mask.inner if isinstance(context.mask, MaskView) else context.mask
        assert self.edge is not None and isinstance(graph, GraphMask) and graph.features is not None
        keys = self.edge(graph.features).unflatten(-1, (-1, self.head_dim))
        inputs = EdgeInputs(graph, keys, None if self.v is None else keys)
        y = self.core(*self.project_heads(x), context.mask, context.bias, edge_inputs=inputs)
        return self.out(y.transpose(1, 2).flatten(2))

    def project_heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """x [1, N, D] -> q, k, v [1, H, N, P]."""
        k = self.split(self.k(x))
        return k if self.q is None else self.split(self.q(x)), k, k if self.v is None else self.split(self.v(x))


def core_of_edges(kind: Any, spec: CoreSpec) -> Core:
    """The core of a layer whose edges have features. Raises ValueError for a kind that does not read them."""
    cls, options = resolve(kind, CORES)
    if cls is SoftmaxAttention:
        cls = SoftmaxEdgeAttention
    if not issubclass(cls, EdgeFeatureCore):
        raise ValueError(f"attention={kind!r} reads no features of edges: choose 'softmax', 'gat' or 'gatv2', or set "
                         "edge_dim=None")  # fmt: skip
    if "edges" in inspect.signature(cls).parameters:
        options["edges"] = True
    core: Core = construct(cls, options, spec, kind)
    return core


class JoinHeads(nn.Module):
    """The outputs of the heads side by side [1, N, H * P], or their mean [1, N, P], plus a bias."""

    def __init__(self, spec: CoreSpec, *, average: bool, bias: bool = True) -> None:
        super().__init__()
        self.heads, self.average = spec.heads, average
        size = spec.head_dim if average else spec.heads * spec.head_dim
        self.bias = nn.Parameter(torch.empty(size)) if bias else None

    def initialize(self, generator_for: Initializer) -> None:
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = x.unflatten(-1, (self.heads, -1)).mean(-2) if self.average else x
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{self.heads} heads, average={self.average}"
