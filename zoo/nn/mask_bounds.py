"""Where a mask may be True: for blocks of queries and keys, without evaluating the mask for each pair.

Attention in blocks (`zoo.nn.block_sparse`) skips the blocks of which these bounds say that no pair is allowed. In the
others the mask itself decides, so a bound may be too wide, but never too narrow.
"""

from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.nn.block_patterns import BlockLayout, CausalWindow2D, NeighborBlocks, WindowPartition, layout_tensor
from zoo.nn.global_tokens import GlobalKeys
from zoo.nn.graph_mask import GraphMask
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


class Spans(NamedTuple):
    """The first and the last position of each block, int64 [B or 1, blocks]."""

    first: Tensor
    last: Tensor


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
    rows = (in_blocks(Spans(*(i - mask.prefix for i in spans)), mask.grid[1]) for spans in (q, k))
    low, high = differences(*rows)
    special = (q.first < mask.prefix)[..., None] | (k.first < mask.prefix)[:, None]
    return special | ((high >= -mask.rows) & (low <= mask.rows))


@may_allow.register
def _(mask: CausalWindow2D, q: Spans, k: Spans) -> Tensor:
    rows = (in_blocks(Spans(*(i - mask.prefix for i in spans)), mask.width) for spans in (q, k))
    low, high = differences(*rows)
    special = (q.first < mask.prefix)[..., None] | (k.first < mask.prefix)[:, None]
    return special | ((high >= -mask.rows) & (low <= 0))


@may_allow.register
def _(mask: WindowPartition, q: Spans, k: Spans) -> Tensor:
    special = (q.first < mask.prefix)[..., None] | (k.first < mask.prefix)[:, None]
    windows = [Spans(*(mask.windows_of(i)[0] for i in spans)) for spans in (q, k)]  # on a grid, of rows only
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
    i, j = (Spans(*(x.clamp(max=last) for x in in_blocks(spans, mask.block))) for spans in (q, k))
    return any_within(torch.nn.functional.pad(table, (0, 1, 0, 1)), i, j)


def in_blocks(spans: Spans, block: int) -> Spans:
    """Positions as numbers of their blocks."""
    return Spans(*(torch.div(x, block, rounding_mode="floor") for x in spans))


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
    blocks = torch.arange(int(torch.maximum(q.last.max(), k.last.max())) // mask.block + 1, device=q.first.device)
    linked = torch.zeros(len(blocks), len(blocks), dtype=torch.bool, device=blocks.device)
    for link in range(mask.count):
        earlier = mask.earlier(blocks, link)
        linked[blocks[1:], earlier[1:]] = True
    return any_within(linked | linked.mT, in_blocks(q, mask.block), in_blocks(k, mask.block))


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
    return at(counts, k.last + 1) > at(counts, k.first)


def at(values: Tensor, index: Tensor) -> Tensor:
    """values [B or 1, N] at index [B or 1, blocks] of the same row."""
    rows = max(len(values), len(index))
    return values.expand(rows, -1).gather(1, index.expand(rows, -1))


def at_spans(values: Tensor, spans: Spans) -> Spans | None:
    """The smallest and the largest of values [B or 1, N] in each block, if they grow with the position."""
    if bool((values.diff(dim=1) < 0).any()):
        return None
    return Spans(at(values, spans.first), at(values, spans.last))


@may_allow.register
def _(mask: DocumentMask, q: Spans, k: Spans) -> Tensor:
    documents = [at_spans(mask.ids, spans) for spans in (q, k)]
    if documents[0] is None or documents[1] is None:
        return torch.ones(1, 1, 1, dtype=torch.bool, device=q.first.device)
    low, high = differences(documents[0], documents[1])
    return (low <= 0) & (high >= 0)


@may_allow.register
def _(mask: GraphMask, q: Spans, k: Spans) -> Tensor:
    if len(q.first) > 1 or len(k.first) > 1 or overlap(k):
        return torch.ones(1, 1, 1, dtype=torch.bool, device=q.first.device)
    # edges are sorted by their target, the query: those of a block of queries follow each other
    target, source = torch.div(mask.codes, mask.nodes, rounding_mode="floor"), mask.codes % mask.nodes
    start, stop = torch.searchsorted(target, q.first[0]), torch.searchsorted(target, q.last[0], right=True)
    counts = stop - start
    block = torch.repeat_interleave(counts)
    edge = torch.arange(len(block), device=block.device) - (counts.cumsum(0) - counts)[block] + start[block]
    found = torch.zeros(1, len(start), k.first.shape[1], dtype=torch.bool, device=block.device)
    column = torch.searchsorted(k.last[0].contiguous(), source[edge]).clamp(max=found.shape[2] - 1)
    found[0, block, column] = True
    return found


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
