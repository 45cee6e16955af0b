"""Softmax attention on a CPU that computes only the blocks that a mask allows: windows, global and random keys, graphs.

Queries are split into tiles. Each attends, by torch's fused kernel, to those keys alone that one of its queries may
see, found from bounds of the mask (`zoo.nn.mask_bounds`) and not from a table of all pairs. So time and memory grow
with what may be seen, forward and backward, and the results are those of the dense computation.

A window with every n-th key beside it has no small tiles: neighbors see the same window, but other keys far away. It is
cut into two masks without a pair in common, each with its tiles, and the outputs of a query in both are added with the
shares of their sums in the softmax.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.nn.block_masks import is_constant, kept
from zoo.nn.block_patterns import WindowPartition
from zoo.nn.mask_bounds import Spans, may_allow
from zoo.nn.masks import And, GlobalTokensMask, Mask, MaskView, Or, Strided, Window2D, Without
from zoo.nn.token_positions import Index, add, as_index, get, put, token_rows

QUERIES = (64, 128, 256)  # of a tile: fewer see fewer keys that they do not need, more take fewer calls
SIDE = 8  # of a tile of queries on a grid
KEYS = 32  # keys of a block whose bounds are tested at once; within blocks the mask decides
# Measured on one core: the rate of torch's kernel, what a tile costs beside its pairs, and how much longer the dense
# kernel takes with a table for its mask.
FLOPS, SECONDS_PER_TILE, TABLE = 68e9, 150e-6, 1.0
SECOND = 2.0  # how many tiles a tile costs whose outputs are added to others
NOTHING = -1e30  # the logarithm of a sum of no keys, from which others can be subtracted
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
    """A tile before the mask is evaluated: its queries, and whether each block of keys may be seen."""

    row: int | None
    queries: Tensor
    blocks: Tensor


def tiles_of(mask: Mask, queries: int, keys: int, flops: int, rows: int) -> Tiles | None:
    """How to compute an attention in tiles; None where the dense computation is faster.

    flops: of a pair of a query and a key in all heads of one row; rows: of the batch. What does not depend on them is
    kept for later calls, for masks that hold no tensors.
    """
    if queries * keys < MIN_PAIRS or mask.heads > 1:
        return None
    if isinstance(mask, MaskView) and not mask.depends_on_batch:
        mask = mask.inner
    keep = kept if is_constant(mask) else lambda key, build: build()
    seconds = flops / FLOPS  # of a pair
    limit = queries * keys * seconds * rows * TABLE
    masks, sizes = split(mask), list[int]()
    for part in masks:
        costs: Costs = keep(("costs of tiles", part, queries, keys), partial(costs_of, part, queries, keys))
        tile_seconds = SECONDS_PER_TILE * (1 if not sizes else SECOND)
        pair_seconds = seconds * (rows if part.batch == 1 else 1)
        cost, size = min((pairs * pair_seconds + number * tile_seconds, size) for size, pairs, number in costs.sizes)
        limit -= cost
        sizes.append(size)
    if limit <= 0:
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
            keys_of_tile = int(blocks.sum()) * KEYS
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
    allowed = may_allow(mask, q, k).expand(mask.batch, len(index), len(first))
    counts = allowed.sum(-1)
    limit = 2 * int(counts.median()) + 4
    found = []
    for row, row_counts in enumerate(counts.tolist()):
        name = None if mask.batch == 1 else row
        for i, count in enumerate(row_counts):
            if count > limit:
                single = Spans((index[i] + shift)[None], (index[i] + shift)[None])
                each = may_allow(mask, single, k).expand(mask.batch, len(index[i]), len(first))[row]
                wide = each.sum(-1) > limit
                parts = [(index[i][chosen], each[chosen].any(0)) for chosen in (wide, ~wide)]
                found += [Candidate(name, part, blocks) for part, blocks in parts if len(part) and blocks.any()]
            elif count:
                found.append(Candidate(name, index[i], allowed[row, i]))
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
        k = (blocks.nonzero() * KEYS + inside).flatten()
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


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, tiles: Tiles, scale: float) -> Tensor:
    """Softmax attention in tiles: q [B, H, N, P], k and v [B, G, M, P] -> [B, H, N, P], zeros for queries that see no
    key. Gradients are those of first order, as of torch's kernel."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    if tiles.gathers:
        q, k, v = (token_rows(x) for x in (q, k, v))
    y: Tensor = TiledAttention.apply(q, k, v, tiles, scale)[0]
    return y


class TiledAttention(torch.autograd.Function):
    """Computes the tiles one after the other. The backward pass takes the operation that torch's kernel has for it."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, tiles: Tiles, scale: float) -> tuple[Tensor, Tensor]:
        """Returns the output and the logarithm of the softmax's sums [B, H, N]."""
        y, sums = zeros_like(q), zeros_like(q[..., 0], torch.promote_types(q.dtype, torch.float32)) + NOTHING
        tables: dict[int, Tensor] = {}
        for i, tile in enumerate(tiles.tiles + tiles.more):
            q_tile, k_tile, v_tile = inputs_of(tile, q, k, v)
            out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q_tile, k_tile, v_tile, attn_mask=table_of(tile, q_tile, tables), scale=scale
            )
            out, lse = (unfold(x, q.shape[1]) for x in (out, lse))
            if tile.fully_masked is not None:
                hidden = tile.fully_masked.to(out.device)
                out, lse = out.masked_fill(hidden, 0.0), lse.masked_fill(hidden[:, 0], NOTHING)
            y_rows, sums_rows = tile.rows_of(y), tile.rows_of(sums)
            if i >= len(tiles.tiles):
                before, sum_before = get(y_rows, tile.queries), get(sums_rows, tile.queries)
                total = torch.logaddexp(sum_before, lse)
                out = (sum_before - total).exp_()[..., None] * before + (lse - total).exp_()[..., None] * out
                lse = total
            put(y_rows, tile.queries, out)
            put(sums_rows, tile.queries, lse)
        return y, sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, ctx.tiles, ctx.scale = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(q, k, v, *output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, y, sums = ctx.saved_tensors
        d_y = token_rows(d_y) if ctx.tiles.gathers else d_y
        d_q, d_k, d_v = (zeros_like(x, sums.dtype) for x in (q, k, v))  # sums of many tiles
        tables: dict[int, Tensor] = {}
        for tile in ctx.tiles.tiles + ctx.tiles.more:
            parts = inputs_of(tile, q, k, v)
            out, grad, lse = (get(tile.rows_of(x), tile.queries) for x in (y, d_y, sums))
            if tile.fully_masked is not None:  # with an infinite sum the weights are zeros
                hidden = tile.fully_masked.to(grad.device)
                grad, lse = grad.masked_fill(hidden, 0.0), lse.masked_fill(hidden[:, 0], inf)
            out, grad, lse = (fold(x, k.shape[1]) for x in (out, grad, lse))
            grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *(grad, *parts, out, lse, 0.0, False), attn_mask=table_of(tile, parts[0], tables), scale=ctx.scale
            )
            add(tile.rows_of(d_q), tile.queries, unfold(grads[0], q.shape[1]))
            add(tile.rows_of(d_k), tile.keys, grads[1])
            add(tile.rows_of(d_v), tile.keys, grads[2])
        return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype), None, None


def zeros_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Zeros in the shape of x [B, H, N, ...], with the heads of a token beside each other as in torch's kernel."""
    x = x.transpose(1, 2)
    return torch.zeros(x.shape, dtype=dtype or x.dtype, device=x.device).transpose(1, 2)


def inputs_of(tile: Tile, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q [B or 1, G, H / G * queries, P], k and v [B or 1, G, keys, P] of a tile."""
    q, k, v = (tile.rows_of(x) for x in (q, k, v))
    return fold(get(q, tile.queries), k.shape[1]), get(k, tile.keys), get(v, tile.keys)


def table_of(tile: Tile, q: Tensor, tables: dict[int, Tensor]) -> Tensor | None:
    """The mask of a tile as torch's kernel takes it, once for each group of heads; kept in `tables` for the next."""
    if tile.allowed is None:
        return None
    table = tables.get(id(tile.allowed))
    if table is None:
        table = torch.zeros(tile.allowed.shape, dtype=q.dtype).masked_fill_(~tile.allowed, -torch.inf)
        table = table.repeat(q.shape[2] // len(table), 1)[None, None]
        tables.clear()  # equal tables follow each other
        tables[id(tile.allowed)] = table
    return table


def fold(x: Tensor, groups: int) -> Tensor:
    """[B, H, N, ...] -> [B, G, H / G * N, ...]: query heads that share a key head become rows."""
    return x if x.shape[1] == groups else x.reshape(x.shape[0], groups, -1, *x.shape[3:])


def unfold(x: Tensor, heads: int) -> Tensor:
    """The inverse of `fold`."""
    return x if x.shape[1] == heads else x.reshape(x.shape[0], heads, -1, *x.shape[3:])
