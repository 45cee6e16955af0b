"""BigBird's attention: blocks that see their neighbors, the first and the last block, and a few random ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from zoo.models.bigbird.random_blocks import random_blocks
from zoo.nn.core import CoreSpec
from zoo.nn.index_functions import Index
from zoo.nn.masks import NO_MASK, AnyMask, Mask, MaskView, as_mask
from zoo.nn.position_biases import AnyBias, Bias, BiasView, as_bias
from zoo.nn.sdpa import attend
from zoo.nn.softmax_attention import SoftmaxAttention
from zoo.nn.sparse.block_patterns import BlockLayout, Layout


@dataclass(frozen=True, eq=False)
class Blocks(Mask):
    """Blocks of `block` tokens see themselves, their neighbors, the first and the last block, which see all, and the
    blocks of `links`.

    last [B or 1]: the number of the last block of each row. links [S, H, blocks, count] and plan [B or 1], the number
    in S of each row: the random blocks, None for none. Rows of at most `full` blocks see all.
    """

    block: int
    full: int
    last: Tensor
    links: Tensor | None = None
    plan: Tensor | None = None

    @property
    def batch(self) -> int:  # type: ignore[override]
        return self.last.shape[0]

    @property
    def heads(self) -> int:  # type: ignore[override]
        return 1 if self.links is None else self.links.shape[1]

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        i, j = (torch.div(x, self.block, rounding_mode="floor") for x in (q, k))
        row = b if self.batch > 1 else b * 0
        last = self.last[row]
        seen = ((i - j).abs() <= 1) | (i == 0) | (j == 0) | (i == last) | (j == last) | (last < self.full)
        if self.links is not None and self.plan is not None:
            plan = self.plan[row]
            for link in range(self.links.shape[3]):
                seen = seen | (self.links[plan, h, i, i * 0 + link] == j)
        return seen


@dataclass(frozen=True, eq=False)
class RepeatedFirstBlock(Bias):
    """log(1 + count) for keys of the first block, which most blocks then see as if it stood there 1 + count times."""

    blocks: Blocks
    count: int
    dtype: torch.dtype

    @property
    def batch(self) -> int:  # type: ignore[override]
        return self.blocks.batch

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        i, last = (
            torch.div(q, self.blocks.block, rounding_mode="floor"),
            self.blocks.last[b if self.batch > 1 else b * 0],
        )
        repeated = (k < self.blocks.block) & (i > 0) & (i < last) & (last >= self.blocks.full)
        return repeated.to(self.dtype) * math.log(1 + self.count)


@lru_cache(maxsize=64)
def layouts(blocks: int, heads: int, layer: int, block: int, random: int, max_length: int) -> tuple[Layout, ...]:
    """`Blocks` of a text of `blocks` blocks, for each head."""
    i = np.arange(blocks)
    seen = np.abs(i[:, None] - i) <= 1
    for edge in (0, blocks - 1):
        seen[edge], seen[:, edge] = True, True
    links = random_blocks(blocks, heads, layer, block, random, max_length)
    found = np.repeat(seen[None], heads, 0)
    np.put_along_axis(found, links, True, 2)
    return tuple(tuple(map(tuple, table.tolist())) for table in found)


class BlockSparseAttention(SoftmaxAttention):
    """Attention over `Blocks`. A text of at most 5 + 2 * `random` blocks sees all of its tokens.

    random: blocks that each block sees at random, see `random_blocks`. always: whether it sees them in evaluation, too;
    else as in transformers, where the first block then counts once more for each of them. max_length: of the position
    table.
    """

    def __init__(self, spec: CoreSpec, block: int, random: int, max_length: int, always: bool = True) -> None:
        super().__init__(spec)
        self.block, self.random, self.max_length, self.always = block, random, max_length, always
        self.all_heads = spec.heads  # of the layer, of which this process may compute a part, or some were removed

    @property
    def full(self) -> int:
        """The number of blocks up to which a text sees all of its tokens."""
        return 5 + 2 * self.random

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        if self.is_alike(k, mask) and bias is None and (self.sees_random or self.random == 0):
            return self.by_head(q, k, v)
        blocks = self.seen_blocks(mask, k)
        bias = self.with_repeated(bias, mask, k)
        if isinstance(mask, MaskView) and blocks is not NO_MASK:  # a large table, which no other layer uses
            mask = replace(mask, cache={}, kernels={})
        return attend(q, k, v, mask, bias, self.scale, self.dropout, blocks)

    def is_alike(self, k: Tensor, mask: AnyMask) -> bool:
        """Whether all rows are of one length, for which the blocks are known on a CPU."""
        plain = mask is None or mask is NO_MASK or (isinstance(mask, MaskView) and mask.hides_nothing(1, k.shape[2]))
        few = -(-k.shape[2] // self.block) <= self.full
        return plain and not few and k.device.type == "cpu" and not torch.compiler.is_compiling()

    def by_head(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`forward` for rows of one length: each head by itself, by a mask of its own that holds no tensor."""
        shared = q.shape[1] // k.shape[1]
        outputs = []
        for head, layout in enumerate(self.layouts(-(-k.shape[2] // self.block))):
            own = head // shared
            q_head, k_head, v_head = q[:, head : head + 1], k[:, own : own + 1], v[:, own : own + 1]
            pattern = BlockLayout(self.block, layout)
            outputs.append(attend(q_head, k_head, v_head, None, None, self.scale, self.dropout, pattern))
        return torch.cat(outputs, 1)

    def layouts(self, blocks: int) -> tuple[Layout, ...]:
        """The layout of the blocks of each head."""
        spec = self.spec
        found = layouts(blocks, self.all_heads, spec.layer, self.block, self.random, self.max_length)
        return tuple(found[number] for number in self.numbers)

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of the heads among all of the layer, whose random blocks they have."""
        kept = self.spec.kept or range(self.all_heads)
        return kept[self.first_head : self.first_head + self.spec.heads]

    def weights(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        return super().weights(q, k, as_mask(mask) & self.seen_blocks(mask, k), self.with_repeated(bias, mask, k))

    @property
    def sees_random(self) -> bool:
        return self.random > 0 and (self.training or self.always)

    def seen_blocks(self, mask: AnyMask, k: Tensor) -> Mask:
        """The mask of keys k [B, G, M, P] by the lengths of the rows."""
        while isinstance(mask, Mask) and not isinstance(mask, MaskView) and hasattr(mask, "inner"):
            mask = mask.inner  # of a selection of rows, which is made of the values of all rows
        return self.blocks_of(mask.keep if isinstance(mask, Mask) else None, k, links=self.sees_random)

    def blocks_of(self, keep: Tensor | None, k: Tensor, *, links: bool) -> Mask:
        """The mask for rows with the real tokens keep [B, M]."""
        most = -(-k.shape[2] // self.block)
        if most <= self.full:
            return NO_MASK
        if keep is None:
            last, counts = torch.full((1,), most - 1, device=k.device), [most]
        else:
            last = torch.div(keep.sum(1) - 1, self.block, rounding_mode="floor").clamp(min=0)
            if torch.compiler.is_compiling():  # any number may come
                counts = [*range(1, most + 1)]
            else:
                counts = sorted({number + 1 for number in last.tolist()})
        if not links:
            return Blocks(self.block, self.full, last)
        spec = self.spec
        table = link_table(
            tuple(counts), self.full, most, self.all_heads, spec.layer, self.block, self.random, self.max_length
        )[:, list(self.numbers)]
        numbers = torch.tensor(counts, device=k.device)
        return Blocks(self.block, self.full, last, table.to(k.device), torch.searchsorted(numbers, last + 1))

    def with_repeated(self, bias: AnyBias, mask: AnyMask, k: Tensor) -> AnyBias:
        """The bias, with that of the first block in transformers' evaluation."""
        if self.random == 0 or self.sees_random:
            return bias
        mask = mask if isinstance(mask, Mask) else NO_MASK
        blocks = self.blocks_of(mask.keep, k, links=False)
        if not isinstance(blocks, Blocks):
            return bias
        own = BiasView(RepeatedFirstBlock(blocks, self.random, k.dtype), mask.q, getattr(mask, "k", None), None)
        other = as_bias(bias)
        return own if other is None else own + other


@torch.compiler.assume_constant_result
def link_table(
    counts: tuple[int, ...], full: int, most: int, heads: int, layer: int, block: int, random: int, max_length: int
) -> Tensor:
    """`random_blocks` of texts of these numbers of blocks [S, heads, most, random]; zeros up to `full` blocks."""
    table = np.zeros((len(counts), heads, most, random), dtype=np.int64)
    for row, count in zip(table, counts, strict=True):
        if count > full:
            row[:, :count] = random_blocks(count, heads, layer, block, random, max_length)
    return torch.from_numpy(table)
