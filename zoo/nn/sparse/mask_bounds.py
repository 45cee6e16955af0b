"""Where a mask may be True: for blocks of queries and keys, without evaluating the mask for each pair.

Attention in blocks (`block_sparse.py`) skips the blocks of which these bounds say that no pair is allowed. In the
others the mask itself decides, so a bound may be too wide, but never too narrow.
"""

from collections.abc import Callable
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.nn.global_tokens import GlobalKeys
from zoo.nn.graphs.graph_mask import GraphMask
from zoo.nn.index_functions import IndexFunction
from zoo.nn.masks import (
    And,
    Causal,
    DocumentMask,
    GlobalTokensMask,
    MaskView,
    Or,
    PaddingMask,
    Prefix,
    RandomBlocks,
    Strided,
    Window,
    Window2D,
    Without,
)
from zoo.nn.sparse.block_patterns import BlockLayout, CausalWindow2D, NeighborBlocks, WindowPartition, layout_tensor


class Spans(NamedTuple):
    """The first and the last position of each block, int64 [B or 1, blocks]. row: of a list of blocks [blocks, 1], the
    row of the batch of each, int64 [blocks]."""

    first: Tensor
    last: Tensor
    row: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Spans":
        """With a function of the first and the last positions, which does not fall."""
        return Spans(function(self.first), function(self.last), self.row)

    def of_row(self, row: int) -> "Spans":
        """The blocks of one row."""
        return self if len(self.first) == 1 else Spans(self.first[row : row + 1], self.last[row : row + 1])


@singledispatch
def may_allow(mask: IndexFunction, q: Spans, k: Spans) -> Tensor:
    """Bool [B or 1, blocks of queries, blocks of keys] that broadcasts: False where `mask` allows no pair of the two
    blocks. Masks without a bound of their own, such as those of users, may be True everywhere."""
    return torch.ones(1, 1, 1, dtype=torch.bool, device=q.first.device)


def differences(q: Spans, k: Spans) -> tuple[Tensor, Tensor]:
    """The smallest and the largest difference of a key and a query of each pair of blocks; all between them occur."""
    return k.first[:, None] - q.last[..., None], k.last[:, None] - q.first[..., None]


def has_multiple(low: Tensor, high: Tensor, step: int) -> Tensor:
    """Whether there is a multiple of `step` from low to high."""
    return torch.div(high, step, rounding_mode="floor") * step >= low


@may_allow.register
def _(mask: Causal, q: Spans, k: Spans) -> Tensor:
    return differences(q, k)[0] <= 0


@may_allow.register
def _(mask: Window, q: Spans, k: Spans) -> Tensor:
    low, high = differences(q, k)
    return (high >= -mask.left) & (low <= mask.right)


@may_allow.register
def _(mask: Window2D, q: Spans, k: Spans) -> Tensor:
    rows = (in_blocks(spans.map(lambda i: i - mask.prefix), mask.grid[1]) for spans in (q, k))
    low, high = differences(*rows)
    special = (q.first < mask.prefix)[..., None] | (k.first < mask.prefix)[:, None]
    return special | ((high >= -mask.rows) & (low <= mask.rows))


@may_allow.register
def _(mask: CausalWindow2D, q: Spans, k: Spans) -> Tensor:
    rows = (in_blocks(spans.map(lambda i: i - mask.prefix), mask.width) for spans in (q, k))
    low, high = differences(*rows)
    special = (q.first < mask.prefix)[..., None] | (k.first < mask.prefix)[:, None]
    return special | ((high >= -mask.rows) & (low <= 0))


@may_allow.register
def _(mask: WindowPartition, q: Spans, k: Spans) -> Tensor:
    special = (q.first < mask.prefix)[..., None] | (k.first < mask.prefix)[:, None]
    windows = [spans.map(lambda i: mask.windows_of(i)[0]) for spans in (q, k)]  # on a grid, of rows only
    low, high = differences(*windows)
    return special | ((low <= 0) & (high >= 0))


@may_allow.register
def _(mask: NeighborBlocks, q: Spans, k: Spans) -> Tensor:
    low, high = differences(*(in_blocks(spans, mask.block) for spans in (q, k)))
    return (low <= 1) & (high >= -1)


@may_allow.register
def _(mask: BlockLayout, q: Spans, k: Spans) -> Tensor:
    table = layout_tensor(mask.layout)
    last = len(table)  # positions after the last block: a row and a column of False
    i, j = (in_blocks(spans, mask.block).map(lambda x: x.clamp(max=last)) for spans in (q, k))
    return any_within(torch.nn.functional.pad(table, (0, 1, 0, 1)), i, j)


def in_blocks(spans: Spans, block: int) -> Spans:
    """Positions as numbers of their blocks."""
    return spans.map(lambda x: torch.div(x, block, rounding_mode="floor"))


@may_allow.register
def _(mask: Strided, q: Spans, k: Spans) -> Tensor:
    return has_multiple(*differences(q, k), mask.step)


@may_allow.register
def _(mask: GlobalTokensMask, q: Spans, k: Spans) -> Tensor:
    return (q.first < mask.tokens)[..., None] | (k.first < mask.tokens)[:, None]


@may_allow.register
def _(mask: GlobalKeys, q: Spans, k: Spans) -> Tensor:
    return any_real(mask.table, k)[:, None]


@may_allow.register
def _(mask: Prefix, q: Spans, k: Spans) -> Tensor:
    return (k.first < mask.length)[:, None]


@may_allow.register
def _(mask: RandomBlocks, q: Spans, k: Spans) -> Tensor:
    return linked_blocks(mask, q, k)


def any_within(table: Tensor, i: Spans, j: Spans) -> Tensor:
    """Whether a table [rows, columns] has a True from i.first to i.last and from j.first to j.last."""
    sums = torch.nn.functional.pad(table.cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32), (1, 0, 1, 0))
    top, bottom = i.first[..., None], i.last[..., None] + 1
    left, right = j.first[:, None], j.last[:, None] + 1
    return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left] > 0


@may_allow.register
def _(mask: PaddingMask, q: Spans, k: Spans) -> Tensor:
    return any_real(mask.keep, k)[:, None]


def any_real(keep: Tensor, k: Spans) -> Tensor:
    """Whether a key of each block is real: keep [B, M] -> [B, blocks]."""
    counts = torch.nn.functional.pad(keep.bool().cumsum(1), (1, 0))
    return at(counts, k.last + 1, k.row) > at(counts, k.first, k.row)


def at(values: Tensor, index: Tensor, row: Tensor | None = None) -> Tensor:
    """values [B or 1, N] at index [B or 1, blocks] of the same row, or of `row`."""
    if row is not None and len(values) > 1:
        return values[row[:, None], index]
    rows = max(len(values), len(index))
    return values.expand(rows, -1).gather(1, index.expand(rows, -1))


def at_spans(values: Tensor, spans: Spans) -> Spans | None:
    """The smallest and the largest of values [B or 1, N] in each block, if they grow with the position."""
    if bool((values.diff(dim=1) < 0).any()):
        return None
    return spans.map(lambda index: at(values, index, spans.row))


@may_allow.register
def _(mask: DocumentMask, q: Spans, k: Spans) -> Tensor:
    documents = [at_spans(mask.ids, spans) for spans in (q, k)]
    if documents[0] is None or documents[1] is None:
        return torch.ones(1, 1, 1, dtype=torch.bool, device=q.first.device)
    low, high = differences(documents[0], documents[1])
    return (low <= 0) & (high >= 0)


@may_allow.register
def _(mask: GraphMask, q: Spans, k: Spans) -> Tensor:
    return linked_blocks(mask, q, k)


def linked_blocks(mask: RandomBlocks | GraphMask, q: Spans, k: Spans) -> Tensor:
    """The `links` of a mask as a table; without a bound for a list of blocks."""
    rows = max(len(q.first), len(k.first))
    found = [None if q.row is not None else links(mask, q.of_row(row), k.of_row(row)) for row in range(rows)]
    table = torch.zeros(rows, q.first.shape[1], k.first.shape[1], dtype=torch.bool, device=q.first.device)
    for row, pairs in enumerate(found):
        table[(row, *pairs) if pairs is not None else row] = True
    return table


@singledispatch
def links(mask: IndexFunction, q: Spans, k: Spans) -> tuple[Tensor, Tensor] | None:
    """Of a mask that links some positions: the pairs of blocks of queries and of keys that are linked, in any order and
    some of them several times. Found from the links, in a time that grows with their number. None if the blocks are of
    several rows or not in order, and for masks of other kinds."""
    return None


@links.register
def _(mask: RandomBlocks, q: Spans, k: Spans) -> tuple[Tensor, Tensor] | None:
    if int(q.first.min()) < 0 or int(k.first.min()) < 0 or not in_order(k):
        return None
    i, j = in_blocks(q, mask.block), in_blocks(k, mask.block)
    blocks = torch.arange(1, int(torch.maximum(i.last.max(), j.last.max())) + 1, device=q.first.device)
    earlier = torch.cat([mask.earlier(blocks, link) for link in range(mask.count)])
    later = blocks.repeat(mask.count)
    source, order = torch.cat([later, earlier]).sort()
    target = torch.cat([earlier, later])[order]
    return spread(source, target, i, j)


@links.register
def _(mask: GraphMask, q: Spans, k: Spans) -> tuple[Tensor, Tensor] | None:
    if not in_order(k) or overlap(k):
        return None
    # edges are sorted by their target, the query: those of a block of queries follow each other
    target, source = torch.div(mask.codes, mask.nodes, rounding_mode="floor"), mask.codes % mask.nodes
    return spread(target, source, q, k)


def spread(source: Tensor, target: Tensor, q: Spans, k: Spans) -> tuple[Tensor, Tensor]:
    """The pairs of blocks in which links from `source`, which is sorted, to `target` begin and end."""
    start = torch.searchsorted(source, q.first[0].contiguous())
    block, link = ranges(start, torch.searchsorted(source, q.last[0].contiguous(), right=True))
    start = torch.searchsorted(k.last[0].contiguous(), target)  # the first block that ends after the target
    stop = torch.searchsorted(k.first[0].contiguous(), target, right=True)
    pair, column = ranges(start[link], stop[link])
    return block[pair], column


def ranges(start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers from start to stop - 1 of each pair, one after the other, and of which pair each is."""
    counts = (stop - start).clamp(min=0)
    pair = torch.repeat_interleave(counts)
    return pair, torch.arange(len(pair), device=pair.device) - (counts.cumsum(0) - counts)[pair] + start[pair]


def in_order(spans: Spans) -> bool:
    """Whether there is one row of blocks, each of which begins and ends no earlier than the one before."""
    return len(spans.first) == 1 and not bool(((spans.first.diff() < 0) | (spans.last.diff() < 0)).any())


def overlap(spans: Spans) -> bool:
    """Whether blocks have positions in common, or are not in order."""
    return bool((spans.first[:, 1:] <= spans.last[:, :-1]).any())


@may_allow.register
def _(mask: And, q: Spans, k: Spans) -> Tensor:
    return may_allow(mask.left, q, k) & may_allow(mask.right, q, k)


@may_allow.register
def _(mask: Or, q: Spans, k: Spans) -> Tensor:
    return may_allow(mask.left, q, k) | may_allow(mask.right, q, k)


@may_allow.register
def _(mask: Without, q: Spans, k: Spans) -> Tensor:
    return may_allow(mask.left, q, k)


@may_allow.register
def _(mask: MaskView, q: Spans, k: Spans) -> Tensor:
    places = [spans if x is None else at_spans(x, spans) for x, spans in ((mask.q, q), (mask.k, k))]
    allowed = torch.ones(1, 1, 1, dtype=torch.bool, device=q.first.device)
    if places[0] is not None and places[1] is not None:
        allowed = may_allow(mask.inner, places[0], places[1])
    return allowed if mask.keep is None else allowed & any_real(mask.keep, k)[:, None]
