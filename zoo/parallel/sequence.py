"""Sequence parallelism: within a stack the processes of tensor parallelism divide the tokens between attentions and
MLPs (Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198).

Norms, residuals and dropout are computed for a part of the tokens [B, n, D]. An attention or MLP gathers the tokens,
and of the sum of its results each process gets its part. Where the tokens cannot be divided evenly (packed rows have
any number of them), zeros are added behind them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist

from zoo.nn.block import NO_CONTEXT, Block, drop_path_scale
from zoo.nn.context import Context
from zoo.nn.gated_cross import GatedCrossAttention
from zoo.nn.kv_cache import LayerState, StackState
from zoo.nn.padding import Groups
from zoo.nn.stack import Stack
from zoo.parallel.collectives import join, join_and_enter, leave_and_split, pad_tokens, split
from zoo.parallel.head_parts import own_random_numbers


@dataclass(frozen=True)
class DividedContext(Context):
    """A context of blocks that compute with a part of the tokens.

    row_tokens: tokens of a row before padding is left out. whole_after: numbers of the blocks whose outputs are those
    of all tokens.
    """

    row_tokens: int = 0
    whole_after: frozenset[int] = frozenset()


class Region:
    """Modules that compute with a part of the tokens, of `count` processes. active: whether they do so now: not while
    decoding, when there are few tokens."""

    def __init__(self, count: int) -> None:
        self.count, self.active = count, False

    def tokens(self, context: Context) -> int:
        """Number of all tokens of a row."""
        assert isinstance(context, DividedContext)
        return context.row_tokens if context.groups is None else len(context.groups.index)

    def padded(self, tokens: int) -> int:
        """Number of all tokens with those that are added. Each part has another number of tokens than the whole, which
        is how blocks know it."""
        return self.count * max(-(-tokens // self.count), 2 if tokens == 1 else 1)

    def split(self, x: Tensor, tokens: int, group: dist.ProcessGroup) -> Tensor:
        """The part of this process of all tokens [B, N, D], unless it is a part already."""
        return split(pad_tokens(x, self.padded(tokens)), group) if x.shape[1] == tokens else x

    def join(self, x: Tensor, tokens: int, group: dist.ProcessGroup) -> Tensor:
        """All tokens."""
        return join(x, group)[:, :tokens]

    def enter(self, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        """All tokens, and those that are added, for a module that the processes divide."""
        return join_and_enter(x, group)

    def leave(self, y: Tensor, group: dist.ProcessGroup) -> Tensor:
        """The part of this process of the sum of the results of such a module."""
        return leave_and_split(pad_tokens(y, self.padded(y.shape[1])), group)


class SequenceStack(Stack):
    """A stack whose blocks compute with a part of the tokens."""

    region: Region

    def forward(
        self, x: Tensor, context: Context | None = None, *, state: StackState | None = None,
        layers: Sequence[int] | None = None, **more: Any,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:  # fmt: skip
        """As Stack."""
        self.region.active = state is None
        if state is None:
            own = context or Context()
            values = {field.name: getattr(own, field.name) for field in fields(Context)}
            whole = frozenset(range(self.depth)[i] for i in (*(layers or ()), self.depth - 1))
            context = DividedContext(**values, row_tokens=x.shape[1], whole_after=whole)
        return super().forward(x, context, state=state, layers=layers, **more)


class SequenceBlock(Block):
    """A block that computes with a part of the tokens."""

    region: Region
    number: int
    tensor_group: dist.ProcessGroup

    def forward(self, x: Tensor, context: Context = NO_CONTEXT, state: LayerState | None = None) -> Tensor:
        """As Block, of all tokens or a part of them [B, n, D] -> a part, or all where the stack needs them."""
        if not self.region.active:
            return super().forward(x, context, state)
        assert isinstance(context, DividedContext)
        tokens, group = self.region.tokens(context), self.tensor_group
        y = super().forward(self.region.split(x, tokens, group), context, state)
        return self.region.join(y, tokens, group) if self.number in context.whole_after else y

    def branch(self, y: Tensor, scale: nn.Module | None, groups: Groups | None) -> Tensor:
        """As Block: processes drop out different values, and skip the same branches."""
        if not self.region.active:
            return super().branch(y, scale, groups)
        if scale is not None:
            y = scale(y)
        if self.training and self.dropout:
            with own_random_numbers(self.tensor_group, y.device):
                y = F.dropout(y, self.dropout)
        if self.training and self.drop_path:
            factor = drop_path_scale(y, self.drop_path, groups)
            if groups is not None:
                factor = self.region.split(factor, len(groups.index), self.tensor_group)
            y = y * factor
        return y


class SequenceGatedCross(GatedCrossAttention):
    """Gated cross-attention that computes with a part of the tokens."""

    region: Region
    tensor_group: dist.ProcessGroup

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """As GatedCrossAttention, of all tokens or a part of them [B, n, D] -> a part."""
        self.region.active = isinstance(context, DividedContext)
        if not self.region.active:
            return super().forward(x, context, state)
        return super().forward(self.region.split(x, self.region.tokens(context), self.tensor_group), context, state)

    def drop(self, x: Tensor) -> Tensor:
        """As GatedCrossAttention: processes drop out different values."""
        if not (self.region.active and self.training and self.dropout):
            return super().drop(x)
        with own_random_numbers(self.tensor_group, x.device):
            return super().drop(x)
