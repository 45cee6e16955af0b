"""The attention cores: `core(q, k, v, mask, bias)` mixes v. One law holds for every core and is its test:

    core(q, k, v, mask, bias) == core.weights(q, k, mask, bias) @ v

`weights` is the slow, readable definition, what `zoo.capture` shows, and all that a core of your own has to write.
Shapes: q [B, H, N, P], k and v [B, G, M, P] with G dividing H, weights [B, H, N, M].
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.kv_cache import KVCache, State
from zoo.nn.masks import NO_MASK, Mask, as_mask
from zoo.nn.position_biases import Bias, as_bias
from zoo.nn.sdpa import share


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

    pattern: Mask = NO_MASK  # what this core hides by itself

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
        return KVCache(batch, self.spec.kv_heads, capacity, self.spec.head_dim, like)

    def decode(
        self, q: Tensor, k: Tensor, v: Tensor, state: State, mask: Mask | None = None, bias: Bias | None = None
    ) -> Tensor:
        """`forward` for queries that follow what `state` remembers; appends k and v to it."""
        assert isinstance(state, KVCache)
        k, v = state.append(k, v)
        if state.static:
            mask, bias = state.visible(as_mask(mask), as_bias(bias), q.shape[2])
        return self(q, k, v, mask, bias)

    def extra_repr(self) -> str:
        return "" if self.pattern == NO_MASK else f"pattern={self.pattern}"


def normalized(scores: Tensor) -> Tensor:
    """Softmax over keys; a row that is hidden altogether (-inf everywhere) gives zeros, and zero gradients."""
    blind = (scores == -torch.inf).all(-1, keepdim=True)
    return scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)
