"""What is added to the scores. A bias is the twin of a mask: a function of indices, `bias(b, h, q, k) -> float`.

Biases compose with `+`. The same object evaluates densely and, as `bias.score_mod`, goes into flex_attention.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zoo.nn.masks import Index, at, indices, pick


class Bias:
    """A function `(b, h, q, k) -> float`; subclasses are frozen dataclasses."""

    batch: int = 1
    heads: int = 1
    hides: bool = False  # it may hold -inf

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        raise NotImplementedError

    def __add__(self, other: "Bias") -> "Bias":
        return Sum(self, other)

    def score_mod(self, score: Tensor, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        """flex_attention's form."""
        return score + self(b, h, q, k)

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        """float [B or 1, H, N, M]; with fewer queries than keys the queries are the last ones."""
        index = indices(queries, keys, device, batch=self.batch, heads=self.heads, shift=keys - queries)
        return self(*index)


@dataclass(frozen=True)
class ALiBi(Bias):
    """Attention with linear biases (Press et al. 2022): -slope(head) * |q - k|, for any number of heads."""

    heads: int

    def slopes(self) -> list[float]:
        """2^(-8/H), 2^(-16/H), ... ; between powers of two, every other slope of the next one fills up."""
        below = 1 << (self.heads.bit_length() - 1)
        first = [2.0 ** (-8 * (i + 1) / below) for i in range(below)]
        between = [2.0 ** (-4 * (i + 1) / below) for i in range(0, 2 * (self.heads - below), 2)]
        return first + between

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        slopes = torch.tensor(self.slopes(), device=q.device)
        return -slopes[h] * (q - k).abs()


@dataclass(frozen=True, eq=False)
class T5RelativeBias(Bias):
    """T5's relative positions (Raffel et al. 2020): one learned number per head and bucket of the distance k - q.

    table: [buckets, H]. Half of the buckets hold one distance each, the others grow like a logarithm up to
    `max_distance`. Bidirectional models spend half of all buckets on keys after the query.
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


@dataclass(frozen=True, eq=False)
class TensorBias(Bias):
    """A float tensor [B or 1, H or 1, N, M] that somebody made already (it may be learned)."""

    values: Tensor

    @property
    def batch(self) -> int:  # type: ignore[override]
        return self.values.shape[0]

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.values.shape[1]

    @property
    def hides(self) -> bool:  # type: ignore[override]
        return True

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return pick(self.values, b, h, q, k)

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        if self.values.shape[2] in (1, queries) and self.values.shape[3] in (1, keys):
            return self.values.expand(-1, -1, queries, keys)
        return super().dense(queries, keys, device)


@dataclass(frozen=True)
class Sum(Bias):
    """Both."""

    left: Bias
    right: Bias

    @property
    def batch(self) -> int:  # type: ignore[override]
        return max(self.left.batch, self.right.batch)

    @property
    def heads(self) -> int:  # type: ignore[override]
        return max(self.left.heads, self.right.heads)

    @property
    def hides(self) -> bool:  # type: ignore[override]
        return self.left.hides or self.right.hides

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.left(b, h, q, k) + self.right(b, h, q, k)

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        return self.left.dense(queries, keys, device) + self.right.dense(queries, keys, device)


@dataclass(frozen=True, eq=False)
class BiasView(Bias):
    """A bias as one forward sees it; see `masks.View`. Learned biases are evaluated once a forward, too.

    Under activation checkpointing `memo` is None: a recomputed block must save what it saved the first time.
    """

    inner: Bias
    q: Tensor | None = None
    k: Tensor | None = None
    memo: dict[Any, Tensor] | None = field(default_factory=dict, repr=False)

    @property
    def batch(self) -> int:  # type: ignore[override]
        return max([self.inner.batch, *(x.shape[0] for x in (self.q, self.k) if x is not None)])

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.inner.heads

    @property
    def hides(self) -> bool:  # type: ignore[override]
        return self.inner.hides

    def __add__(self, other: Bias) -> Bias:
        return replace(self, inner=self.inner + other, memo={})

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.inner(b, h, at(self.q, b, q), at(self.k, b, k))

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        memo = None if torch.compiler.is_compiling() else self.memo
        if memo is not None and (queries, keys) in memo:
            return memo[queries, keys]
        shift = keys - queries if self.q is None else 0
        value = self(*indices(queries, keys, device, batch=self.batch, heads=self.heads, shift=shift))
        if memo is not None:
            memo[queries, keys] = value
        return value


def as_bias(bias: "Bias | Tensor | None") -> Bias | None:
    """A float tensor (broadcastable to [B, H, N, M]) -> Tabled; a bias or None -> itself."""
    if bias is None or isinstance(bias, Bias):
        return bias
    if not bias.is_floating_point():
        raise ValueError(
            f"a bias is a zoo.nn.Bias or a float tensor, given a tensor of {bias.dtype}; masks go to mask="
        )
    return TensorBias(bias[(None,) * (4 - bias.ndim)])
