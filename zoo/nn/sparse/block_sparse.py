"""Softmax attention on a CPU that computes only the blocks that a mask allows: windows, global and random keys, graphs.

Queries are split into tiles. Each attends, by torch's fused kernel, to those keys alone that one of its queries may
see, found from bounds of the mask (`mask_bounds.py`) and not from a table of all pairs. So time and memory grow
with what may be seen, forward and backward, and the results are those of the dense computation.

A window with every n-th key beside it has no small tiles: neighbors see the same window, but other keys far away. It is
cut into two masks without a pair in common, each with its tiles, and the outputs of a query in both are added with the
shares of their sums in the softmax.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.nn.masks import And, GlobalTokensMask, Mask, MaskView, Or, Strided, Window2D, Without
from zoo.nn.sparse.block_masks import is_constant, kept
from zoo.nn.sparse.block_pairs import block_pairs
from zoo.nn.sparse.block_patterns import WindowPartition
from zoo.nn.sparse.mask_bounds import Spans
from zoo.nn.sparse.token_positions import Index, as_index

QUERIES = (64, 128, 256)  # of a tile: fewer see fewer keys that they do not need, more take fewer calls
SIDE = 8  # of a tile of queries on a grid
KEYS = 32  # keys of a block whose bounds are tested at once; within blocks the mask decides
# Measured on one core: the rate of torch's kernel, what a tile costs beside its pairs, and how much longer the dense
# kernel takes with a table for its mask.
FLOPS, SECONDS_PER_TILE, TABLE = 68e9, 150e-6, 1.0
SECOND = 2.0  # how many tiles a tile costs whose outputs are added to others
PLAIN = 4.0  # how much longer plain operations take than torch's kernel
MAX_ENTRIES = 1 << 28  # of tables of all pairs: 1 GB in single precision
MIN_PAIRS = 512 * 512  # with fewer, a table takes less time than tiles


class Tile(NamedTuple):
    """Queries and the keys that they see: positions in a row, or in all rows (None). allowed: bool [queries, keys],
    None if all pairs are. fully_masked [queries, 1]: queries without keys, which see all of them instead and are set to
    zero afterwards; None if there are none."""

    row: int | None
    queries: Index
    keys: Index
    allowed: Tensor | None
    fully_masked: Tensor | None

    def rows_of(self, x: Tensor) -> Tensor:
        return x if self.row is None else x[self.row : self.row + 1]


@dataclass(frozen=True, eq=False)
class Tiles:
    """The tiles of an attention. Each query is in at most one of `tiles` and in at most one of `more`, whose pairs are
    others."""

    tiles: tuple[Tile, ...]
    more: tuple[Tile, ...] = ()

    @cached_property
    def gathers(self) -> bool:
        """Whether a tile has positions that do not follow each other."""
        return any(isinstance(part, Tensor) for tile in self.tiles + self.more for part in (tile.queries, tile.keys))

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors, each counted once."""
        parts = {id(part): part for tile in self.tiles + self.more for part in tile if isinstance(part, Tensor)}
        return sum(part.nbytes for part in parts.values())


@dataclass(frozen=True)
class Costs:
    """For each size of tiles: the size, the pairs of queries and keys that are computed, and the number of tiles."""

    sizes: tuple[tuple[int, int, int], ...]


class Candidate(NamedTuple):
    """A tile before the mask is evaluated: its queries, and the blocks of keys that may be seen, in order."""

    row: int | None
    queries: Tensor
    blocks: Tensor


def tiles_of(
    mask: Mask, queries: int, keys: int, flops: int, rows: int, *, plain: bool = False, tables: int = 0
) -> Tiles | None:
    """How to compute an attention in tiles; None where the dense computation is faster.

    flops: of a pair of a query and a key in all heads of one row; rows: of the batch. plain: whether it is computed in
    plain operations, densely or not. tables: of all pairs that the dense computation writes out: beyond MAX_ENTRIES in
    all, tiles are taken in any case. What does not depend on these is kept for later calls, for masks that hold no
    tensors.
    """
    if queries * keys < MIN_PAIRS or mask.heads > 1:
        return None
    if isinstance(mask, MaskView) and not mask.depends_on_batch:
        mask = mask.inner
    keep = kept if is_constant(mask) else lambda key, build: build()
    seconds = flops / (FLOPS / PLAIN if plain else FLOPS)  # of a pair
    limit = queries * keys * seconds * rows * TABLE
    masks, sizes = split(mask), list[int]()
    for part in masks:
        costs: Costs = keep(("costs of tiles", part, queries, keys), partial(costs_of, part, queries, keys))
        tile_seconds = SECONDS_PER_TILE * (PLAIN if plain else 1) * (1 if not sizes else SECOND)
        pair_seconds = seconds * (rows if part.batch == 1 else 1)
        cost, size = min((pairs * pair_seconds + number * tile_seconds, size) for size, pairs, number in costs.sizes)
        limit -= cost
        sizes.append(size)
    if limit <= 0 and tables * queries * keys <= MAX_ENTRIES:
        return None

    def build() -> Tiles:
        return Tiles(*(tuple(evaluate(part, queries, keys, size)) for part, size in zip(masks, sizes, strict=True)))

    tiles: Tiles = keep(("tiles", mask, queries, keys, *sizes), build)
    return tiles


def split(mask: Mask) -> list[Mask]:
    """One or two masks without a pair in common, which allow together what `mask` does: strided keys apart from others
    that a conjunction of masks joins to them by `|`."""
    inner = mask.inner if isinstance(mask, MaskView) else mask
    for part in conjuncts(inner):
        if isinstance(part, Or) and stride_of(part) == (1, 0):
            strided = [leaf for leaf in disjuncts(part) if isinstance(leaf, Strided)]
            others = [leaf for leaf in disjuncts(part) if not isinstance(leaf, Strided)]
            if len(strided) == 1 and others:
                other = others[0]
                for leaf in others[1:]:
                    other = Or(other, leaf)
                both = [exchange(inner, part, new) for new in (other, Without(strided[0], other))]
                return [replace(mask, inner=new, kernels={}) for new in both] if isinstance(mask, MaskView) else both
    return [mask]


def conjuncts(mask: Mask) -> list[Mask]:
    """Masks that allow all that `mask` allows: it is their conjunction, or less."""
    if isinstance(mask, Without):
        return conjuncts(mask.left)
    return [*conjuncts(mask.left), *conjuncts(mask.right)] if isinstance(mask, And) else [mask]


def disjuncts(mask: Mask) -> list[Mask]:
    """The masks of which `mask` is the disjunction."""
    return [*disjuncts(mask.left), *disjuncts(mask.right)] if isinstance(mask, Or) else [mask]


def exchange(mask: Mask, old: Mask, new: Mask) -> Mask:
    """A conjunction of masks with one of them replaced."""
    if mask is old:
        return new
    return And(exchange(mask.left, old, new), exchange(mask.right, old, new)) if isinstance(mask, And) else mask


def costs_of(mask: Mask, queries: int, keys: int) -> Costs:
    """Pairs and tiles for each size of tiles."""
    costs, (step, first) = [], stride_of(mask)
    for size in QUERIES if grid_of(mask) is None else (SIDE * SIDE,):
        found, pairs = candidates(mask, queries, keys, size), 0
        for row, q, blocks in found:
            keys_of_tile = len(blocks) * KEYS
            if step > 1:
                columns = len((positions(mask.q, row, q) % step).unique())
                keys_of_tile = keys_of_tile * columns // step + first
            pairs += max(len(q), 16) * keys_of_tile
        costs.append((size, pairs, len(found)))
    return Costs(tuple(costs))


def positions(of: Tensor | None, row: int | None, index: Tensor) -> Tensor:
    """The positions at an index: of [B or 1, N] in a row, or the index itself."""
    return index if of is None else of[row if row is not None and len(of) > 1 else 0, index]


def candidates(mask: Mask, queries: int, keys: int, size: int) -> list[Candidate]:
    """Tiles of `size` queries. Queries that see far more keys than others, such as global tokens, have their own."""
    order = tile_order(mask, queries)
    index = order.split(size)
    shift = 0 if mask.q is not None else keys - queries
    first = torch.arange(0, keys, KEYS)
    k = Spans(first[None], (first + KEYS - 1).clamp(max=keys - 1)[None])
    q = Spans(*(torch.stack([edge(part) + shift for part in index])[None] for edge in (torch.amin, torch.amax)))
    seen = blocks_seen(mask, q, k)
    limit = 2 * int(torch.tensor([len(blocks) for blocks in seen]).median()) + 4
    found = []
    for number, blocks in enumerate(seen):
        row, part = divmod(number, len(index))
        name = None if mask.batch == 1 else row
        if len(blocks) > limit:
            found += wide_apart(mask, Candidate(name, index[part], blocks), shift, k, limit)
        elif len(blocks):
            found.append(Candidate(name, index[part], blocks))
    return found


def blocks_seen(mask: Mask, q: Spans, k: Spans) -> tuple[Tensor, ...]:
    """The numbers of the blocks of keys that each block of queries may see, one row of the batch after the other."""
    count, across = q.first.shape[1], k.first.shape[1]
    pairs = block_pairs(mask, q, k)
    return (pairs % across).split((pairs // across).bincount(minlength=mask.batch * count).tolist())


def wide_apart(mask: Mask, tile: Candidate, shift: int, k: Spans, limit: int) -> list[Candidate]:
    """A tile that sees many blocks of keys as two: queries that see more than `limit` by themselves, and the others."""
    row, queries, _ = tile
    count, blocks = len(queries), k.first.shape[1]
    seen = blocks_seen(mask, Spans((queries + shift)[None], (queries + shift)[None]), k)
    seen = seen[(row or 0) * count :][:count]
    parts: tuple[list[int], list[int]] = ([], [])
    for i, own in enumerate(seen):
        parts[len(own) <= limit].append(i)
    found = []
    for part in parts:
        marked = torch.zeros(blocks, dtype=torch.bool)
        for i in part:
            marked[seen[i]] = True
        if part and marked.any():
            found.append(Candidate(row, queries[part], marked.nonzero().flatten()))
    return found


def stride_of(mask: Mask) -> tuple[int, int]:
    """(the distance of keys that a query sees, the number of first keys that it sees beside them), if one of the masks
    of a conjunction is strided, else (1, 0). The distance is that of the columns of an image, too."""
    found = [(1, 0)]
    for part in conjuncts(mask.inner if isinstance(mask, MaskView) else mask):
        if isinstance(part, Strided):
            found.append((part.step, 0))
        elif isinstance(part, Or) and isinstance(part.left, Strided) and isinstance(part.right, GlobalTokensMask):
            found.append((part.left.step, part.right.tokens))
    return max(found)


def grid_of(mask: Mask) -> Window2D | WindowPartition | None:
    """The windows on a grid in a mask."""
    grids = (leaf for leaf in mask.leaves() if isinstance(leaf, Window2D | WindowPartition) and leaf.grid is not None)
    return next(grids, None)


def tile_order(mask: Mask, queries: int) -> Tensor:
    """The queries in the order in which they are cut into tiles: those that see the same keys follow each other."""
    index, grid = torch.arange(queries), grid_of(mask)
    if grid is None or grid.grid is None:
        step, first = stride_of(mask)
        place = index if mask.q is None or len(mask.q) > 1 else mask.q[0]  # of documents in one row, each from 0
        return torch.where(place < first, -1, (place - first) % step).argsort(stable=True)
    columns, place = grid.grid[1], index - grid.prefix
    if isinstance(grid, WindowPartition):
        row, column = (window + 1 for window in grid.windows_of(index))
    else:
        row, column = torch.div(place, columns, rounding_mode="floor") // SIDE, place % columns // SIDE
    square = row * (columns + 1) + column
    square[: grid.prefix] = -1
    return square.argsort(stable=True)


def evaluate(mask: Mask, queries: int, keys: int, size: int) -> Iterator[Tile]:
    """The tiles, with the mask evaluated for their pairs; equal tables are one tensor."""
    on_cpu = mask.on_device(keys, "cpu")
    shift = 0 if mask.q is not None else keys - queries
    inside, zero = torch.arange(KEYS), torch.zeros(1, 1, 1, 1, dtype=torch.long)
    tables: dict[Any, Tensor] = {}
    for row, q, blocks in candidates(mask, queries, keys, size):
        k = (blocks[:, None] * KEYS + inside).flatten()
        k = in_step(mask, row, q + shift, k[k < keys])
        allowed = on_cpu(zero + (row or 0), zero, (q + shift).view(1, 1, -1, 1), k.view(1, 1, 1, -1))[0, 0]
        allowed = allowed.expand(len(q), len(k))
        used = allowed.any(0)
        if not used.any():
            continue
        if not used.all():
            k, allowed = k[used], allowed[:, used]
        fully_masked = ~allowed.any(1, keepdim=True)
        empty = fully_masked if fully_masked.any() else None
        allowed = allowed if empty is None else allowed | empty
        table = None
        if not allowed.all():
            allowed = allowed.contiguous()
            table = tables.setdefault((allowed.shape, allowed.numpy().tobytes()), allowed)
        yield Tile(row, as_index(q), as_index(k), table, empty)


def in_step(mask: Mask, row: int | None, q: Tensor, k: Tensor) -> Tensor:
    """Keys that queries may see by the distance of strided keys."""
    step, first = stride_of(mask)
    if step == 1:
        return k
    q, k_place = positions(mask.q, row, q), positions(mask.k if isinstance(mask, MaskView) else None, row, k)
    if bool((q < first).any()):
        return k
    seen = torch.zeros(step, dtype=torch.bool).index_fill_(0, q % step, True)
    return k[seen[k_place % step] | (k_place < first)]
