"""Graph attention networks: GAT (Velickovic et al. 2018, https://arxiv.org/abs/1710.10903) and GATv2 (Brody et al.
2022, https://arxiv.org/abs/2105.14491)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.family import Family
from zoo.models.graph import GraphConfig, GraphModel, GraphPooling
from zoo.nn.attention import Attention
from zoo.nn.context import Context
from zoo.nn.core import CoreSpec
from zoo.nn.graph_mask import GraphMask
from zoo.nn.init import Initializer
from zoo.nn.kv_cache import LayerState
from zoo.nn.registry import build_core, for_layer
from zoo.nn.stack import Stack


@dataclass(frozen=True, kw_only=True)
class GATConfig(GraphConfig):
    """width: heads * head_dim, of the hidden states. depth: hidden layers; head="token" is one more layer of
    attention, whose heads are averaged. head_heads: its heads. attention: "gat", "gatv2" or any other kind. shared:
    whether queries, keys and values are one projection, as in GAT; in GATv2 queries have their own. residual: whether a
    hidden layer adds its input, by a projection where the widths differ. See GraphConfig for the other fields.
    """

    depth: int = 1
    heads: int = 8
    head_heads: int = 1
    attention: Any = "gat"
    shared: bool = True
    residual: bool = False
    takes_edge_features: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.edge_dim is not None:
            raise ValueError(f"edge_dim={self.edge_dim}: GAT takes no edge features here: use graph_transformer")
        if self.head_dim is None and self.width % self.heads:
            raise ValueError(f"width={self.width} is not divisible by heads={self.heads}: choose a divisor")
        if self.head_dim is not None and self.head_dim * self.heads != self.width:
            raise ValueError(f"width={self.width}: expected heads * head_dim = {self.heads * self.head_dim}")
        if self.head_heads < 1:
            raise ValueError(f"head_heads={self.head_heads}: expected at least 1")


class GraphAttention(Attention):
    """A layer of GAT without its activation: x [1, N, D] -> [1, N, H * P], or the mean of the heads [1, N, P].

    Values are the projected keys. shared: so are the queries.
    """

    divides_heads = False  # `out` joins the heads, and does not sum over them

    def __init__(self, width: int, spec: CoreSpec, attention: Any, *, shared: bool, average: bool = False) -> None:
        nn.Module.__init__(self)  # it has no projection of values, and `out` only joins the heads
        self.head_dim, self.gate, self.q_norm, self.k_norm = spec.head_dim, None, None, None
        inner = spec.heads * spec.head_dim
        self.k = nn.Linear(width, inner, bias=not shared)
        self.q = None if shared else nn.Linear(width, inner)  # type: ignore[assignment]
        self.core = build_core(attention, spec)
        self.out = JoinHeads(spec.heads, spec.head_dim, average)  # type: ignore[assignment]

    def project_heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """x [1, N, D] -> q, k, v [1, H, N, P]."""
        k = self.split(self.k(x))
        return k if self.q is None else self.split(self.q(x)), k, k


class JoinHeads(nn.Module):
    """The outputs of the heads side by side [1, N, H * P], or their mean [1, N, P], plus a bias."""

    def __init__(self, heads: int, head_dim: int, average: bool) -> None:
        super().__init__()
        self.heads, self.average = heads, average
        self.bias = nn.Parameter(torch.empty(head_dim if average else heads * head_dim))

    def initialize(self, generator_for: Initializer) -> None:
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return (x.unflatten(-1, (self.heads, -1)).mean(-2) if self.average else x) + self.bias

    def extra_repr(self) -> str:
        return f"{self.heads} heads, average={self.average}"


class GATBlock(nn.Module):
    """ELU of a layer of attention, with dropout on its input, and with `residual` plus the input."""

    shifts_tokens = False

    def __init__(self, width: int, mixer: GraphAttention, out: int, dropout: float, residual: bool) -> None:
        super().__init__()
        self.mixer, self.dropout, self.mlp = mixer, dropout, None
        self.skip: nn.Module | None = None
        if residual:
            self.skip = nn.Identity() if width == out else nn.Linear(width, out, bias=False)

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        x = F.dropout(x, self.dropout, self.training)
        y = self.mixer(x, context, state)
        return F.elu(y if self.skip is None else y + self.skip(x))


class NodeAttentionHead(nn.Module):
    """Scores [N, C] by a layer of attention whose heads are averaged."""

    def __init__(self, width: int, spec: CoreSpec, attention: Any, *, shared: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.mixer = GraphAttention(width, spec, attention, shared=shared, average=True)

    def forward(self, x: Tensor, graph: GraphMask) -> Tensor:
        x = F.dropout(x, self.dropout, self.training)
        return self.mixer(x[None], Context(mask=graph))[0]


class GAT(GraphModel):
    """forward(node_features [N, F], edge_index [2, E], graph_sizes [G]) -> output of the head; see GraphModel."""

    def __init__(self, config: GATConfig) -> None:
        super().__init__(config)
        c = config
        widths = [c.in_features, *[c.width] * c.depth]
        blocks: Any = [self.make_block(layer, widths[layer]) for layer in range(c.depth)]
        self.blocks = Stack(blocks)
        self.head = self.make_head()

    @property
    def hops(self) -> int:
        return len(self.blocks) + (self.config.head == "token")  # the head is a layer of attention, too

    def spec(self, layer: int, heads: int, head_dim: int) -> CoreSpec:
        c = self.config
        return CoreSpec(heads, heads, head_dim, layer=layer, depth=c.depth + 1, dropout=c.attention_dropout)

    def make_block(self, layer: int, width: int) -> GATBlock:
        c = self.config
        spec = self.spec(layer, c.heads, c.width // c.heads)
        mixer = GraphAttention(width, spec, for_layer(c.attention, layer, c.depth + 1), shared=c.shared)
        return GATBlock(width, mixer, c.width, c.dropout, c.residual)

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head == "token":
            spec = self.spec(c.depth, c.head_heads, c.num_classes)
            kind = for_layer(c.attention, c.depth, c.depth + 1)
            return NodeAttentionHead(c.width, spec, kind, shared=c.shared, dropout=c.dropout)
        if c.head is None:
            return None
        return GraphPooling(c.pool, c.width, c.num_classes if c.head == "classify" else None, c.dropout)

    def embed(self, node_features: Tensor, graph: GraphMask, edge_features: Tensor | None) -> Tensor:
        return node_features

    def classify_nodes(self, x: Tensor, graph: GraphMask) -> Tensor:
        assert self.head is not None
        return self.head(x, graph)


VARIANTS: dict[str, dict[str, Any]] = {
    "gat_cora": dict(width=64, heads=8, in_features=1433, num_classes=7, dropout=0.6, attention_dropout=0.6),
    "gat_small": dict(width=64, heads=8, depth=2),
    "gatv2_small": dict(width=64, heads=8, depth=2, attention="gatv2", shared=False),
}

FAMILY = Family("gat", GAT, GATConfig, "graph", VARIANTS)
