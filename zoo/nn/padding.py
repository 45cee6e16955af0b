"""Rows of different lengths: masks that mark padding, and the layout of rows packed without it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor

from zoo.utils.transfer import to_device


@dataclass(frozen=True, eq=False)
class Groups:
    """Layout of a packed batch: rows without their padding, concatenated to [1, T, D]; rows of padding only are left
    out.

    sizes: (rows, length) of each run of equally long rows, in order. index [T]: position of each token in the flattened
    batch [B * N]. starts [R + 1], int32: the first token of each row and the end of the last one; only on a GPU, where
    all rows go through one kernel. choices: of the layers of one forward pass, see `zoo.nn.attention`.
    """

    sizes: tuple[tuple[int, int], ...]
    index: Tensor
    starts: Tensor | None = None
    choices: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def longest(self) -> int:
        return max(length for _, length in self.sizes)

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each row [R]."""
        if self.starts is not None:
            return self.starts.diff()
        return torch.tensor([length for rows, length in self.sizes for _ in range(rows)], device=self.index.device)

    @cached_property
    def row(self) -> Tensor:
        """The row of each token [T]."""
        return torch.repeat_interleave(self.lengths, output_size=len(self.index))

    @cached_property
    def positions(self) -> Tensor:
        """Position of each token among the real tokens of its row [T]."""
        starts = self.lengths.cumsum(0) - self.lengths
        return torch.arange(len(self.index), device=self.index.device) - starts[self.row]

    @cached_property
    def keep(self) -> Tensor:
        """[R, L], True at the tokens of rows that are padded to the longest."""
        return torch.arange(self.longest, device=self.index.device) < self.lengths[:, None]

    @cached_property
    def places(self) -> Tensor:
        """Position of each token in flattened rows [R * L] that are padded to the longest, tokens first."""
        return self.row * self.longest + self.positions

    def pad(self, x: Tensor) -> Tensor:
        """[1, H, T, P] -> [R, H, L, P], zeros at padding."""
        tokens = x.squeeze(0).transpose(0, 1)  # T H P
        full = tokens.new_zeros(len(self.lengths) * self.longest, *tokens.shape[1:])
        return full.index_copy_(0, self.places, tokens).unflatten(0, (-1, self.longest)).transpose(1, 2)

    def unpad(self, y: Tensor) -> Tensor:
        """[R, H, L, P] -> [1, H, T, P]."""
        return y.transpose(1, 2).flatten(0, 1).index_select(0, self.places).transpose(0, 1)[None]


def real_tokens(mask: Tensor, name: str = "attention_mask") -> Tensor | None:
    """attention_mask [B, N] -> bool [B, N], True for real tokens; None if all are real.

    Waits for the device once. Raises ValueError for a mask with numbers other than 0 and 1; name: of it in the message.
    """
    if mask.dtype == torch.bool:
        return None if bool(mask.all()) else mask
    real = mask != 0
    all_real, valid = torch.stack([real.all(), (mask == real).all()]).tolist()
    if not valid:
        raise value_error(mask, real, name)
    return None if all_real else real


def places_real_first(keep: Tensor) -> Tensor:
    """keep [B, N], True at real tokens -> the place of each token [B, N] in a row whose padding is at its end."""
    real = keep.cumsum(1)
    return torch.where(keep, real, real[:, -1:] + (~keep).cumsum(1)) - 1


def known_padding(mask: Tensor | None, name: str = "attention_mask") -> Tensor | None:
    """`real_tokens` of a mask, as far as the host knows it without waiting for a GPU: also None without a mask."""
    if mask is None:
        return None
    return real_tokens(mask, name) if mask.device.type == "cpu" and not torch.compiler.is_compiling() else mask.bool()


def value_error(mask: Tensor, real: Tensor, name: str = "attention_mask") -> ValueError:
    """The error for a mask with numbers other than 0 and 1."""
    odd = mask[mask != real][0].item()
    return ValueError(f"{name} contains {odd}: expected 1 (or True) for real tokens and 0 for padding")


def count_real(mask: Tensor, lengths: Sequence[int] | None) -> Sequence[int]:
    """Number of real tokens of each row of attention_mask [B, N] on a GPU.

    Waits for the device once, or with checked `lengths` never: that they agree with the mask, the device tests.
    """
    if lengths is None:
        real = mask if mask.dtype == torch.bool else mask != 0
        *counts, valid = torch.cat([real.sum(1), (mask == real).all()[None]]).tolist()
        if not valid:
            raise value_error(mask, real)
        return counts
    given = to_device(lengths, mask.device)
    torch._assert_async((mask.sum(1) == given).all(), "lengths= must be the sums of the rows of attention_mask, 0 or 1")
    return lengths


def group_rows(keep: Tensor) -> Groups:
    """Layout of the real tokens of keep [B, N], with rows sorted by length."""
    lengths = keep.sum(1)
    order = lengths.argsort(stable=True)
    rows, columns = keep[order].nonzero(as_tuple=True)
    sizes, counts = lengths[order].unique_consecutive(return_counts=True)
    runs = list(zip(counts.tolist(), sizes.tolist(), strict=True))
    if runs[0][1] == 0:  # rows of padding only
        del runs[0]
    return Groups(tuple(runs), order[rows] * keep.shape[1] + columns)


def pack_rows(keep: Tensor, counts: Sequence[int], *, by_length: bool = False) -> Groups:
    """`group_rows` for one kernel over all rows, without waiting for the device: counts are the lengths of the rows.

    by_length: sort the rows, for mixers that compute rows of equal length at a time.
    """
    order = [row for row, n in enumerate(counts) if n]
    if by_length:
        order.sort(key=counts.__getitem__)
    lengths = [counts[row] for row in order]
    sizes = tuple((len(list(rows)), length) for length, rows in groupby(lengths))
    starts = to_device(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), keep.device)
    total = sum(lengths)
    if not by_length:
        return Groups(sizes, torch.nonzero_static(keep.flatten(), size=total, fill_value=0).squeeze(1), starts)
    rows = to_device(order, keep.device)
    row, column = torch.nonzero_static(keep[rows], size=total, fill_value=0).unbind(1)
    return Groups(sizes, rows[row] * keep.shape[1] + column, starts)
