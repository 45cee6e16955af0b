"""Position biases, which are added to the scores. Like a mask, a bias is a function of indices, not a stored matrix.

`bias(b, h, q, k) -> float`. Biases are combined with `+`. `bias.dense` evaluates to a tensor, `bias.score_mod` is the
form for flex_attention.
"""

import operator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zoo.nn.index_functions import Index, IndexFunction, Pair, TensorFunction, View
from zoo.utils.transfer import to_device


class Bias(IndexFunction):
    """Base class: a function `(b, h, q, k) -> float`. Subclasses are frozen dataclasses."""

    hides: bool = False  # whether it may contain -inf

    def __add__(self, other: "Bias") -> "Bias":
        return Sum(self, other)

    def score_mod(self, score: Tensor, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        """For flex_attention."""
        return score + self(b, h, q, k)


@dataclass(frozen=True)
class ALiBi(Bias):
    """ALiBi, attention with linear biases (Press et al. 2022): -slope(head) * |q - k|, for any number of heads."""

    heads: int

    def slopes(self) -> list[float]:
        """2^(-8/H), 2^(-16/H), ...; if H is not a power of two, every other slope of the next power is added."""
        below = 1 << (self.heads.bit_length() - 1)
        first = [2.0 ** (-8 * (i + 1) / below) for i in range(below)]
        between = [2.0 ** (-4 * (i + 1) / below) for i in range(0, 2 * (self.heads - below), 2)]
        return first + between

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.on_device(0, q.device)(b, h, q, k)

    def on_device(self, keys: int, device: Any) -> Bias:
        return Slopes(to_device(self.slopes(), device))


@dataclass(frozen=True, eq=False)
class Slopes(Bias):
    """-slopes[head] * |q - k|, with the slopes as a tensor [H]."""

    slopes: Tensor

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return -self.slopes[h] * (q - k).abs()


@dataclass(frozen=True, eq=False)
class T5RelativeBias(Bias):
    """T5's relative position bias (Raffel et al. 2020): a learned value per head and bucket of the distance k - q.

    table: [buckets, H]. Half of the buckets hold one distance each, the others grow logarithmically up to
    `max_distance`. Bidirectional models use half of all buckets for keys after the query.
    """

    table: Tensor
    bidirectional: bool = True
    max_distance: int = 128

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.table.shape[1]

    def bucket(self, distance: Tensor) -> Tensor:
        """Distances k - q (integers) -> bucket numbers."""
        count = self.table.shape[0]
        start = torch.zeros_like(distance)
        if self.bidirectional:
            count //= 2
            start = (distance > 0) * count
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = count // 2
        ratio = torch.log(distance.clamp(min=1).float() / exact) / torch.log(torch.tensor(self.max_distance / exact))
        far = (exact + (ratio * (count - exact)).long()).clamp(max=count - 1)
        return start + torch.where(distance < exact, distance, far)

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.table[self.bucket(k - q), h]

    def on_device(self, keys: int, device: Any) -> Bias:
        distances = torch.arange(1 - keys, keys, device=device)
        return DistanceBias(self.table.T[:, self.bucket(distances)])

    def near(self, keys: int) -> "NearBias":
        """The same for positions below `keys` on a CPU, with the values of the distances that differ."""
        reach = min(max(keys, 1) - 1, max(self.max_distance, self.table.shape[0]))
        return NearBias(self.table.T[:, self.bucket(torch.arange(-reach, reach + 1))])


@dataclass(frozen=True, eq=False)
class DistanceBias(Bias):
    """A value for each head and distance: values [H, 2 * M - 1], of the distances k - q from 1 - M to M - 1.

    A kernel reads one value for a pair instead of computing its bucket, and adds a gradient to one of 2 M - 1 places
    instead of a few buckets.
    """

    values: Tensor

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.values[h, k - q + self.values.shape[1] // 2]


class NearBias(DistanceBias):
    """`DistanceBias` with the values of distances up to a reach R, which farther keys have, too: [H, 2 R + 1]."""

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        reach = self.values.shape[1] // 2
        return self.values[h, (k - q).clamp(-reach, reach) + reach]


class TensorBias(TensorFunction, Bias):
    """A precomputed bias: a float tensor [B or 1, H or 1, N, M], which may be learned."""

    hides = True


class Sum(Pair, Bias):
    """The sum of two biases."""

    combine = operator.add

    @property
    def hides(self) -> bool:  # type: ignore[override]
        return self.left.hides or self.right.hides


@dataclass(frozen=True, eq=False)
class BiasOfHeads(Bias):
    """The values of a bias for some of its heads: `numbers`, one for each head of the layer, a tuple or a tensor."""

    inner: Bias
    numbers: Any

    @classmethod
    def of(cls, bias: Bias, numbers: tuple[int, ...]) -> Bias:
        """The bias for these heads, or itself if it is the same for all heads."""
        return bias if bias.heads == 1 else cls(bias, numbers)

    @property
    def batch(self) -> int:  # type: ignore[override]
        return self.inner.batch

    @property
    def heads(self) -> int:  # type: ignore[override]
        return len(self.numbers)

    @property
    def hides(self) -> bool:  # type: ignore[override]
        return self.inner.hides

    @property
    def q(self) -> Tensor | None:  # type: ignore[override]
        return self.inner.q

    def leaves(self) -> tuple[IndexFunction, ...]:
        return self.inner.leaves()

    def table(self, device: Any) -> Tensor:
        """The numbers as a tensor [H]."""
        return self.numbers if isinstance(self.numbers, Tensor) else to_device(list(self.numbers), device)

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.inner.__call__(b, self.table(h.device)[h], q, k)

    def on_device(self, keys: int, device: Any) -> Bias:
        return BiasOfHeads(self.inner.on_device(keys, device), self.table(device))

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        values = self.inner.dense(queries, keys, device)  # evaluated once for all layers
        return values.index_select(1, self.table(values.device))


@dataclass(frozen=True, eq=False)
class BiasView(View, Bias):
    """A bias within one forward pass, see `MaskView`; also evaluated once for all layers.

    Under activation checkpointing `cache` is None, because a recomputed block must save the same tensors again.
    """

    cache: dict[Any, Tensor] | None = field(default_factory=dict, repr=False)

    @property
    def hides(self) -> bool:  # type: ignore[override]
        return self.inner.hides

    def __add__(self, other: Bias) -> Bias:
        return replace(self, inner=self.inner + other, cache={})

    def on_device(self, keys: int, device: Any) -> Bias:
        inner = self.inner.on_device(keys, device)
        return inner if self.q is None and self.k is None else BiasView(inner, self.q, self.k, None)

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        if self.cache is None or torch.compiler.is_compiling():
            return super().dense(queries, keys, device)
        if (queries, keys) not in self.cache:
            self.cache[queries, keys] = super().dense(queries, keys, device)
        return self.cache[queries, keys]


AnyBias = Bias | Tensor | None  # what `as_bias` converts


def as_bias(bias: AnyBias) -> Bias | None:
    """Convert to a Bias: a float tensor (broadcastable to [B, H, N, M]) -> TensorBias; None stays None."""
    if bias is None or isinstance(bias, Bias):
        return bias
    if not bias.is_floating_point():
        raise ValueError(f"bias: expected a zoo.nn.Bias or a float tensor, got {bias.dtype}; pass masks as mask=")
    return TensorBias(bias[(None,) * (4 - bias.ndim)])
