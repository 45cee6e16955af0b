"""Attention masks. A mask is a predicate on indices, not a stored matrix.

`mask(b, h, q, k)` is defined once, on broadcasting index tensors, and serves as

- the dense reference: `mask.dense(queries, keys)`, a bool tensor [B or 1, H or 1, N, M], True where a query may attend;
- flex_attention's `mask_mod`: `create_block_mask(mask, ...)`;
- input of fused kernels, which recognize its parts: nothing masked -> no mask, `CAUSAL` alone -> `is_causal=True`.

Masks are combined with `&` and `|` and compared by value: `CAUSAL & Window(127, 0)` is a causal sliding window,
`CAUSAL | Prefix(5)` a prefix language model, `CAUSAL & DocumentMask(ids)` sequence packing. With fewer queries than
keys, the queries are the last positions (row i is at position i + M - N), as in decoding with a cache.
"""

import operator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zoo.nn.index_functions import Index, IndexFunction, Pair, TensorFunction, View
from zoo.nn.padding import Groups


class Mask(IndexFunction):
    """Base class: a predicate `(b, h, q, k) -> bool`, True where query q may attend to key k. Subclasses are frozen."""

    def __and__(self, other: "Mask") -> "Mask":
        if isinstance(self, NoMask) or isinstance(other, MaskView):
            return other if isinstance(self, NoMask) else other & self
        return self if isinstance(other, NoMask) or other in self.parts() else And(self, other)

    def __or__(self, other: "Mask") -> "Mask":
        if isinstance(self, NoMask) or isinstance(other, NoMask):
            return NO_MASK
        return Or(self, other)

    def parts(self) -> tuple["Mask", ...]:
        """The masks of which this is the conjunction; empty for `NO_MASK`."""
        return (self,)

    def hides_nothing(self, queries: int, keys: int) -> bool:
        """Whether the mask is True everywhere at this size, as far as is known without reading tensors."""
        return False

    def hides_keys_alone(self) -> bool:
        """Whether all queries see the same keys, as with padding."""
        return all(isinstance(part, PaddingMask) for part in self.parts())

    def evaluate(self, queries: int, keys: int, device: Any) -> tuple[Tensor, Tensor | None]:
        """Returns (allowed, fully_masked): the dense mask with fully masked rows set to True, and those rows or None.
        Both are [B, 1, 1, M] where all queries see the same keys.

        Kernels differ on fully masked rows (0, NaN or a mean), so callers compute them unmasked and then zero them.
        """
        allowed = self.dense(1 if self.hides_keys_alone() else queries, keys, device)
        fully_masked = ~allowed.any(-1, keepdim=True)
        if allowed.device.type != "cuda" and not torch.compiler.is_compiling() and not fully_masked.any():
            return allowed, None  # on a GPU, looking would wait for it
        return allowed | fully_masked, fully_masked


@dataclass(frozen=True)
class NoMask(Mask):
    """No mask: every query attends to every key."""

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return (q == q) & (k == k)  # True, in the shape of both

    def parts(self) -> tuple[Mask, ...]:
        return ()

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return True


@dataclass(frozen=True)
class Causal(Mask):
    """Causal mask: a query attends to itself and to earlier keys."""

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return q >= k

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return queries == 1


@dataclass(frozen=True)
class Window(Mask):
    """Sliding window: at most `left` keys before and `right` keys after the query."""

    left: int
    right: int

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return (q - k <= self.left) & (k - q <= self.right)

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return self.left >= keys - 1 and (self.right >= keys - 1 or queries == 1)  # no key follows the last one


@dataclass(frozen=True)
class Window2D(Mask):
    """Window on a grid of tokens in row-major order: at most `rows` up or down and `columns` left or right.

    The `prefix` tokens before the grid (class token, registers) attend to all tokens and are attended by all.
    """

    grid: tuple[int, int]
    rows: int
    columns: int
    prefix: int = 0

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        width = self.grid[1]
        i, j = q - self.prefix, k - self.prefix
        down = torch.div(i, width, rounding_mode="floor") - torch.div(j, width, rounding_mode="floor")
        inside = (down.abs() <= self.rows) & ((i % width - j % width).abs() <= self.columns)
        return inside | (i < 0) | (j < 0)


@dataclass(frozen=True)
class Strided(Mask):
    """Every `step`-th key, counted from the query (the strided part of Child et al. 2019)."""

    step: int

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return (q - k) % self.step == 0


@dataclass(frozen=True)
class GlobalTokensMask(Mask):
    """Global tokens: the first `tokens` positions attend to all and are attended by all."""

    tokens: int

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return (q < self.tokens) | (k < self.tokens)

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return self.tokens >= keys


@dataclass(frozen=True)
class RandomBlocks(Mask):
    """BigBird's random graph: each block of `block` positions is linked with `count` earlier blocks, chosen by a hash.

    Links go both ways. A link depends on the pair of blocks alone, not on the length of the sequence, so a padded row,
    the same row without padding and token-by-token decoding have the same graph.
    """

    block: int
    count: int
    seed: int = 0

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        i, j = (torch.div(x, self.block, rounding_mode="floor").long() for x in (q, k))
        return linked(i, j, *([self.earlier(x, link) for link in range(self.count)] for x in (i, j)))

    def earlier(self, blocks: Tensor, link: int | Tensor) -> Tensor:
        """The earlier block that each block is linked with; -1 for the first block, which has none."""
        return torch.where(blocks > 0, _hash(blocks, link, self.seed) % blocks.clamp(min=1), -1)

    def on_device(self, keys: int, device: Any) -> Mask:
        blocks = torch.arange(-(-keys // self.block), device=device)
        links = torch.arange(self.count, device=device)[:, None]
        return LinkedBlocks(self.block, self.earlier(blocks, links).int())


@dataclass(frozen=True, eq=False)
class LinkedBlocks(Mask):
    """`RandomBlocks` with the links looked up instead of computed for each pair: earlier [links, blocks]."""

    block: int
    earlier: Tensor

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        i, j = (torch.div(x, self.block, rounding_mode="floor") for x in (q, k))
        links = range(self.earlier.shape[0])
        return linked(i, j, *([self.earlier[x * 0 + link, x] for link in links] for x in (i, j)))


def linked(i: Tensor, j: Tensor, before_i: list[Tensor], before_j: list[Tensor]) -> Tensor:
    """Whether one of blocks i and j is among the blocks that are linked with the other, and before it."""
    found = (i < 0) & (j < 0)
    for a, b in zip(before_i, before_j, strict=True):
        found = found | (a == j) | (b == i)
    return found


def _hash(x: Tensor, link: int | Tensor, seed: int) -> Tensor:
    """Hash of int64 to non-negative int64 (two rounds of multiply and shift)."""
    x = x * 0x2545F4914F6CDD1D + (link * 0x1B873593 + seed * 0x3C6EF372 + 0x165667B1)
    x = (x ^ (x >> 29)) * 0x3C79AC492BA7B653
    return ((x ^ (x >> 32)) * 0x1C69B3F74AC4AE35 >> 17) & 0x3FFFFFFFFFFF


@dataclass(frozen=True)
class Prefix(Mask):
    """The first `length` keys are visible to all queries; `CAUSAL | Prefix(n)` is a prefix language model."""

    length: int

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return (k < self.length) & (q == q)


@dataclass(frozen=True, eq=False)
class PaddingMask(Mask):
    """Padding mask: `keep` [B, M] is True or 1 for real keys, as in transformers' `attention_mask`."""

    keep: Tensor = field(repr=False)

    @property
    def batch(self) -> int:  # type: ignore[override]
        return self.keep.shape[0]

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.keep[b, k].bool() & (q == q)


@dataclass(frozen=True, eq=False)
class DocumentMask(Mask):
    """Packed documents: `ids` [B, N] is the document number of each token; tokens attend within their document."""

    ids: Tensor = field(repr=False)

    @property
    def batch(self) -> int:  # type: ignore[override]
        return self.ids.shape[0]

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.ids[b, q] == self.ids[b, k]


class TensorMask(TensorFunction, Mask):
    """A precomputed mask: a bool tensor [B or 1, H or 1, N, M], True where a query may attend."""


class And(Pair, Mask):
    """True where both masks are True."""

    combine = operator.and_

    def parts(self) -> tuple[Mask, ...]:
        return self.left.parts() + self.right.parts()

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return self.left.hides_nothing(queries, keys) and self.right.hides_nothing(queries, keys)


class Or(Pair, Mask):
    """True where either mask is True."""

    combine = operator.or_

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return self.left.hides_nothing(queries, keys) or self.right.hides_nothing(queries, keys)


class Without(Pair, Mask):
    """True where the left mask is True and the right one is not."""

    combine = operator.gt


@dataclass(frozen=True, eq=False)
class MaskView(View, Mask):
    """A mask within one forward pass: with the positions of queries and keys, padding, and a cache of results.

    `inner` is a function of positions, which count real tokens only. `q` and `k` [B or 1, N]: position of each index.
    `keep` [B, M]: True for real keys. `rows`: the layout of packed tokens, which attend within their row. All layers of
    a forward share `cache`, so equal masks are evaluated once, and `kernels`, the choices of `zoo.nn.sdpa`.
    """

    keep: Tensor | None = None
    rows: Groups | None = None
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)
    kernels: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __and__(self, other: Mask) -> Mask:
        inner = self.inner & other
        return self if inner is self.inner else replace(self, inner=inner, kernels={})

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        allowed = super().__call__(b, h, q, k)
        if self.rows is not None:
            allowed = allowed & (self.rows.row[q] == self.rows.row[k])
        return allowed if self.keep is None else allowed & self.keep[b, k]

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        if self.depends_on_batch:
            return super().dense(queries, keys, device)
        values: Tensor = self.inner.dense(queries, keys, device)
        return values

    def on_device(self, keys: int, device: Any) -> Mask:
        inner = self.inner.on_device(keys, device)
        if not self.depends_on_batch:
            return inner
        view = MaskView(inner, self.q, self.k, self.keep)
        return view if self.rows is None else And(view, DocumentMask(self.rows.row[None]))

    @property
    def depends_on_batch(self) -> bool:
        """Whether there are positions, padding or packed rows of this forward, or it is the same as `inner`."""
        return not (self.q is None and self.k is None and self.keep is None and self.rows is None)

    def parts(self) -> tuple[Mask, ...]:
        return self.inner.parts() + (() if self.keep is None else (PaddingMask(self.keep),))

    def hides_keys_alone(self) -> bool:
        return self.rows is None and super().hides_keys_alone()

    def hides_nothing(self, queries: int, keys: int) -> bool:
        if self.q is not None or self.keep is not None or self.rows is not None:
            return False
        return self.inner is NO_MASK or self.inner.hides_nothing(queries, keys)

    def evaluate(self, queries: int, keys: int, device: Any) -> tuple[Tensor, Tensor | None]:
        if torch.compiler.is_compiling():  # the compiler eliminates common subexpressions
            return super().evaluate(queries, keys, device)
        key = (self.inner, queries, keys)
        if key not in self.cache:
            self.cache[key] = super().evaluate(queries, keys, device)
        return self.cache[key]


AnyMask = Mask | Tensor | None  # what `as_mask` converts


def as_mask(mask: AnyMask) -> Mask:
    """Convert to a Mask: None -> NO_MASK, a bool tensor (broadcastable to [B, H, N, M]) -> TensorMask."""
    if mask is None:
        return NO_MASK
    if isinstance(mask, Mask):
        return mask
    if mask.dtype != torch.bool:
        raise ValueError(
            f"mask: expected a zoo.nn.Mask or a bool tensor, True where a query may attend, got {mask.dtype}; pass "
            "values that are added to the scores as bias="
        )
    return TensorMask(mask[(None,) * (4 - mask.ndim)])


NO_MASK = NoMask()
"""The mask that hides nothing."""
CAUSAL = Causal()
"""The causal mask."""
