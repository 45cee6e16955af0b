"""The cache of attention to a sliding window and the first few tokens: its size does not grow with the text.

Keys that no later token can see are dropped. The outputs are those of a cache of all keys: masks and biases are
evaluated at the places of the keys that are left.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.nn.index_functions import Index, Pair, TensorFunction
from zoo.nn.kv_cache import KVCache
from zoo.nn.masks import (
    And,
    AnyMask,
    Causal,
    GlobalTokensMask,
    Mask,
    MaskView,
    NoMask,
    Or,
    Strided,
    TensorMask,
    Window,
    as_mask,
)
from zoo.nn.position_biases import (
    ALiBi,
    AnyBias,
    Bias,
    BiasView,
    DistanceBias,
    Slopes,
    T5RelativeBias,
    TensorBias,
    as_bias,
)

MARGIN = 8  # tokens that can always be removed again: more than speculative decoding proposes
MIN_ROOM = 32  # tokens at least that are appended before the kept ones move to the start of the buffer
RELATIVE = (NoMask, Causal, Window, Strided, ALiBi, Slopes, T5RelativeBias, DistanceBias)  # of the distance q - k alone


def new_cache(pattern: Mask, batch: int, heads: int, capacity: int, dim: int, like: Tensor) -> KVCache:
    """The cache of an attention kind: a `WindowCache` if its pattern hides all but a window and the first tokens."""
    reach = reach_of(pattern)
    if reach is None:
        return KVCache(batch, heads, capacity, dim, like)
    return WindowCache(batch, heads, capacity, dim, like, *reach)


def reach_of(pattern: Mask) -> tuple[int, int] | None:
    """(left, first): a query at q sees no earlier keys than q - left but the `first` ones. None if it sees others."""
    if type(pattern) is Window:
        return max(pattern.left, 0), 0
    if isinstance(pattern, And):
        return reach_of(pattern.left) or reach_of(pattern.right)
    if isinstance(pattern, Or):
        parts = pattern.leaves()
        windows = [part.left for part in parts if isinstance(part, Window)]
        tokens = [part.tokens for part in parts if isinstance(part, GlobalTokensMask)]
        if windows and len(windows) + len(tokens) == len(parts):
            return max(*windows, 0), max(tokens, default=0)
    return None


@dataclass(frozen=True, eq=False)
class Slots:
    """Which tokens the slots of a cache have, where rows differ by their padding.

    columns [B, n]: the place of each token in its row, counted with padding; -1 for an empty slot. dropped [B]: how
    many real tokens of a row the cache no longer has.
    """

    columns: Tensor
    dropped: Tensor

    def real(self, keep: Tensor) -> Tensor:
        """Which slots have a real token [B, n]; keep [B, M]: True for real ones among all tokens so far."""
        return (self.columns >= 0) & keep.gather(1, self.columns.clamp(min=0))

    def reorder(self, index: Tensor) -> "Slots":
        return Slots(self.columns.index_select(0, index), self.dropped.index_select(0, index))


class Step(NamedTuple):
    """How caches of the same layout append new tokens of padded rows; the layers of a forward share it.

    before [B, n]: the slots to keep before they are appended, None for all; after: likewise, afterwards. shown: the
    slots that the new tokens attend to; slots: those that remain. mask, bias: at their positions.
    """

    before: Tensor | None
    after: Tensor | None
    shown: Slots
    slots: Slots
    mask: MaskView
    bias: Bias | None


class WindowCache(KVCache):
    """Cache of the last keys and values and of the first ones, [B, G, n, P]; n does not grow with the text.

    left: how many keys before it a query sees; first: the global tokens at the start of a row, which all see. New
    tokens are appended to a buffer that is a little longer than what they see, and when it is full, the last `left +
    MARGIN` tokens move to its start. Positions count the real tokens of each row, so rows of padded batches drop
    different tokens.
    """

    def __init__(
        self, batch: int, heads: int, capacity: int, dim: int, like: Tensor, left: int, first: int = 0
    ) -> None:
        self.left, self.first = left, first
        self.kept = first + left + MARGIN
        self.most = self.kept + max(MIN_ROOM, left // 8)
        super().__init__(batch, heads, min(capacity, self.most), dim, like)
        self.used = 0
        self.slots: Slots | None = None  # None: of all rows the first tokens and the last ones
        self.shown: Tensor | int = 0  # what the last tokens attended to: columns [B, n], or the last of the slots

    def extend(self, k: Tensor, v: Tensor, mask: AnyMask, bias: AnyBias) -> tuple[Tensor, Tensor, Mask, Bias | None]:
        """Append k, v [B, G, N, P]; returns what the new tokens attend to, and mask and bias for it."""
        mask, bias, new = as_mask(mask), as_bias(bias), k.shape[2]
        if self.slots is not None or (isinstance(mask, MaskView) and mask.keep is not None):
            return self.extend_padded(k, v, mask, bias)
        k, v = self.append(k, v)
        start = 0 if self.first else max(0, k.shape[2] - new - self.left)
        if start:
            k, v = k[:, :, start:], v[:, :, start:]
        self.shown = k.shape[2]
        is_all = self.shown == self.length
        if is_all or (not self.first and is_relative(mask) and is_relative(bias)):
            return k, v, mask, bias
        cache, key = cache_of(mask), ("window", self.left, self.first, self.shown, self.length, bias)
        if key not in cache:
            q = torch.arange(self.length - new, self.length, device=k.device)[None]
            at = q, self.columns_of(self.shown, k.device)[None]
            cache[key] = masked_at(mask, new, *at), None if bias is None else biased_at(bias, new, *at)
        return k, v, *cache[key]

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k, v [B, G, N, P] of rows without padding; returns all that there is of their tokens."""
        assert self.slots is None, "rows with padding are appended by `extend`"
        new = k.shape[2]
        self.make_room(k, new)
        if self.used + new > self.k.shape[2] and self.used > self.kept:
            self.move(self.k, self.v, self.used)
        k, v = self.write(k, v)
        if k.shape[2] > self.most:
            self.move(k, v, k.shape[2])
        self.length += new
        return k, v

    def make_room(self, like: Tensor, new: int) -> None:
        """Give the buffers the dtype of the new keys, and room for as many as they can hold."""
        if like.dtype != self.k.dtype:  # autocast computes them in another dtype than that of the weights
            self.k, self.v = self.k.to(like.dtype), self.v.to(like.dtype)
        end, capacity = self.used + new, self.k.shape[2]
        if end > capacity and capacity < self.most:
            self.grow(min(max(end, 2 * capacity), self.most))

    def write(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values with new ones [B, G, N, P], which are written to the buffers if they fit."""
        end = self.used + k.shape[2]
        if end > self.k.shape[2]:
            old = (t.narrow(2, 0, self.used) for t in (self.k, self.v))
            joined = [torch.cat(pair, 2) if self.used else pair[1] for pair in zip(old, (k, v), strict=True)]
            return joined[0], joined[1]
        self.k.narrow(2, self.used, k.shape[2]).copy_(k)
        self.v.narrow(2, self.used, k.shape[2]).copy_(v)
        self.used = end
        return self.k.narrow(2, 0, end), self.v.narrow(2, 0, end)

    def move(self, k: Tensor, v: Tensor, tokens: int) -> None:
        """Keep the first of k, v [B, G, tokens, P] and the last `left + MARGIN` of them."""
        last = self.kept - self.first
        for own, other in ((self.k, k), (self.v, v)):
            own[:, :, self.first : self.kept] = other[:, :, tokens - last : tokens].clone()
            if other is not own:
                own[:, :, : self.first] = other[:, :, : self.first]
        self.used = self.kept

    def columns_of(self, count: int, device: Any) -> Tensor:
        """The columns [count] of the first slots and the last ones of rows without padding."""
        first = min(self.first, count)
        last = torch.arange(self.length - (count - first), self.length, device=device)
        return torch.cat([torch.arange(first, device=device), last])

    # --- padding ------------------------------------------------------------------------------------------------------

    def extend_padded(
        self, k: Tensor, v: Tensor, mask: Mask, bias: Bias | None
    ) -> tuple[Tensor, Tensor, Mask, Bias | None]:
        """`extend` for rows of which each has padding of its own."""
        new = k.shape[2]
        cache, key = cache_of(mask), ("padded window", self.left, self.first, self.used, self.length, bias)
        step: Step | None = cache.get(key)
        if step is None:
            step = cache[key] = self.plan(mask, bias, len(k), new, k.device)
        if step.before is not None:
            self.take(self.k, self.v, step.before)
        self.make_room(k, new)
        k, v = self.write(k, v)
        if step.after is not None:
            self.take(k, v, step.after)
        self.length += new
        self.slots, self.shown = step.slots, step.shown.columns
        return k, v, step.mask, step.bias

    def plan(self, mask: Mask, bias: Bias | None, rows: int, new: int, device: Any) -> Step:
        """How to append `new` tokens."""
        before, total = self.length, self.length + new
        view = mask if isinstance(mask, MaskView) else MaskView(mask)
        keep = torch.ones(rows, total, dtype=torch.bool, device=device) if view.keep is None else view.keep.bool()
        places = (keep.long().cumsum(1) - 1).clamp(min=0) if view.k is None else view.k.expand(rows, -1)
        slots = self.slots
        if slots is None:
            columns = self.columns_of(self.used, device).expand(rows, -1)
            slots = Slots(columns, columns.new_full((rows,), before - self.used))
        self.check(slots, keep[:, :before])
        index, after = None, None
        if slots.columns.shape[1] + new > self.most:
            index, slots = self.select(slots, keep[:, :before], places)
        newest = torch.arange(before, total, device=device).expand(rows, -1)
        shown = slots = Slots(torch.cat([slots.columns, newest], 1), slots.dropped)
        if shown.columns.shape[1] > self.most:
            after, slots = self.select(shown, keep, places)
        q, at = places[:, before:], places.gather(1, shown.columns.clamp(min=0))
        seen = MaskView(view.inner, q, at, shown.real(keep))
        return Step(index, after, shown, slots, seen, None if bias is None else biased_at(bias, new, q, at))

    def select(self, slots: Slots, keep: Tensor, places: Tensor) -> tuple[Tensor, Slots]:
        """The slots that later tokens need, the last `MARGIN` tokens removed or not: their index [B, n], and them.

        keep [B, M]: real tokens; places [B, M]: their positions.
        """
        real, at = slots.real(keep), places.gather(1, slots.columns.clamp(min=0))
        needed = real & ((at < self.first) | (at >= keep.sum(1, keepdim=True) - self.left - MARGIN))
        order = needed.byte().argsort(dim=1, stable=True)
        index = order[:, order.shape[1] - int(needed.sum(1).max()) :]
        columns = slots.columns.masked_fill(~needed, -1).gather(1, index)
        return index, Slots(columns, slots.dropped + (real & ~needed).sum(1))

    def take(self, k: Tensor, v: Tensor, index: Tensor) -> None:
        """Keep the tokens of k, v [B, G, M, P] at index [B, n]."""
        self.used = index.shape[1]
        for own, other in ((self.k, k), (self.v, v)):
            at = index[:, None, :, None].expand(-1, own.shape[1], -1, own.shape[3])
            own[:, :, : self.used] = other.gather(2, at)

    def check(self, slots: Slots, keep: Tensor) -> None:
        """Raises ValueError if tokens are missing that the next ones need: their padding has changed."""
        found = slots.real(keep).sum(1)
        same = slots.dropped + found == keep.sum(1)
        enough = (slots.dropped == 0) | (found >= self.first + self.left)
        if not bool((same & enough).all()):
            raise ValueError(
                "attention_mask differs from earlier ones at tokens that the cache no longer has: it keeps the last "
                f"{self.left + MARGIN} tokens of each row; pass the same mask with new columns, or read the text again"
            )

    # --- changes ------------------------------------------------------------------------------------------------------

    def can_crop(self, length: int) -> bool:
        if length > self.length:
            return False
        if self.slots is not None:
            left = ((self.slots.columns >= 0) & (self.slots.columns < length)).sum(1)
            return bool(((self.slots.dropped == 0) | (left >= self.first + self.left)).all())
        earliest = self.length - (self.used - self.first)  # of the last tokens
        return self.length == self.used or length <= self.first or length - self.left >= earliest

    def crop(self, length: int) -> None:
        if length > self.length:
            raise ValueError(f"cannot crop a cache of {self.length} tokens to {length}")
        if not self.can_crop(length):
            raise ValueError(
                f"cannot crop a cache of {self.length} tokens to {length}: attention to a window of {self.left + 1} "
                f"tokens has dropped those that came before, except the last {MARGIN}; read the text again from its "
                "start"
            )
        if self.slots is None:
            self.used = length if length <= self.first else self.used - (self.length - length)
        else:
            columns = self.slots.columns.masked_fill(self.slots.columns >= length, -1)
            self.used = int(((columns >= 0).any(0) * torch.arange(1, columns.shape[1] + 1)).max()) if length else 0
            self.slots = replace(self.slots, columns=columns[:, : self.used])
        self.length = length

    def reorder(self, index: Tensor) -> None:
        super().reorder(index)
        self.slots = None if self.slots is None else self.slots.reorder(index)

    def tokens(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of all slots, and their columns [1 or B, n], -1 for an empty slot."""
        columns = self.columns_of(self.used, self.k.device)[None] if self.slots is None else self.slots.columns
        return self.k[:, :, : self.used], self.v[:, :, : self.used], columns

    def with_dropped(self, weights: Tensor, rows: list[int] | None) -> Tensor:
        """Weights [b, H, N, n] of the last tokens that were appended as weights of all tokens so far [b, H, N, M]:
        dropped ones have the weight 0. rows: which rows of the batch they are, None for all."""
        if isinstance(self.shown, int):
            if self.shown == self.length:
                return weights
            columns = self.columns_of(self.shown, weights.device)[None]
        else:
            columns = self.shown if rows is None else self.shown[rows]
        full = weights.new_zeros(*weights.shape[:3], self.length)
        return full.scatter_add_(3, columns.clamp(min=0)[:, None, None].expand(weights.shape), weights)


# --- masks and biases -----------------------------------------------------------------------------------------------


def cache_of(mask: Mask) -> dict[Any, Any]:
    """Where layers share what they evaluate in a forward."""
    return mask.cache if isinstance(mask, MaskView) and not torch.compiler.is_compiling() else {}


def is_relative(function: Mask | Bias | None) -> bool:
    """Whether a mask or bias depends on the distance of query and key alone, as far as is known."""
    if isinstance(function, MaskView | BiasView):
        moved = function.q is not None or function.k is not None or function.keep is not None
        return not moved and is_relative(function.inner)
    if isinstance(function, Pair):
        return is_relative(function.left) and is_relative(function.right)
    return function is None or type(function) in RELATIVE


def masked_at(mask: Mask, new: int, q: Tensor, k: Tensor) -> Mask:
    """A mask at positions q [1, N] of queries and k [1, n] of keys."""
    return MaskView(mask.inner if isinstance(mask, MaskView) else at_positions(mask, new, q), q, k)


def biased_at(bias: Bias, new: int, q: Tensor, k: Tensor) -> Bias:
    """A bias at positions q [B or 1, N] of queries and k [B or 1, n] of keys."""
    return BiasView(bias.inner if isinstance(bias, BiasView) else at_positions(bias, new, q), q, k)


def at_positions(function: Any, new: int, q: Tensor) -> Any:
    """A mask or bias of positions: tensors with a row for each of the new queries get them by their positions q."""
    if isinstance(function, Pair):
        parts = {name: at_positions(getattr(function, name), new, q) for name in ("left", "right")}
        return replace(function, **parts)
    if isinstance(function, TensorFunction) and 1 < function.values.shape[2] == new:
        return (NewRowsMask if isinstance(function, Mask) else NewRowsBias)(function.values, int(q[0, 0]))
    return function


@dataclass(frozen=True, eq=False)
class NewRowsMask(TensorMask):
    """A tensor whose first row is that of position `start`."""

    start: int = 0

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return super().__call__(b, h, q - self.start, k)


@dataclass(frozen=True, eq=False)
class NewRowsBias(TensorBias):
    """A tensor whose first row is that of position `start`."""

    start: int = 0

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return super().__call__(b, h, q - self.start, k)
