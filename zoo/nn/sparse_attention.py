"""Softmax attention under a fixed pattern: local, strided, Longformer, BigBird."""

from zoo.nn.core import CoreSpec
from zoo.nn.masks import GlobalTokensMask, RandomBlocks, Strided, Window, Window2D
from zoo.nn.softmax_attention import SoftmaxAttention


class LocalAttention(SoftmaxAttention):
    """A sliding window: `window // 2` keys on either side, or, in a causal model, the last `window` up to the query.

    With `grid=(rows, columns)` the neighborhood is a square of `window` by `window` cells on the grid of patches
    behind `prefix` tokens that see and are seen by all.
    """

    def __init__(self, spec: CoreSpec, window: int = 16, grid: tuple[int, int] | None = None, prefix: int = 0) -> None:
        super().__init__(spec)
        positive(window=window)
        if grid is not None:
            self.pattern = Window2D((grid[0], grid[1]), window // 2, window // 2, prefix)
        else:
            self.pattern = sliding(window, spec.causal)


class StridedAttention(SoftmaxAttention):
    """Child et al. 2019: a sliding window, and every `step`-th key before (and after) it."""

    def __init__(self, spec: CoreSpec, window: int = 16, step: int = 16) -> None:
        super().__init__(spec)
        positive(window=window, step=step)
        self.pattern = sliding(window, spec.causal) | Strided(step)


class Longformer(SoftmaxAttention):
    """Beltagy et al. 2020: a sliding window, and the first `tokens` positions see and are seen by all.

    The pattern of the paper with shared projections; its separate projections for the global tokens belong to the
    Longformer family.
    """

    def __init__(self, spec: CoreSpec, window: int = 16, tokens: int = 1) -> None:
        super().__init__(spec)
        positive(window=window, tokens=tokens)
        self.pattern = sliding(window, spec.causal) | GlobalTokensMask(tokens)


class BigBird(SoftmaxAttention):
    """Zaheer et al. 2020: a window of three blocks, `tokens` global positions (default: one block), random blocks.

    `random` is how many earlier blocks each block is linked with; see `RandomBlocks`.
    """

    def __init__(
        self, spec: CoreSpec, block: int = 16, random: int = 2, tokens: int | None = None, seed: int = 0
    ) -> None:
        super().__init__(spec)
        positive(block=block, random=random)
        first = GlobalTokensMask(block if tokens is None else tokens)
        self.pattern = Window(block, block) | first | RandomBlocks(block, random, seed + spec.layer)


def sliding(window: int, causal: bool) -> Window:
    return Window(window - 1, 0) if causal else Window(window // 2, window // 2)


def positive(**options: int) -> None:
    for name, value in options.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r}: expected a whole number of at least 1")
