"""Who may see whom. A mask is a predicate on indices, never a stored matrix.

`mask(b, h, q, k)` is written once, on broadcasting index tensors, and is at the same time

- the dense reference: `mask.dense(queries, keys)`, a bool tensor [B or 1, H or 1, N, M], True where a key may be seen;
- flex_attention's `mask_mod`: `create_block_mask(mask, ...)`;
- what a fused kernel recognizes by its parts: nothing hidden -> no mask, `CAUSAL` alone -> `is_causal=True`.

Masks compose with `&` and `|` and are equal by value: `CAUSAL & Window(127, 0)` slides a window, `CAUSAL | Prefix(5)`
is a prefix language model, `CAUSAL & Documents(ids)` packing. Where there are fewer queries than keys, the queries are
the last ones (row i stands at position i + M - N), which is what decoding with a cache needs.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

Index = Tensor


def indices(
    queries: int, keys: int, device: Any, *, batch: int = 1, heads: int = 1, shift: int = 0
) -> tuple[Index, ...]:
    """Index tensors b [B,1,1,1], h [1,H,1,1], q [1,1,N,1] (raised by shift), k [1,1,1,M]."""
    b, h, q, k = (torch.arange(n, device=device) for n in (batch, heads, queries, keys))
    return b.view(-1, 1, 1, 1), h.view(1, -1, 1, 1), (q + shift).view(1, 1, -1, 1), k.view(1, 1, 1, -1)


class Mask:
    """A predicate `(b, h, q, k) -> bool`; subclasses are frozen dataclasses."""

    batch: int = 1  # rows it tells apart; 1 = the same for all
    heads: int = 1

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        raise NotImplementedError

    def __and__(self, other: "Mask") -> "Mask":
        if isinstance(self, NoMask) or isinstance(other, MaskView):
            return other if isinstance(self, NoMask) else other & self
        return self if isinstance(other, NoMask) or other in self.parts() else And(self, other)

    def __or__(self, other: "Mask") -> "Mask":
        if isinstance(self, NoMask) or isinstance(other, NoMask):
            return NO_MASK
        return Or(self, other)

    def parts(self) -> tuple["Mask", ...]:
        """The masks whose conjunction this is; empty for `FULL`."""
        return (self,)

    def hides_nothing(self, queries: int, keys: int) -> bool:
        """Known, without looking at tensors, to be True everywhere at this size."""
        return False

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        """bool [B or 1, H or 1, N, M], True where a key may be seen (a size of 1 broadcasts)."""
        index = indices(queries, keys, device, batch=self.batch, heads=self.heads, shift=keys - queries)
        return self(*index)

    def evaluate(self, queries: int, keys: int, device: Any) -> tuple[Tensor, Tensor | None]:
        """(allowed, blind): `dense`, with rows that see nobody opened, and where those rows are (None: there are none).

        Kernels differ on a row without keys (0, NaN or a mean); computing it and then zeroing it is the same in all.
        """
        allowed = self.dense(queries, keys, device)
        blind = ~allowed.any(-1, keepdim=True)
        if not torch.compiler.is_compiling() and not blind.any():
            return allowed, None
        return allowed | blind, blind


@dataclass(frozen=True)
class NoMask(Mask):
    """Everyone sees everyone."""

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return (q == q) & (k == k)  # True, in the shape of both

    def parts(self) -> tuple[Mask, ...]:
        return ()

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return True


@dataclass(frozen=True)
class Causal(Mask):
    """Nobody sees the future."""

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return q >= k

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return queries == 1


@dataclass(frozen=True)
class Window(Mask):
    """At most `left` keys before and `right` keys after the query."""

    left: int
    right: int

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return (q - k <= self.left) & (k - q <= self.right)

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return self.left >= keys - 1 and (self.right >= keys - 1 or queries == 1)  # behind the last one is no key


@dataclass(frozen=True)
class Window2D(Mask):
    """A neighborhood on a grid of tokens laid out row by row: at most `rows` up or down and `columns` left or right.

    The `prefix` tokens before the grid (class token, registers) see all and are seen by all.
    """

    grid: tuple[int, int]
    rows: int
    columns: int
    prefix: int = 0

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        width = self.grid[1]
        i, j = q - self.prefix, k - self.prefix
        down = torch.div(i, width, rounding_mode="floor") - torch.div(j, width, rounding_mode="floor")
        near = (down.abs() <= self.rows) & ((i % width - j % width).abs() <= self.columns)
        return near | (i < 0) | (j < 0)


@dataclass(frozen=True)
class Strided(Mask):
    """Every `step`-th key, counted from the query (Child et al. 2019, the strided half)."""

    step: int

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return (q - k) % self.step == 0


@dataclass(frozen=True)
class GlobalTokensMask(Mask):
    """The first `tokens` positions see everyone and are seen by everyone."""

    tokens: int

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return (q < self.tokens) | (k < self.tokens)

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return self.tokens >= keys


@dataclass(frozen=True)
class RandomBlocks(Mask):
    """Each block of `block` positions is linked with `count` earlier blocks, drawn by a hash (BigBird's random graph).

    A link runs both ways. What a pair of blocks sees depends on the pair alone, not on the length of the sequence:
    so a padded row, the same row alone and a decoder that sees one token after the other all have the same graph.
    """

    block: int
    count: int
    seed: int = 0

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        i, j = (torch.div(x, self.block, rounding_mode="floor").long() for x in (q, k))
        later, earlier = torch.maximum(i, j), torch.minimum(i, j)
        linked = later < 0
        for draw in range(self.count):
            linked = linked | (_hash(later, draw, self.seed) % later.clamp(min=1) == earlier)
        return linked & (later > earlier)


def _hash(x: Tensor, draw: int, seed: int) -> Tensor:
    """int64 -> well mixed, non-negative int64 (two rounds of multiply and shift)."""
    x = x * 0x2545F4914F6CDD1D + (draw * 0x1B873593 + seed * 0x3C6EF372 + 0x165667B1)
    x = (x ^ (x >> 29)) * 0x3C79AC492BA7B653
    return ((x ^ (x >> 32)) * 0x1C69B3F74AC4AE35 >> 17) & 0x3FFFFFFFFFFF


@dataclass(frozen=True)
class Prefix(Mask):
    """The first `length` keys are seen by everyone; `CAUSAL | Prefix(n)` is a prefix language model."""

    length: int

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return (k < self.length) & (q == q)


@dataclass(frozen=True, eq=False)
class PaddingMask(Mask):
    """`keep` [B, M] is True (or 1) for a real key; transformers' `attention_mask`."""

    keep: Tensor = field(repr=False)

    @property
    def batch(self) -> int:  # type: ignore[override]
        return self.keep.shape[0]

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.keep[b, k].bool() & (q == q)


@dataclass(frozen=True, eq=False)
class DocumentMask(Mask):
    """Several documents in one row: `ids` [B, N] names the document of each token; nobody sees another document."""

    ids: Tensor = field(repr=False)

    @property
    def batch(self) -> int:  # type: ignore[override]
        return self.ids.shape[0]

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.ids[b, q] == self.ids[b, k]


class GraphMask(Mask):
    """A graph of `nodes`: query `edges[1, e]` sees key `edges[0, e]` (source, target, as in PyTorch Geometric)."""

    def __init__(self, edges: Tensor, nodes: int, self_loops: bool = True) -> None:
        if edges.ndim != 2 or edges.shape[0] != 2:
            raise ValueError(f"edges are [2, E], given {tuple(edges.shape)} (nodes={nodes})")
        if edges.numel() and not 0 <= int(edges.min()) <= int(edges.max()) < nodes:
            raise ValueError(f"edges name nodes 0 to {int(edges.max())}, but nodes={nodes}")
        loops = torch.arange(nodes, device=edges.device) if self_loops else edges.new_empty(0)
        source, target = torch.cat([edges[0], loops]), torch.cat([edges[1], loops])
        self.nodes = nodes
        self.codes = torch.unique(target * nodes + source)  # sorted: a look-up instead of an N x N matrix

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        code = q * self.nodes + k
        if len(self.codes) == 0:
            return code < 0
        place = torch.searchsorted(self.codes, code.contiguous()).clamp(max=len(self.codes) - 1)
        return self.codes[place] == code


@dataclass(frozen=True, eq=False)
class TensorMask(Mask):
    """A bool tensor [B or 1, H or 1, N, M] that somebody made already, True where a key may be seen."""

    values: Tensor = field(repr=False)

    @property
    def batch(self) -> int:  # type: ignore[override]
        return self.values.shape[0]

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.values.shape[1]

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return pick(self.values, b, h, q, k)

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        if self.values.shape[2] in (1, queries) and self.values.shape[3] in (1, keys):
            return self.values.expand(-1, -1, queries, keys)
        return super().dense(queries, keys, device)


def pick(values: Tensor, b: Index, h: Index, q: Index, k: Index) -> Tensor:
    """values[b, h, q, k], where a size of 1 broadcasts."""
    return values[tuple(i if n > 1 else i * 0 for i, n in zip((b, h, q, k), values.shape, strict=True))]


@dataclass(frozen=True)
class Pair(Mask):
    """Two masks."""

    left: Mask
    right: Mask

    @property
    def batch(self) -> int:  # type: ignore[override]
        return max(self.left.batch, self.right.batch)

    @property
    def heads(self) -> int:  # type: ignore[override]
        return max(self.left.heads, self.right.heads)


@dataclass(frozen=True)
class And(Pair):
    """Both."""

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.left(b, h, q, k) & self.right(b, h, q, k)

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        return self.left.dense(queries, keys, device) & self.right.dense(queries, keys, device)

    def parts(self) -> tuple[Mask, ...]:
        return self.left.parts() + self.right.parts()

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return self.left.hides_nothing(queries, keys) and self.right.hides_nothing(queries, keys)


@dataclass(frozen=True)
class Or(Pair):
    """Either."""

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.left(b, h, q, k) | self.right(b, h, q, k)

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        return self.left.dense(queries, keys, device) | self.right.dense(queries, keys, device)

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return self.left.hides_nothing(queries, keys) or self.right.hides_nothing(queries, keys)


@dataclass(frozen=True, eq=False)
class MaskView(Mask):
    """A mask as one forward sees it: where its queries and keys stand, which keys are real, what was evaluated already.

    `inner` speaks of positions (which count real tokens only); `q` and `k` [B or 1, N] give the position of each index,
    `keep` [B, M] which keys are real. All layers of a forward share `memo`, so equal masks are evaluated once.
    """

    inner: Mask
    q: Tensor | None = None
    k: Tensor | None = None
    keep: Tensor | None = None
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def batch(self) -> int:  # type: ignore[override]
        return max([self.inner.batch, *(x.shape[0] for x in (self.q, self.k, self.keep) if x is not None)])

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.inner.heads

    @property
    def placed(self) -> bool:
        return self.q is not None

    def __and__(self, other: Mask) -> Mask:
        inner = self.inner & other
        return self if inner is self.inner else replace(self, inner=inner)

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        seen = self.inner(b, h, at(self.q, b, q), at(self.k, b, k))
        return seen if self.keep is None else seen & self.keep[b, k]

    def parts(self) -> tuple[Mask, ...]:
        return self.inner.parts() + (() if self.keep is None else (PaddingMask(self.keep),))

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return not self.placed and self.keep is None and self.inner.hides_nothing(queries, keys)

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        shift = 0 if self.placed else keys - queries
        return self(*indices(queries, keys, device, batch=self.batch, heads=self.heads, shift=shift))

    def evaluate(self, queries: int, keys: int, device: Any) -> tuple[Tensor, Tensor | None]:
        if torch.compiler.is_compiling():  # a graph has common subexpression elimination of its own
            return super().evaluate(queries, keys, device)
        key = (self.inner, queries, keys)
        if key not in self.memo:
            self.memo[key] = super().evaluate(queries, keys, device)
        return self.memo[key]


def at(positions: Tensor | None, b: Index, i: Index) -> Tensor:
    """positions[b, i]; the index itself where no positions are given."""
    if positions is None:
        return i
    return positions[b if positions.shape[0] > 1 else b * 0, i]


def as_mask(mask: "Mask | Tensor | None") -> Mask:
    """None -> FULL, a bool tensor (broadcastable to [B, H, N, M]) -> Given, a mask -> itself."""
    if mask is None:
        return NO_MASK
    if isinstance(mask, Mask):
        return mask
    if mask.dtype != torch.bool:
        raise ValueError(
            f"a mask is a zoo.nn.Mask or a bool tensor, True where a key may be seen; given a tensor of {mask.dtype}. "
            "Numbers that are added to the scores go to bias="
        )
    return TensorMask(mask[(None,) * (4 - mask.ndim)])


NO_MASK = NoMask()
CAUSAL = Causal()
