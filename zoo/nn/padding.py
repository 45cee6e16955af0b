"""Rows of different lengths: masks that mark padding, and the layout of rows packed without it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

Lengths = Sequence[int] | Tensor  # number of real tokens of each row, on the host


@dataclass(frozen=True, eq=False)
class Groups:
    """Layout of a packed batch: rows without their padding, concatenated to [1, T, D], shortest row first.

    sizes: (rows, length) of each group of equally long rows, in order. index [T]: position of each token in the
    flattened batch [B * N]. positions [T]: position of each token among the real tokens of its row. starts [R + 1],
    int32: the first token of each row and the end of the last one; only on a GPU, where all rows go through one kernel.
    choices: of the layers of one forward pass, see `zoo.nn.attention`.
    """

    sizes: tuple[tuple[int, int], ...]
    index: Tensor
    positions: Tensor
    starts: Tensor | None = None
    choices: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def longest(self) -> int:
        return self.sizes[-1][1]

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
    def keep(self) -> Tensor:
        """[R, L], True at the tokens of rows that are padded to the longest."""
        return torch.arange(self.longest, device=self.index.device) < self.lengths[:, None]

    @cached_property
    def places(self) -> Tensor:
        """Position of each token in flattened rows [R * L] that are padded to the longest, tokens first."""
        return self.row * self.longest + self.positions

    def pad(self, x: Tensor) -> Tensor:
        """[1, H, T, P] -> [R, H, L, P], zeros at padding."""
        tokens = x[0].transpose(0, 1)  # T H P
        full = tokens.new_zeros(len(self.lengths) * self.longest, *tokens.shape[1:])
        return full.index_copy(0, self.places, tokens).unflatten(0, (-1, self.longest)).transpose(1, 2)

    def unpad(self, y: Tensor) -> Tensor:
        """[R, H, L, P] -> [1, H, T, P]."""
        return y.transpose(1, 2).flatten(0, 1)[self.places].transpose(0, 1)[None]


def real_tokens(mask: Tensor) -> Tensor | None:
    """attention_mask [B, N] -> bool [B, N], True for real tokens; None if all are real.

    Waits for the device once. Raises ValueError for a mask with numbers other than 0 and 1.
    """
    if mask.dtype == torch.bool:
        return None if bool(mask.all()) else mask
    real = mask != 0
    all_real, valid = torch.stack([real.all(), (mask == real).all()]).tolist()
    check_values(mask, real, valid)
    return None if all_real else real


def check_values(mask: Tensor, real: Tensor, valid: bool) -> None:
    """Raise ValueError for a mask with numbers other than 0 and 1."""
    if not valid:
        odd = mask[mask != real][0].item()
        raise ValueError(f"attention_mask contains {odd}: expected 1 (or True) for real tokens and 0 for padding")


def count_real(mask: Tensor, lengths: Lengths | None) -> tuple[Tensor, list[int]]:
    """attention_mask [B, N] on a GPU -> (bool [B, N], number of real tokens of each row).

    Waits for the device once, or with `lengths` never: that they agree with the mask is then checked by the device.
    """
    real = mask if mask.dtype == torch.bool else mask != 0
    if lengths is None:
        *counts, valid = torch.cat([real.sum(1), (mask == real).all()[None]]).tolist()
        check_values(mask, real, bool(valid))
        return real, counts
    counts = host_lengths(lengths, len(mask))
    given = torch.tensor(counts).to(mask.device, non_blocking=True)
    torch._assert_async((mask.sum(1) == given).all(), "lengths= must be the sums of the rows of attention_mask, 0 or 1")
    return real, counts


def host_lengths(lengths: Lengths, rows: int) -> list[int]:
    """The lengths as a list. Raises ValueError for a tensor on a GPU, which takes a wait to read, and other shapes."""
    if isinstance(lengths, Tensor):
        if lengths.device.type != "cpu":
            raise ValueError(f"lengths is on {lengths.device}: expected a list or a CPU tensor, or none at all")
        lengths = lengths.tolist()
    if not isinstance(lengths, Sequence) or len(lengths) != rows or not all(isinstance(n, int) for n in lengths):
        raise ValueError(f"lengths={lengths!r:.200}: expected {rows} integers, the number of real tokens of each row")
    return list(lengths)


def check_lengths(lengths: Lengths, keep: Tensor | None, shape: Sequence[int]) -> None:
    """Raise ValueError unless lengths are those of the mask keep [B, N]; None: all tokens of `shape` are real."""
    counts = host_lengths(lengths, shape[0])
    real = [shape[1]] * shape[0] if keep is None else keep.sum(1).tolist()
    if counts != real:
        row = next(i for i, (a, b) in enumerate(zip(counts, real, strict=True)) if a != b)
        raise ValueError(
            f"lengths[{row}] is {counts[row]}, but attention_mask marks {real[row]} real tokens in that row: pass the "
            "sums of its rows, or omit lengths="
        )


def group_rows(keep: Tensor) -> Groups:
    """Layout of the real tokens of keep [B, N], with rows sorted by length."""
    lengths = keep.sum(1)
    order = lengths.argsort(stable=True)
    rows, columns = keep[order].nonzero(as_tuple=True)
    positions = (keep.long().cumsum(1) - 1)[order][rows, columns]
    sizes, counts = lengths[order].unique_consecutive(return_counts=True)
    runs = list(zip(counts.tolist(), sizes.tolist(), strict=True))
    if runs[0][1] == 0:  # rows of padding only
        del runs[0]
    return Groups(tuple(runs), order[rows] * keep.shape[1] + columns, positions)


def pack_rows(keep: Tensor, counts: list[int]) -> Groups:
    """`group_rows` for one kernel over all rows, without waiting for the device: counts are the lengths of the rows."""
    order = sorted((row for row, n in enumerate(counts) if n), key=counts.__getitem__)
    lengths = [counts[row] for row in order]
    total = sum(lengths)
    sizes = tuple((len(list(rows)), length) for length, rows in groupby(lengths))
    known = torch.tensor([order, lengths], dtype=torch.long).to(keep.device, non_blocking=True)
    starts = torch.cat([known[0, :1] * 0, known[1].cumsum(0)])
    rows, columns = torch.nonzero_static(keep[known[0]], size=total, fill_value=0).unbind(1)
    positions = torch.arange(total, device=keep.device) - starts[rows]
    return Groups(sizes, known[0][rows] * keep.shape[1] + columns, positions, starts.int())


def restore_padding(x: Tensor, shape: torch.Size, groups: Groups | None, keep: Tensor | None) -> Tensor:
    """Hidden states [B, N, D] with exact zeros at padding, from packed rows [1, T, D] or under the mask `keep`."""
    if groups is not None:
        full = x.new_zeros(shape[0] * shape[1], x.shape[-1])
        return full.index_copy(0, groups.index, x[0]).view(*shape[:2], x.shape[-1])
    return x if keep is None else x * keep[:, -shape[1] :, None]
