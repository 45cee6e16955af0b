"""The attention cores: `core(q, k, v, mask, bias)` mixes v. One law holds for every core and is its test:

    core(q, k, v, mask, bias) == core.weights(q, k, mask, bias) @ v

`weights` is the slow, readable definition, what `zoo.capture` shows, and all that a core of your own has to write.
Shapes: q [B, H, N, P], k and v [B, G, M, P] with G dividing H, weights [B, H, N, M].
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .biases import Bias, as_bias
from .init import Draw, normal_
from .kernels import attend, share
from .masks import FULL, Global, Mask, RandomBlocks, Strided, Window, Window2D, as_mask
from .state import KeyValues, State


@dataclass(frozen=True)
class CoreSpec:
    """What a core may know about its place.

    scale multiplies q . k (None: head_dim ** -0.5); dropout acts on the weights while training.
    """

    heads: int
    kv_heads: int
    head_dim: int
    layer: int = 0
    depth: int = 1
    causal: bool = False
    dropout: float = 0.0
    scale: float | None = None


class Core(nn.Module):
    """Subclass it with one method, `weights`; forward, GQA, padding and cached decoding are derived from it.

    The derived forward evaluates masks and biases densely, so `weights` is handed `mask`, a bool tensor that broadcasts
    to [B, H, N, M] and is True where a key may be seen (`pattern` included), and `bias`, a float tensor or None.
    `self.scores(q, k, mask, bias)` turns them into scaled scores with -inf where hidden. A faster `forward` is optional
    and held to the law.
    """

    pattern: Mask = FULL  # what this core hides by itself

    def __init__(self, spec: CoreSpec) -> None:
        super().__init__()
        self.spec = spec
        self.scale = spec.head_dim**-0.5 if spec.scale is None else spec.scale

    def weights(
        self, q: Tensor, k: Tensor, mask: Mask | Tensor | None = None, bias: Bias | Tensor | None = None
    ) -> Tensor:
        """[B, H, N, M]: how much of each value goes into each output."""
        raise NotImplementedError(f"{type(self).__name__} has no weights(q, k, mask, bias)")

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | Tensor | None = None,
        bias: Bias | Tensor | None = None,
    ) -> Tensor:
        """[B, H, N, P]: `weights(q, k, mask, bias) @ v`, zeros for a query that may see no key."""
        weights = self.maps(q, k, mask, bias).to(v.dtype)
        return F.dropout(weights, self.dropout) @ share(v, q.shape[1])

    @property
    def dropout(self) -> float:
        return self.spec.dropout if self.training else 0.0

    def maps(
        self, q: Tensor, k: Tensor, mask: Mask | Tensor | None = None, bias: Bias | Tensor | None = None
    ) -> Tensor:
        """`weights` for a mask and a bias in any form; rows that see nobody are zeros. [B, H, N, M]."""
        queries, keys = q.shape[2], k.shape[2]
        allowed, blind = (as_mask(mask) & self.pattern).evaluate(queries, keys, q.device)
        bias = as_bias(bias)
        weights = self.weights(q, k, allowed, None if bias is None else bias.dense(queries, keys, q.device))
        return weights if blind is None else weights.masked_fill(blind, 0.0)

    def scores(
        self, q: Tensor, k: Tensor, mask: Mask | Tensor | None = None, bias: Bias | Tensor | None = None
    ) -> Tensor:
        """q k^T * scale + bias, -inf where a key is hidden. [B, H, N, M]."""
        return self.hide((q * self.scale) @ share(k, q.shape[1]).mT, mask, bias)

    def hide(self, scores: Tensor, mask: Mask | Tensor | None, bias: Bias | Tensor | None) -> Tensor:
        """Scores of any making [B, H, N, M] -> the same, with the bias added and -inf where hidden."""
        queries, keys = scores.shape[2:]
        # a tensor comes from `maps`, which knew the places of tokens and hid the pattern with them
        mask, bias = as_mask(mask) if isinstance(mask, Tensor) else as_mask(mask) & self.pattern, as_bias(bias)
        if bias is not None:
            scores = scores + bias.dense(queries, keys, scores.device).to(scores.dtype)
        if mask.hides_nothing(queries, keys):
            return scores
        return scores.masked_fill(~mask.dense(queries, keys, scores.device), -torch.inf)

    def new_state(self, batch: int, capacity: int, like: Tensor) -> State:
        """An empty memory for decoding, on the device and in the dtype of `like`."""
        return KeyValues(batch, self.spec.kv_heads, capacity, self.spec.head_dim, like)

    def decode(
        self, q: Tensor, k: Tensor, v: Tensor, state: State, mask: Mask | None = None, bias: Bias | None = None
    ) -> Tensor:
        """`forward` for queries that follow what `state` remembers; appends k and v to it."""
        assert isinstance(state, KeyValues)
        k, v = state.append(k, v)
        if state.static:
            mask, bias = state.visible(as_mask(mask), as_bias(bias), q.shape[2])
        return self(q, k, v, mask, bias)

    def extra_repr(self) -> str:
        return "" if self.pattern == FULL else f"pattern={self.pattern}"


def normalised(scores: Tensor) -> Tensor:
    """Softmax over keys; a row that is hidden altogether (-inf everywhere) gives zeros, and zero gradients."""
    blind = (scores == -torch.inf).all(-1, keepdim=True)
    return scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)


class Softmax(Core):
    """softmax(q k^T * scale + bias) v (Vaswani et al. 2017), fused wherever torch has a kernel that is faster."""

    def weights(
        self, q: Tensor, k: Tensor, mask: Mask | Tensor | None = None, bias: Bias | Tensor | None = None
    ) -> Tensor:
        return normalised(self.scores(q, k, as_mask(mask) & self.pattern, bias))

    def maps(
        self, q: Tensor, k: Tensor, mask: Mask | Tensor | None = None, bias: Bias | Tensor | None = None
    ) -> Tensor:
        return self.weights(q, k, mask, bias)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | Tensor | None = None,
        bias: Bias | Tensor | None = None,
    ) -> Tensor:
        return attend(q, k, v, as_mask(mask) & self.pattern, as_bias(bias), self.scale, self.dropout)


class Additive(Core):
    """Bahdanau et al. 2015: the score is w . tanh(q + k), one w per head; W_q and W_k are the projections around it."""

    def __init__(self, spec: CoreSpec) -> None:
        super().__init__(spec)
        self.w = nn.Parameter(torch.empty(spec.heads, spec.head_dim))

    def initialise(self, draw: Draw) -> None:
        normal_(self.w, self.spec.head_dim**-0.5, draw("w"))

    def weights(
        self, q: Tensor, k: Tensor, mask: Mask | Tensor | None = None, bias: Bias | Tensor | None = None
    ) -> Tensor:
        both = q.unsqueeze(3) + share(k, q.shape[1]).unsqueeze(2)  # B H N M P
        scores = torch.einsum("bhnmp,hp->bhnm", both.tanh(), self.w.to(q.dtype))
        return normalised(self.hide(scores, mask, bias))


class Local(Softmax):
    """A sliding window: `window // 2` keys on either side, or, in a causal model, the last `window` up to the query.

    With `grid=(rows, columns)` the neighbourhood is a square of `window` by `window` cells on the grid of patches
    behind `prefix` tokens that see and are seen by all.
    """

    def __init__(self, spec: CoreSpec, window: int = 16, grid: tuple[int, int] | None = None, prefix: int = 0) -> None:
        super().__init__(spec)
        positive(window=window)
        if grid is not None:
            self.pattern = Window2D((grid[0], grid[1]), window // 2, window // 2, prefix)
        else:
            self.pattern = sliding(window, spec.causal)


class Strided_(Softmax):
    """Child et al. 2019: a sliding window, and every `step`-th key before (and after) it."""

    def __init__(self, spec: CoreSpec, window: int = 16, step: int = 16) -> None:
        super().__init__(spec)
        positive(window=window, step=step)
        self.pattern = sliding(window, spec.causal) | Strided(step)


class Longformer(Softmax):
    """Beltagy et al. 2020: a sliding window, and the first `tokens` positions see and are seen by all.

    The pattern of the paper with shared projections; its separate projections for the global tokens belong to the
    Longformer family.
    """

    def __init__(self, spec: CoreSpec, window: int = 16, tokens: int = 1) -> None:
        super().__init__(spec)
        positive(window=window, tokens=tokens)
        self.pattern = sliding(window, spec.causal) | Global(tokens)


class BigBird(Softmax):
    """Zaheer et al. 2020: a window of three blocks, `tokens` global positions (default: one block), random blocks.

    `random` is how many earlier blocks each block is linked with; see `RandomBlocks`.
    """

    def __init__(
        self, spec: CoreSpec, block: int = 16, random: int = 2, tokens: int | None = None, seed: int = 0
    ) -> None:
        super().__init__(spec)
        positive(block=block, random=random)
        first = Global(block if tokens is None else tokens)
        self.pattern = Window(block, block) | first | RandomBlocks(block, random, seed + spec.layer)


def sliding(window: int, causal: bool) -> Window:
    return Window(window - 1, 0) if causal else Window(window // 2, window // 2)


def positive(**options: int) -> None:
    for name, value in options.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r}: expected a whole number of at least 1")
