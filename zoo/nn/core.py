"""Attention cores: `core(q, k, v, mask, bias)` computes attention outputs. Every core satisfies, and is tested for,

    core(q, k, v, mask, bias) == core.weights(q, k, mask, bias) @ v

`weights` is the readable definition that `zoo.capture` returns, and all that a custom core has to define.
Shapes: q [B, H, N, P], k and v [B, G, M, P] with G dividing H, weights [B, H, N, M].
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.kv_cache import KVCache, State
from zoo.nn.masks import NO_MASK, AnyMask, Mask, as_mask
from zoo.nn.position_biases import AnyBias, Bias, as_bias
from zoo.nn.sdpa import check_inputs, check_mask, repeat_kv, soft_capped


@dataclass(frozen=True)
class CoreSpec:
    """Configuration of an attention core: number and size of heads, layer number, number of layers.

    scale: factor of q . k (None: head_dim ** -0.5). dropout: on the attention weights, in training. softcap: bounds the
    scores smoothly, c tanh(q . k * scale / c) (Gemma 2); None: they are not bounded. kept: of a layer without some of
    its query heads, the numbers that the others had before, see `zoo.nn.pruned_heads`.
    """

    heads: int
    kv_heads: int
    head_dim: int
    layer: int = 0
    depth: int = 1
    causal: bool = False
    dropout: float = 0.0
    scale: float | None = None
    softcap: float | None = None
    kept: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.softcap is not None and not 0 < self.softcap < math.inf:
            raise ValueError(f"softcap={self.softcap!r}: expected a positive number, or None for no bound")
        check_positive(heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim)
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads={self.heads} cannot share kv_heads={self.kv_heads} evenly: choose a divisor of {self.heads}"
            )


def check_positive(**options: Any) -> None:
    """Raise ValueError unless all options are positive integers."""
    for name, value in options.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r}: expected a positive integer")


def check_not_negative(**options: Any) -> None:
    """Raise ValueError unless all options are integers of at least 0."""
    for name, value in options.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name}={value!r}: expected an integer of at least 0")


class Core(nn.Module):
    """Base class of attention kinds. Subclasses define `weights`; forward, GQA, padding and decoding follow from it.

    The default forward evaluates masks and biases densely: `weights` gets `mask`, a bool tensor that broadcasts to
    [B, H, N, M], True where a query may attend to a key (`pattern` included), and `bias`, a float tensor or None.
    `self.scores(q, k, mask, bias)` computes scaled scores with -inf at masked keys. Subclasses may add a faster
    `forward`; `zoo.check` tests that it equals `weights @ v`. A class whose weights come from `self.scores` may set
    `caps_scores`: it then also serves models with `CoreSpec.softcap`. A class whose parameters have a row for each
    query head or key head names them in `head_parameters`, so that processes can divide the heads.
    """

    pattern: Mask = NO_MASK  # a mask that this kind of attention always applies
    caps_scores: bool = False  # whether `CoreSpec.softcap` is honored
    head_parameters: Mapping[str, Literal["heads", "kv_heads"]] = MappingProxyType({})
    first_head: int = 0  # the number of its first query head, where processes divide the heads of a model
    kind: str  # the name of a built-in kind

    def __init__(self, spec: CoreSpec) -> None:
        super().__init__()
        if spec.softcap is not None and not self.caps_scores:
            raise ValueError(
                f"this model caps its attention scores (softcap={spec.softcap:g}), and {type(self).__name__} has no "
                "scores to cap: choose 'softmax' or another kind that computes a softmax, such as 'local', or set the "
                "cap of the model to None"
            )
        self.spec = spec
        self.scale = spec.head_dim**-0.5 if spec.scale is None else spec.scale

    def weights(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        """Attention weights [B, H, N, M]."""
        raise NotImplementedError(f"{type(self).__name__} does not define weights(q, k, mask, bias)")

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        """Outputs [B, H, N, P]: `weights(q, k, mask, bias) @ v`, zeros where all keys of a query are masked."""
        check_inputs(q, k, v)
        check_mask(as_mask(mask), q, k)
        weights = self.maps(q, k, mask, bias).to(v.dtype)
        return F.dropout(weights, self.dropout) @ repeat_kv(v, q.shape[1])

    @property
    def dropout(self) -> float:
        return self.spec.dropout if self.training else 0.0

    def maps(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        """Attention weights [B, H, N, M] for masks and biases in any form; fully masked rows are zeros."""
        queries, keys = q.shape[2], k.shape[2]
        allowed, fully_masked = (as_mask(mask) & self.pattern).evaluate(queries, keys, q.device)
        bias = as_bias(bias)
        weights = self.weights(q, k, allowed, None if bias is None else bias.dense(queries, keys, q.device))
        return weights if fully_masked is None else weights.masked_fill(fully_masked, 0.0)

    def scores(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        """Scores q k^T * scale + bias [B, H, N, M], with the soft cap of the model, -inf at masked keys."""
        scores = (q * self.scale) @ repeat_kv(k, q.shape[1]).mT
        return self.hide(soft_capped(scores, self.spec.softcap), mask, bias)

    def hide(self, scores: Tensor, mask: AnyMask, bias: AnyBias) -> Tensor:
        """Add the bias to scores [B, H, N, M] and set masked keys to -inf."""
        queries, keys = scores.shape[2:]
        # a tensor comes from `maps`, which has already applied the pattern at the positions of the tokens
        mask, bias = as_mask(mask) if isinstance(mask, Tensor) else as_mask(mask) & self.pattern, as_bias(bias)
        if bias is not None:
            scores = scores + bias.dense(queries, keys, scores.device).to(scores.dtype)
        if mask.hides_nothing(queries, keys):
            return scores
        return scores.masked_fill(~mask.dense(queries, keys, scores.device), -torch.inf)

    def new_state(self, batch: int, capacity: int, like: Tensor) -> State:
        """An empty cache for decoding, with the device and dtype of `like`."""
        return KVCache(batch, self.spec.kv_heads, capacity, self.spec.head_dim, like)

    def decode(
        self, q: Tensor, k: Tensor, v: Tensor, state: State, mask: Mask | None = None, bias: Bias | None = None
    ) -> Tensor:
        """`forward` for new tokens while decoding: appends k and v to the cache `state` and attends to what it has."""
        assert isinstance(state, KVCache)
        return self(q, *state.extend(k, v, mask, bias))

    def extra_repr(self) -> str:
        return "" if self.pattern == NO_MASK else f"pattern={self.pattern}"


def masked_softmax(scores: Tensor) -> Tensor:
    """Softmax over keys; fully masked rows (-inf everywhere) give zeros and zero gradients."""
    fully_masked = (scores == -torch.inf).all(-1, keepdim=True)
    return scores.masked_fill(fully_masked, 0.0).softmax(-1).masked_fill(fully_masked, 0.0)


C = TypeVar("C", bound=Core)
CORES: dict[str, type[Core]] = {}


def attention(name: str) -> Callable[[type[C]], type[C]]:
    """Class decorator: register a built-in attention kind, `attention=name`. Its file is called `*_attention.py`."""

    def register(cls: type[C]) -> type[C]:
        if name in CORES:
            raise ValueError(f"there are two attention kinds named {name!r}: {CORES[name].__name__}, {cls.__name__}")
        CORES[name], cls.kind = cls, name
        return cls

    return register
