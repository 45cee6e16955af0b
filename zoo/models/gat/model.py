"""Graph attention networks: GAT (Velickovic et al. 2018, https://arxiv.org/abs/1710.10903), GATv2 (Brody et al. 2022,
https://arxiv.org/abs/2105.14491) and the graph transformer of UniMP (Shi et al. 2021, https://arxiv.org/abs/2009.03509,
without its embedding of labels), which is torch_geometric's `TransformerConv`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.family import Family
from zoo.models.gat.layer import GraphAttention
from zoo.models.gat.mapping import TORCH_GEOMETRIC
from zoo.models.graph import GraphConfig, GraphModel, GraphPooling
from zoo.nn.context import Context
from zoo.nn.graphs.graph_mask import GraphMask
from zoo.nn.kv_cache import LayerState
from zoo.nn.mlp import activation
from zoo.nn.stack import Stack


@dataclass(frozen=True, kw_only=True)
class GATConfig(GraphConfig):
    """width: heads * head_dim, of the hidden states. depth: hidden layers; head="token" is one more layer of
    attention, whose heads are averaged. head_heads: its heads. attention: "gat", "gatv2" or any other kind; with
    edge_dim one of these two or "softmax".

    shared: whether queries are the keys, as in GAT; in GATv2 they have a projection of their own. value_proj: whether
    values have one; otherwise they are the keys. bias: whether layers add a bias; qkv_bias: whether the projections do
    (None: like bias, and not where they are shared). root_weight: whether each layer, that of the head too, adds a
    projection of its input; beta: whether a learned share weighs the two, for each node. residual: whether a hidden
    layer adds its input, by a projection where the widths differ. norm: "layer" for a layer norm before the activation
    `act` of a hidden layer. See GraphConfig for the other fields.
    """

    depth: int = 1
    heads: int = 8
    head_heads: int = 1
    attention: Any = "gat"
    shared: bool = True
    value_proj: bool = False
    bias: bool = True
    qkv_bias: bool | None = None
    root_weight: bool = False
    beta: bool = False
    residual: bool = False
    norm: Literal["layer"] | None = None
    norm_eps: float = 1e-5
    act: str = "elu"
    may_be_zero: ClassVar[tuple[str, ...]] = ("depth",)
    added_later: ClassVar[Mapping[str, Any]] = {
        **GraphConfig.added_later, "value_proj": False, "bias": True, "qkv_bias": None, "root_weight": False,
        "beta": False, "norm": None, "norm_eps": 1e-5, "act": "elu",
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head != "token" and not self.depth:
            raise ValueError(f"depth=0: expected at least 1 with head={self.head!r}, which has no layer of its own")
        if self.head_dim is None and self.width % self.heads:
            raise ValueError(f"width={self.width} is not divisible by heads={self.heads}: choose a divisor")
        if self.head_dim is not None and self.head_dim * self.heads != self.width:
            raise ValueError(f"width={self.width}: expected heads * head_dim = {self.heads * self.head_dim}")
        if self.beta and not self.root_weight:
            raise ValueError("beta=True weighs the projection of a layer's input: set root_weight=True, too")


class GATBlock(nn.Module):
    """The activation of a layer of attention, with dropout on its input, and with `residual` plus the input."""

    shifts_tokens = False

    def __init__(self, config: GATConfig, layer: int, width: int) -> None:
        super().__init__()
        c = config
        self.mixer, self.dropout, self.mlp = GraphAttention(c, layer, width), c.dropout, None
        self.skip: nn.Module | None = None
        if c.residual:
            self.skip = nn.Identity() if width == c.width else nn.Linear(width, c.width, bias=False)
        self.norm = None if c.norm is None else nn.LayerNorm(c.width, c.norm_eps)
        self.act = activation(c.act)

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        x = F.dropout(x, self.dropout, self.training)
        y = self.mixer(x, context, state)
        if self.skip is not None:
            y = y + self.skip(x)
        return self.act(y if self.norm is None else self.norm(y))


class NodeAttentionHead(nn.Module):
    """Scores [N, C] by a layer of attention whose heads are averaged."""

    def __init__(self, config: GATConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        width = config.width if config.depth else config.in_features
        self.mixer = GraphAttention(config, config.depth, width, head=True)

    def forward(self, x: Tensor, graph: GraphMask) -> Tensor:
        x = F.dropout(x, self.dropout, self.training)
        return self.mixer(x[None], Context(mask=graph))[0]


class GAT(GraphModel):
    """forward(node_features [N, F], edge_index [2, E], edge_features [E, D], graph_sizes [G]); see GraphModel."""

    def __init__(self, config: GATConfig) -> None:
        super().__init__(config)
        c = config
        widths = [c.in_features, *[c.width] * c.depth]
        blocks: Any = [GATBlock(c, layer, widths[layer]) for layer in range(c.depth)]
        self.blocks = Stack(blocks)
        self.head = self.make_head()

    @property
    def hops(self) -> int:
        return len(self.blocks) + (self.config.head == "token")  # the head is a layer of attention, too

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head == "token":
            return NodeAttentionHead(c)
        if c.head is None:
            return None
        return GraphPooling(c.pool, c.width, c.num_classes if c.head == "classify" else None, c.dropout)

    def embed(self, node_features: Tensor, graph: GraphMask) -> Tensor:
        return node_features

    def classify_nodes(self, x: Tensor, graph: GraphMask) -> Tensor:
        assert self.head is not None
        return self.head(x, graph)


VARIANTS: dict[str, dict[str, Any]] = {
    "gat_cora": dict(width=64, heads=8, in_features=1433, num_classes=7, dropout=0.6, attention_dropout=0.6),
    "gat_small": dict(width=64, heads=8, depth=2),
    "gatv2_small": dict(width=64, heads=8, depth=2, attention="gatv2", shared=False),
    "unimp_small": dict(
        width=64, heads=8, depth=2, head_heads=8, attention="softmax", shared=False, value_proj=True, root_weight=True,
        beta=True, norm="layer", act="relu", add_self_loops=False,
    ),
}  # fmt: skip

FAMILY = Family("gat", GAT, GATConfig, "graph", VARIANTS, {}, {"torch_geometric": TORCH_GEOMETRIC})
