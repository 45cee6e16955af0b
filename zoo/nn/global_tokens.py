"""Tokens with global attention (Longformer, Beltagy et al. 2020): which they are, and how a batch is cut into rows."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.nn.index_functions import Index
from zoo.nn.masks import NO_MASK, AnyMask, Mask, MaskView, PaddingMask, Prefix
from zoo.nn.padding import Groups


@dataclass(frozen=True, eq=False)
class GlobalKeys(Mask):
    """Keys that all queries of a row see: `table` [B, N], True where the token at a position of a row is global."""

    table: Tensor

    @property
    def batch(self) -> int:  # type: ignore[override]
        return self.table.shape[0]

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.table[b, k] & (q == q)


class GlobalRows(NamedTuple):
    """Rows [B, N] that go through attention together.

    places [B, G]: of their global tokens, filled with others where a row has fewer than G; real [B, G]: which of
    them are global. keys: the mask of the global keys. place: their tokens among packed ones; None for all. padded: the
    layout of packed rows that are padded for attention.
    """

    places: Tensor
    real: Tensor
    keys: Mask
    place: tuple[int, int, int] | None = None  # first token, rows, length
    padded: Groups | None = None

    def take(self, x: Tensor) -> Tensor:
        """Of all tokens [., H, ., P]: those of these rows [B, H, N, P]."""
        if self.padded is not None:
            return self.padded.pad(x)
        if self.place is None:
            return x
        start, rows, length = self.place
        return x[0, :, start : start + rows * length].unflatten(1, (rows, length)).transpose(0, 1)

    def put(self, y: Tensor) -> Tensor:
        """The inverse of `take`; packed tokens of several rows are concatenated by the caller."""
        if self.padded is not None:
            return self.padded.unpad(y)
        return y if self.place is None else y.transpose(0, 1).flatten(1, 2)[None]


@dataclass(frozen=True, eq=False)
class GlobalTokens:
    """The global tokens of one forward pass: flags [B, N], True at them, never at padding; most: of them in a row.

    first: every row has its first `first` tokens as global ones and no others; None where that is not known. rows: as
    they go through attention, see `for_forward`. mask: for padded rows.
    """

    flags: Tensor
    most: int
    first: int | None = None
    rows: tuple[GlobalRows, ...] = ()
    mask: Mask | None = None

    @classmethod
    def of(cls, mask: Tensor, keep: Tensor | None) -> "GlobalTokens | None":
        """From global_attention_mask [B, N] and keep [B, N], 1 or True for real tokens; None if no token is global.

        Waits for the device once. Raises ValueError for a mask with numbers other than 0 and 1.
        """
        flags = mask != 0
        if keep is not None:
            flags = flags & (keep != 0)
        if torch.compiler.is_compiling():  # the number is not known: global attention is computed for all tokens
            return cls(flags, flags.shape[1])
        if mask.is_meta:  # the cost of a model is that of one global token in a row
            return cls.leading(mask, keep)
        most, valid = torch.stack([flags.sum(1).max(), (mask == (mask != 0)).all().long()]).tolist()
        if not valid:
            odd = mask[mask != (mask != 0)][0].item()
            raise ValueError(f"global_attention_mask contains {odd}: expected 1 (or True) for global tokens and else 0")
        if not most:
            return None
        leading = cls.leading(flags, keep, most)
        return leading if bool((leading.flags == flags).all()) else cls(flags, most)

    @classmethod
    def leading(cls, like: Tensor, keep: Tensor | None, count: int = 1) -> "GlobalTokens":
        """The first `count` real tokens of each row of `like` [B, N]."""
        if keep is None:
            flags = (torch.arange(like.shape[1], device=like.device) < count).expand(like.shape)
        else:
            real = keep != 0
            flags = real & (real.long().cumsum(1) <= count)
        return cls(flags, min(count, like.shape[1]), count)

    def for_forward(self, keep: Tensor | None, groups: Groups | None) -> "GlobalTokens":
        """With `rows`: of a batch with its padding, keep [B, N], or without it."""
        if groups is None:
            table = self.flags
            if keep is not None and self.first is None:  # masks know positions, which count real tokens
                positions = (keep.long().cumsum(1) - 1).clamp(min=0)
                table = torch.zeros_like(positions).scatter_add(1, positions, table.long()) > 0
            return GlobalTokens(self.flags, self.most, self.first, (self.part(self.flags, table),))
        flags = self.flags.flatten().index_select(0, groups.index)[None]
        if groups.starts is not None:
            padded = groups.pad(flags[:, None, :, None])[:, 0, :, 0]
            rows = (self.part(padded, padded)._replace(padded=groups),)
            return GlobalTokens(flags, self.most, self.first, rows, MaskView(NO_MASK, keep=groups.keep))
        parts, start = [], 0
        for count, length in groups.sizes:
            own = flags[0, start : start + count * length].view(count, length)
            parts.append(self.part(own, own)._replace(place=(start, count, length)))
            start += count * length
        return GlobalTokens(flags, self.most, self.first, tuple(parts))

    def part(self, flags: Tensor, table: Tensor) -> GlobalRows:
        most = min(self.most, flags.shape[1])
        index = flags.long().argsort(dim=1, descending=True, stable=True)[:, :most]
        keys = GlobalKeys(table) if self.first is None else Prefix(self.first)
        return GlobalRows(index, flags.gather(1, index), keys)


class GlobalInputs(NamedTuple):
    """What an attention core gets for global tokens: queries [B, H, G, P] of theirs, keys and values [B, H, N, P] of
    all tokens by their own projections, and `GlobalRows`."""

    q: Tensor
    k: Tensor
    v: Tensor
    rows: GlobalRows

    def select(self, rows: list[int] | None) -> "GlobalInputs":
        """Those of some rows; the mask of the keys is the one of all rows."""
        if rows is None:
            return self
        places, real = self.rows.places[rows], self.rows.real[rows]
        return GlobalInputs(self.q[rows], self.k[rows], self.v[rows], self.rows._replace(places=places, real=real))

    def rectangle(self, rows: slice, length: int) -> "GlobalInputs":
        """Those of some rows that are padded to more than their `length`."""
        keys = self.rows.keys
        keys = GlobalKeys(keys.table[rows, :length]) if isinstance(keys, GlobalKeys) else keys
        places, real = (
            self.rows.places[rows, :length],
            self.rows.real[rows, :length],
        )  # a row has no more global tokens than tokens
        k, v = self.k[rows, :, :length], self.v[rows, :, :length]
        return GlobalInputs(self.q[rows, :, :length], k, v, self.rows._replace(places=places, real=real, keys=keys))

    def write(self, y: Tensor, of_global: Tensor) -> Tensor:
        """y [B, H, N, P] with the rows of global tokens replaced by of_global [B, H, G, P]."""
        index = self.rows.places[:, None, :, None].expand(-1, y.shape[1], -1, y.shape[3])
        real = self.rows.real[:, None, :, None]
        return y.scatter(2, index, torch.where(real, of_global.to(y.dtype), y.gather(2, index)))


def padding_of(mask: AnyMask) -> Mask:
    """The padding of a forward pass alone."""
    keep = mask.keep if isinstance(mask, Mask) else None
    return NO_MASK if keep is None else PaddingMask(keep)
