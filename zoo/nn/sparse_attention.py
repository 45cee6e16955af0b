"""Softmax attention with a fixed sparse pattern: windows, dilated and shifted ones, strided, block layouts, Longformer,
BigBird."""

from typing import Any

from torch import Tensor

from zoo.nn.core import Core, CoreSpec, attention, check_not_negative, check_positive
from zoo.nn.kv_cache import State
from zoo.nn.masks import AnyMask, GlobalTokensMask, Mask, RandomBlocks, Strided, Window, Window2D
from zoo.nn.position_biases import AnyBias
from zoo.nn.softmax_attention import SoftmaxAttention
from zoo.nn.sparse.block_patterns import BlockLayout, NeighborBlocks, WindowPartition, as_layout
from zoo.nn.window_cache import new_cache


class SparseAttention(SoftmaxAttention):
    """Base class of kinds with a pattern. While decoding, keys that no later token sees are dropped."""

    def new_state(self, batch: int, capacity: int, like: Tensor) -> State:
        if type(self).decode is not Core.decode:  # a subclass that may read all of a cache
            return super().new_state(batch, capacity, like)
        return new_cache(self.pattern, batch, self.spec.kv_heads, capacity, self.spec.head_dim, like)


@attention("local")
class LocalAttention(SparseAttention):
    """Sliding-window attention: `window // 2` keys on either side, or in causal models the last `window` keys.

    With `grid=(rows, columns)` the window is 2D, `window` by `window` patches; the `prefix` tokens before the grid
    attend to all tokens and are attended by all.
    """

    def __init__(self, spec: CoreSpec, window: int = 16, grid: tuple[int, int] | None = None, prefix: int = 0) -> None:
        super().__init__(spec)
        check_positive(window=window)
        check_grid(grid, prefix)
        if grid is not None:
            self.pattern = Window2D((grid[0], grid[1]), window // 2, window // 2, prefix)
        else:
            self.pattern = sliding(window, spec.causal)


@attention("dilated")
class DilatedAttention(SparseAttention):
    """Dilated sliding window (Beltagy et al. 2020): `window` keys as in "local", `dilation` tokens apart.

    With dilation=1 it is "local". Longformer dilates more in upper layers: give a list of kinds over the layers.
    """

    def __init__(self, spec: CoreSpec, window: int = 16, dilation: int = 2) -> None:
        super().__init__(spec)
        check_positive(window=window, dilation=dilation)
        keys = sliding(window, spec.causal)
        self.pattern = Window(keys.left * dilation, keys.right * dilation) & Strided(dilation)


@attention("shifted_window")
class ShiftedWindowAttention(SparseAttention):
    """Windows that do not overlap, shifted by half a window in every other layer (Swin, Liu et al. 2021).

    With `grid=(rows, columns)` windows have `window` by `window` patches of an image; the `prefix` tokens before the
    grid attend to all tokens and are attended by all. Without a grid they have `window` tokens of a sequence. A window
    may be larger than the grid. Swin's bias of relative positions is not a part of it.
    """

    def __init__(self, spec: CoreSpec, window: int = 8, grid: tuple[int, int] | None = None, prefix: int = 0) -> None:
        super().__init__(spec)
        check_positive(window=window)
        check_grid(grid, prefix)
        shape = None if grid is None else (grid[0], grid[1])
        self.pattern = WindowPartition(window, window // 2 if spec.layer % 2 else 0, shape, prefix)


@attention("block_sparse")
class BlockSparseAttention(SparseAttention):
    """Attention between the blocks that a layout names: `layout[i][j]` where query block i attends to key block j.

    layout: booleans [blocks, blocks], nested lists or a tensor, for blocks of `block` tokens; the last block may be
    partly filled, and a sequence may have fewer blocks, but not more. Without a layout each block attends to itself and
    its neighbors, at any length. In causal models later keys are hidden as well.
    """

    def __init__(self, spec: CoreSpec, block: int = 16, layout: Any = None) -> None:
        super().__init__(spec)
        check_positive(block=block)
        table = None if layout is None else as_layout(layout)
        self.block, self.blocks = block, None if table is None else len(table)
        self.pattern: Mask = NeighborBlocks(block) if table is None else BlockLayout(block, table)

    def weights(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        self.check_length(k.shape[2])
        return super().weights(q, k, mask, bias)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        self.check_length(k.shape[2])
        return super().forward(q, k, v, mask, bias)

    def check_length(self, keys: int) -> None:
        """Raise ValueError for a sequence that is longer than the layout."""
        if self.blocks is not None and keys > self.blocks * self.block:
            raise ValueError(
                f"attention='block_sparse' has a layout of {self.blocks} blocks of {self.block} tokens, "
                f"{self.blocks * self.block} in all, and got {keys}; give a larger layout= or block="
            )


@attention("strided")
class StridedAttention(SparseAttention):
    """Strided attention of Sparse Transformers (Child et al. 2019): a sliding window, and every `step`-th key.

    The steps are counted from the query, so each key is seen by later tokens: while decoding all keys are kept.
    """

    def __init__(self, spec: CoreSpec, window: int = 16, step: int = 16) -> None:
        super().__init__(spec)
        check_positive(window=window, step=step)
        self.pattern = sliding(window, spec.causal) | Strided(step)


@attention("longformer")
class Longformer(SparseAttention):
    """Longformer (Beltagy et al. 2020): a sliding window, and `tokens` global tokens at the start.

    Uses the pattern of the paper with shared projections, without its separate projections for global tokens.
    """

    def __init__(self, spec: CoreSpec, window: int = 16, tokens: int = 1) -> None:
        super().__init__(spec)
        check_positive(window=window, tokens=tokens)
        self.pattern = sliding(window, spec.causal) | GlobalTokensMask(tokens)


@attention("bigbird")
class BigBird(SparseAttention):
    """BigBird (Zaheer et al. 2020): a window of three blocks, `tokens` global tokens (default: a block), random blocks.

    random: number of earlier blocks that each block is linked with, see `RandomBlocks`. A later block may be
    linked with any earlier one, so while decoding all keys are kept.
    """

    def __init__(
        self, spec: CoreSpec, block: int = 16, random: int = 2, tokens: int | None = None, seed: int = 0
    ) -> None:
        super().__init__(spec)
        check_positive(block=block, random=random)
        check_not_negative(tokens=block if tokens is None else tokens)
        first = GlobalTokensMask(block if tokens is None else tokens)
        self.pattern = Window(block, block) | first | RandomBlocks(block, random, seed + spec.layer)


def check_grid(grid: tuple[int, int] | None, prefix: int) -> None:
    """Raise ValueError for a grid without patches, and for a prefix without a grid, which would have no effect."""
    check_not_negative(prefix=prefix)
    if grid is not None:
        check_positive(**{"rows of grid": grid[0], "columns of grid": grid[1]})
    elif prefix:
        raise ValueError(
            f"prefix={prefix} has no effect without grid=, whose tokens it precedes: omit it, or give "
            "grid=(rows, columns); in a sequence attention='longformer' has global tokens at the start"
        )


def sliding(window: int, causal: bool) -> Window:
    """A window of `window` keys, before the query if causal, else centered on it."""
    return Window(window - 1, 0) if causal else Window(window // 2, window // 2)
