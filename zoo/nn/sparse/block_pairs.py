"""Which blocks of queries may see which blocks of keys, as a list of pairs: a table of all blocks would be quadratic.

Large blocks are tested first, and the blocks within those alone of which a bound (`mask_bounds.py`) allows a pair.
Masks that link positions far from each other, random blocks and graphs, list the blocks of their links.
"""

import torch
from torch import Tensor

from zoo.nn.graphs.graph_mask import GraphMask
from zoo.nn.masks import And, Mask, MaskView, Or, PaddingMask, RandomBlocks, Without
from zoo.nn.sparse.mask_bounds import Spans, at_spans, links, may_allow

FACTOR = 8  # blocks of each side that are tested as one, and again so many of those
FIRST = 1 << 12  # pairs that are tested without testing larger blocks before
AT_ONCE = 1 << 18  # pairs that are tested at once


class Pairs:
    """The pairs of blocks of `rows` rows as numbers: (row * blocks of queries + block of queries) * blocks of keys +
    block of keys, so sorted ones are in the order of a table."""

    def __init__(self, q: Spans, k: Spans, rows: int) -> None:
        self.q, self.k, self.rows = q, k, rows
        self.down, self.across = q.first.shape[1], k.first.shape[1]

    def __len__(self) -> int:
        return self.rows * self.down * self.across

    def split(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, blocks of queries and blocks of keys."""
        block = codes // self.across
        return block // self.down, block % self.down, codes % self.across

    def join(self, row: Tensor | int, i: Tensor, j: Tensor) -> Tensor:
        return (row * self.down + i) * self.across + j

    def allowed(self, codes: Tensor, masks: tuple[Mask, ...]) -> Tensor:
        """Those of which the bounds of all masks allow a pair of positions."""
        for mask in masks:
            row, i, j = self.split(codes)
            q, k = listed(self.q, row, i), listed(self.k, row, j)
            codes = codes[may_allow(mask, q, k).expand(len(codes), 1, 1).flatten()]
        return codes

    def coarser(self) -> "Pairs":
        """With `FACTOR` blocks of each side as one."""
        return Pairs(merged(self.q), merged(self.k), self.rows)

    def within(self, codes: Tensor, coarse: "Pairs") -> Tensor:
        """The pairs of blocks within those of `coarser`."""
        row, i, j = (x[:, None, None] for x in coarse.split(codes))
        inside = torch.arange(FACTOR)
        i, j = i * FACTOR + inside[:, None], j * FACTOR + inside
        return self.join(row, i, j)[(i < self.down) & (j < self.across)]


def listed(spans: Spans, row: Tensor, index: Tensor) -> Spans:
    """The blocks at an index [blocks] of their row."""
    rows = row if len(spans.first) > 1 else torch.zeros_like(row)
    return Spans(spans.first[rows, index][:, None], spans.last[rows, index][:, None], row)


def merged(spans: Spans) -> Spans:
    """`FACTOR` blocks as one."""
    count = spans.first.shape[1]
    index = torch.arange(-(-count // FACTOR) * FACTOR).clamp(max=count - 1).view(-1, FACTOR)
    return Spans(spans.first[:, index].amin(2), spans.last[:, index].amax(2))


def block_pairs(mask: Mask, q: Spans, k: Spans) -> Tensor:
    """The pairs of blocks that `may_allow` marks, as sorted numbers (`Pairs`) of `mask.batch` rows.

    In a time that grows with their number, for masks that have bounds. q, k: of positions on the CPU.
    """
    return find(mask, Pairs(q, k, mask.batch)).unique()


def find(mask: Mask, pairs: Pairs, also: tuple[Mask, ...] = ()) -> Tensor:
    """The pairs of blocks that `mask` and the masks `also` may allow, in any order."""
    if not has_links(mask):
        return search(pairs, (mask, *also))
    if isinstance(mask, Or):
        return torch.cat([find(part, pairs, also) for part in (mask.left, mask.right)])
    if isinstance(mask, And):
        if has_links(mask.left) and has_links(mask.right):
            left, right = (find(part, pairs, also) for part in (mask.left, mask.right))
            return left[torch.isin(left, right)]
        linked, other = (mask.left, mask.right) if has_links(mask.left) else (mask.right, mask.left)
        return find(linked, pairs, (other, *also))
    if isinstance(mask, Without):
        return find(mask.left, pairs, also)
    if isinstance(mask, MaskView) and isinstance(mask.inner, And | Or | Without):
        parts = (MaskView(part, mask.q, mask.k) for part in (mask.inner.left, mask.inner.right))
        return find(type(mask.inner)(*parts), pairs, also + padding_of(mask))
    return find_links(mask, pairs, also)


def find_links(mask: Mask, pairs: Pairs, also: tuple[Mask, ...]) -> Tensor:
    """`find` of a mask that links positions, or of a view of one."""
    sides: list[Spans | None] = [pairs.q, pairs.k]
    inner = mask
    if isinstance(mask, MaskView):
        inner, also = mask.inner, also + padding_of(mask)
        sides = [s if x is None else at_spans(x, s) for x, s in ((mask.q, pairs.q), (mask.k, pairs.k))]
    found = []
    for row in range(pairs.rows):
        own = [side and side.of_row(row) for side in sides]
        linked = links(inner, own[0], own[1]) if own[0] is not None and own[1] is not None else None
        if linked is None:
            return search(pairs, also)
        found.append(pairs.join(row, *linked).unique())
    return pairs.allowed(torch.cat(found), also)


def has_links(mask: Mask) -> bool:
    """Whether a part of the mask lists its links."""
    return any(isinstance(leaf, RandomBlocks | GraphMask) for leaf in mask.leaves())


def padding_of(mask: MaskView) -> tuple[Mask, ...]:
    return () if mask.keep is None else (PaddingMask(mask.keep),)


def search(pairs: Pairs, masks: tuple[Mask, ...]) -> Tensor:
    """The pairs of blocks that the bounds of all masks allow: large blocks first."""
    levels = [pairs]
    while len(levels[-1]) > FIRST and max(levels[-1].down, levels[-1].across) > 1:
        levels.append(levels[-1].coarser())
    codes = levels[-1].allowed(torch.arange(len(levels[-1])), masks)
    for coarse, fine in zip(levels[:0:-1], levels[-2::-1], strict=True):
        parts = codes.split(AT_ONCE // FACTOR**2)
        codes = torch.cat([fine.allowed(fine.within(part, coarse), masks) for part in parts])
    return codes
