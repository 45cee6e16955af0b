"""Softmax attention with a fixed sparse pattern: local, strided, Longformer, BigBird."""

from torch import Tensor

from zoo.nn.core import Core, CoreSpec, attention, check_positive
from zoo.nn.kv_cache import State
from zoo.nn.masks import GlobalTokensMask, RandomBlocks, Strided, Window, Window2D
from zoo.nn.softmax_attention import SoftmaxAttention
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
        if grid is not None:
            self.pattern = Window2D((grid[0], grid[1]), window // 2, window // 2, prefix)
        else:
            self.pattern = sliding(window, spec.causal)


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
        first = GlobalTokensMask(block if tokens is None else tokens)
        self.pattern = Window(block, block) | first | RandomBlocks(block, random, seed + spec.layer)


def sliding(window: int, causal: bool) -> Window:
    """A window of `window` keys, before the query if causal, else centered on it."""
    return Window(window - 1, 0) if causal else Window(window // 2, window // 2)
