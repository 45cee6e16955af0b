"""Masks that follow blocks of tokens: windows that cut a sequence or an image into parts, and layouts of blocks."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from zoo.nn.index_functions import Index
from zoo.nn.masks import Mask

Layout = tuple[tuple[bool, ...], ...]


@dataclass(frozen=True)
class WindowPartition(Mask):
    """Tokens attend within their window, of `window` tokens, or of `window` by `window` tokens of a grid in row-major
    order (Swin, Liu et al. 2021).

    shift: the first window of each axis ends after `shift` tokens, so those of layers with and without a shift overlap.
    Swin rolls the image for that and masks what does not belong together; the windows are the same. The `prefix` tokens
    before the grid or the sequence attend to all tokens and are attended by all.
    """

    window: int
    shift: int = 0
    grid: tuple[int, int] | None = None
    prefix: int = 0

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        inside = (q == q) & (k == k)
        for i, j in zip(self.windows_of(q), self.windows_of(k), strict=True):
            inside = inside & (i == j)
        return inside | (q < self.prefix) | (k < self.prefix)

    def windows_of(self, position: Tensor) -> list[Tensor]:
        """The number of a position's window on each axis."""
        position = position - self.prefix
        axes = [position]
        if self.grid is not None:
            axes = [torch.div(position, self.grid[1], rounding_mode="floor"), position % self.grid[1]]
        return [torch.div(axis - self.shift, self.window, rounding_mode="floor") for axis in axes]


@dataclass(frozen=True)
class CausalWindow2D(Mask):
    """`Window2D` that ends at the query: at most `rows` up and `columns` to the left, on a grid of any number of rows
    with `width` tokens each.

    The `prefix` tokens before the grid attend to all tokens and are attended by all.
    """

    width: int
    rows: int
    columns: int
    prefix: int = 0

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        i, j = q - self.prefix, k - self.prefix
        up = torch.div(i, self.width, rounding_mode="floor") - torch.div(j, self.width, rounding_mode="floor")
        left = i % self.width - j % self.width
        inside = (up >= 0) & (up <= self.rows) & (left >= 0) & (left <= self.columns)
        return inside | (i < 0) | (j < 0)


@dataclass(frozen=True)
class NeighborBlocks(Mask):
    """Blocks of `block` tokens attend to themselves and to the blocks beside them."""

    block: int

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        i, j = (torch.div(x, self.block, rounding_mode="floor") for x in (q, k))
        return (i - j).abs() <= 1


@dataclass(frozen=True)
class BlockLayout(Mask):
    """A mask of blocks: query block i attends to key block j where `layout[i][j]`; blocks have `block` tokens.

    Positions after the last block attend to nothing and are attended by none.
    """

    block: int
    layout: Layout = field(repr=False)

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return BlockTable(self.block, layout_tensor(self.layout).to(q.device)).__call__(b, h, q, k)

    def on_device(self, keys: int, device: Any) -> Mask:
        return BlockTable(self.block, layout_tensor(self.layout).to(device))


@dataclass(frozen=True, eq=False)
class BlockTable(Mask):
    """`BlockLayout` with its layout as a bool tensor [blocks of queries, blocks of keys]."""

    block: int
    table: Tensor

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        i, j = (torch.div(x, self.block, rounding_mode="floor") for x in (q, k))
        rows, columns = self.table.shape
        return self.table[i.clamp(max=rows - 1), j.clamp(max=columns - 1)] & (i < rows) & (j < columns)


@lru_cache(maxsize=64)
def layout_tensor(layout: Layout) -> Tensor:
    """A layout as a bool tensor."""
    with torch.inference_mode(False):
        return torch.tensor(layout, dtype=torch.bool)


def as_layout(layout: Any) -> Layout:
    """A layout from nested lists or a tensor of booleans, 0 and 1. Raises ValueError for anything else."""
    try:
        table = torch.as_tensor(layout)
    except (TypeError, ValueError, RuntimeError):
        table = torch.empty(0)
    if table.ndim != 2 or not table.numel() or not bool(((table == 0) | (table == 1)).all()):
        given = f"the shape {list(table.shape)}" if isinstance(layout, Tensor) else repr(layout)[:80]
        raise ValueError(
            "layout: expected booleans [blocks of queries, blocks of keys], nested lists or a tensor, True where a "
            f"block of queries attends to a block of keys, got {given}"
        )
    if table.shape[0] != table.shape[1]:
        raise ValueError(
            f"layout: expected as many blocks of queries as of keys, got {table.shape[0]} and {table.shape[1]}: "
            "queries and keys are the same tokens"
        )
    return tuple(tuple(map(bool, row)) for row in table.tolist())
