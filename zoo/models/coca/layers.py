"""Layers of CoCa: the pooling of images by several queries, the text tower, and the block of the decoder."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.nn.attention import Attention
from zoo.nn.block import NO_CONTEXT, Block
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.init import STD, Initializer, trunc_normal_
from zoo.nn.kv_cache import LayerState
from zoo.nn.stack import Stack


class AttentionalPooler(nn.Module):
    """x [B, N, D] -> [B, Q, E]: learned queries attend to all tokens, both normalized before (Yu et al. 2022, 3.2)."""

    init_falls_with_width = ("queries",)

    def __init__(self, queries: int, config: BlockConfig, memory_width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(queries, config.width))
        self.attention = config.attend(0, 1, "softmax", cross=True, memory_width=memory_width)
        self.norm, self.memory_norm = config.make_norm(), config.make_norm(memory_width)

    def initialize(self, generator_for: Initializer) -> None:
        trunc_normal_(self.queries, self.queries.shape[1] ** -0.5, generator_for("queries"))

    def forward(self, x: Tensor) -> Tensor:
        queries = self.norm(self.queries.to(x.dtype)).expand(x.shape[0], -1, -1)
        pooled: Tensor = self.attention(queries, Context(), memory=self.memory_norm(x))
        return pooled


class CrossBlock(Block):
    """A pre-norm block, and behind its MLP cross-attention with an MLP of its own: what open_clip writes as two blocks.

    The memory is normalized by each block; while decoding its keys and values are computed once.
    """

    cross: Attention

    def __init__(
        self,
        mixer: nn.Module,
        mlps: tuple[nn.Module, nn.Module],
        norm: Callable[[], nn.Module],
        *,
        width: int,
        cross: Attention,
        memory_norm: nn.Module,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(mixer, mlps[0], norm, width=width, dropout=dropout, drop_path=drop_path)
        self.cross_norm, self.memory_norm, self.cross = norm(), memory_norm, cross
        self.norm3, self.cross_mlp = norm(), mlps[1]

    def forward(self, x: Tensor, context: Context = NO_CONTEXT, state: LayerState | None = None) -> Tensor:
        """x [B, N, D], context.memory [B, M, D'] -> [B, N, D]."""
        assert self.norm2 is not None and self.mlp is not None and self.cross_norm is not None
        h = self.norm1(x)
        y = self.mixer(h, context, state) if getattr(self.mixer, "packs", False) else self.mix_rows(h, context, state)
        x = x + self.branch(y, None, context.groups)
        x = x + self.branch(self.mlp(self.norm2(x)), None, context.groups)
        memory = context.memory
        assert memory is not None
        if state is None or state.memory is None:
            memory = self.memory_norm(memory)
        y = self.cross(self.cross_norm(x), context, state, memory)
        x = x + self.branch(y, None, context.groups)
        return x + self.branch(self.cross_mlp(self.norm3(x)), None, context.groups)


class TextTower(nn.Module):
    """The causal blocks over a text and the class token behind it; the features of the text are those of the class
    token."""

    def __init__(self, width: int, blocks: Stack, norm: nn.Module, features: int) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.empty(width))
        self.blocks, self.norm = blocks, norm
        self.proj = nn.Linear(width, features, bias=False)

    def initialize(self, generator_for: Initializer) -> None:
        trunc_normal_(self.cls, STD, generator_for("cls"))
