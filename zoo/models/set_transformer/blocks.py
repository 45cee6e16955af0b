"""The blocks of the set transformer (Lee et al. 2019, section 3), of this library's block and attention.

All of them are a MAB, equations 6 and 7: H = norm(X + Multihead(X, Y, Y)), MAB(X, Y) = norm(H + rFF(H)). It is a block
of order "post" whose attention reads Y:

- SAB(X) = MAB(X, X): `blocks.N`, of self-attention (equation 8);
- ISAB(X) = MAB(X, MAB(I, X)) with learned induced points I: `blocks.N` with `InducedSetAttention`, whose part `induced`
  is the inner MAB (equations 9 and 10);
- PMA(Z) = MAB(S, rFF(Z)) with learned seeds S: `SeedPooling` (equation 11).
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.point_cloud import check_unordered
from zoo.nn.attention import Attention
from zoo.nn.block import Block
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.core import CoreSpec
from zoo.nn.init import Initializer, trunc_normal_
from zoo.nn.kv_cache import LayerState
from zoo.nn.masks import MaskView, PaddingMask
from zoo.nn.mlp import MLP, activation
from zoo.nn.registry import for_layer
from zoo.nn.stack import Stack


class RowwiseFeedForward(nn.Module):
    """act(up(x)): the feed-forward layer of the authors' code, one linear layer for each point."""

    def __init__(self, width: int, act: str) -> None:
        super().__init__()
        self.act_name, self.act = act, activation(act)
        self.up = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.up(x))

    def extra_repr(self) -> str:
        return f"act={self.act_name!r}"


class MemoryAttention(Attention):
    """A mixer: attention to `context.memory` instead of the tokens themselves."""

    divides_heads = False

    def forward(
        self, x: Tensor, context: Context, state: LayerState | None = None, memory: Tensor | None = None
    ) -> Tensor:
        """x [B, M, D], context.memory [B, N, D] -> [B, M, D]."""
        return super().forward(x, context, None, context.memory)


class InducedSetAttention(Attention):
    """A mixer: attention of the points to the M induced points, which attended to the points before (ISAB).

    It takes O(N M) time and memory instead of O(N^2). Padding is masked, not dropped.
    """

    packs = False
    masks_padding = True
    reads_bias = False
    divides_heads = False
    init_falls_with_width = ("points",)

    def __init__(self, width: int, spec: CoreSpec, induced: Block, count: int, **options: Any) -> None:
        super().__init__(width, spec, **options)
        self.points = nn.Parameter(torch.empty(count, width))
        self.induced = induced

    def initialize(self, generator_for: Initializer) -> None:
        trunc_normal_(self.points, self.points.shape[1] ** -0.5, generator_for("points"))

    def forward(
        self, x: Tensor, context: Context, state: LayerState | None = None, memory: Tensor | None = None
    ) -> Tensor:
        """x [B, N, D] -> [B, N, D]."""
        keep = context.mask.keep if isinstance(context.mask, MaskView) else None
        h = attend_to(self.induced, self.points, x, keep)
        return super().forward(x, context, None, h)


def attend_to(block: Block, points: Tensor, x: Tensor, keep: Tensor | None) -> Tensor:
    """MAB(points, x): learned points [M, D] attend to x [B, N, D], to where keep [B, N] is 1 or True -> [B, M, D]."""
    mask = None if keep is None else MaskView(PaddingMask(keep))
    rows = points.to(x.dtype).expand(x.shape[0], -1, -1)
    return block(rows, Context(memory=x, memory_mask=mask))


class SeedPooling(nn.Module):
    """The decoder: K seeds attend to the hidden states (PMA), then to each other (SABs): [B, N, D] -> [B, K * D].

    seeds: K. depth: number of SABs. pool: "concat" joins the outputs of the seeds, "mean" averages them -> [B, D].
    classes: with it, class scores [B, C].
    """

    init_falls_with_width = ("seeds",)

    def __init__(self, config: Any, classes: int | None = None) -> None:
        super().__init__()
        c = config
        self.mode = c.pool
        self.seeds = nn.Parameter(torch.empty(c.seeds, c.width))
        self.dense = RowwiseFeedForward(c.width, c.act)
        self.pooling = make_block(c, 0, 1, MemoryAttention, attention="softmax")
        self.blocks = Stack(
            make_block(c, i, c.decoder_depth, Attention, attention="softmax") for i in range(c.decoder_depth)
        )
        self.dropout = nn.Dropout(c.dropout)
        features = c.width * (c.seeds if c.pool == "concat" else 1)
        self.proj = None if classes is None else nn.Linear(features, classes)

    def initialize(self, generator_for: Initializer) -> None:
        trunc_normal_(self.seeds, self.seeds.shape[1] ** -0.5, generator_for("seeds"))

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """keep [B, N]: 1 or True for real points."""
        y = self.blocks(attend_to(self.pooling, self.seeds, self.dense(x), keep))
        assert isinstance(y, Tensor)
        y = y.flatten(1) if self.mode == "concat" else y.mean(1)
        return y if self.proj is None else self.proj(self.dropout(y))

    def extra_repr(self) -> str:
        return f"{len(self.seeds)} seeds, {self.mode!r}"


def make_block(
    config: Any, layer: int, depth: int, kind: type[Attention], *, attention: Any = None, **options: Any
) -> Block:
    """One MAB. attention: its kind, by default that of the layer in the config."""
    c, spec = config, BlockConfig.of(config)
    norm = partial(nn.LayerNorm, c.width, c.norm_eps) if c.layer_norm else nn.Identity
    mixer = kind(
        c.width,
        spec.core_spec(layer, depth),
        attention=for_layer(c.attention if attention is None else attention, layer, depth),
        **options,
    )
    mlp = RowwiseFeedForward(c.width, c.act) if c.mlp_dim is None else MLP(c.width, c.mlp_dim, c.act)
    return Block(
        mixer, mlp, norm, width=c.width, order="post", dropout=c.dropout,
        drop_path=c.drop_path * layer / max(depth - 1, 1),
    )  # fmt: skip


def encoder_block(config: Any, layer: int) -> Block:
    """Block `layer` of the encoder: a SAB, or with induced points an ISAB.

    Raises ValueError for mixers and attention kinds that read the order of the points.
    """
    c = config
    if c.induced_points is None:
        block = make_block(c, layer, c.depth, Attention)
    else:
        inner = make_block(c, layer, c.depth, MemoryAttention)
        block = make_block(c, layer, c.depth, InducedSetAttention, induced=inner, count=c.induced_points)
    check_unordered(block.mixer, for_layer(c.attention, layer, c.depth))
    return block
