"""`lengths`: how many tokens (or samples) of each row of a batch are real, as numbers on the host.

The host can read a mask on a GPU only when all work before it is done. A batch whose lengths are on the host, beside
its mask, is computed without waiting for the device.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.nn.padding import real_tokens
from zoo.utils.transfer import to_device

AnyLengths = Sequence[int] | Tensor


class Lengths(tuple[int, ...]):
    """Lengths that were checked, one for each row."""


def check_lengths(
    lengths: AnyLengths | None, mask: Tensor | None, inputs: Tensor, *, trust: bool
) -> tuple[Tensor | None, Lengths | None]:
    """(mask, lengths) of inputs [B, N]; both are None if all tokens are real.

    Without a mask the real tokens of a row are its first ones (padding on the right), and the mask is made here. While
    compiling, lengths beside a mask are left out: they change no number.

    Args:
        lengths: Integers [B] from 0 to N, in a list or in a tensor on the CPU.
        mask: [B, N], 1 or True at real tokens.
        trust: Do not compare lengths with a mask on a GPU, for which the host would have to wait: the device asserts
            later that they are equal.

    Raises: ValueError for lengths that do not fit the inputs or the mask.
    """
    if lengths is None or isinstance(lengths, Lengths):
        return mask, lengths
    if torch.compiler.is_compiling():
        return (right_padding(lengths, inputs) if mask is None else mask), None
    numbers = as_numbers(lengths, inputs)
    if mask is not None and not mask.is_meta and (mask.device.type == "cpu" or not trust):
        mask = real_tokens(mask)
        counts = [inputs.shape[1]] * len(numbers) if mask is None else mask.sum(1).tolist()
        for row, (length, count) in enumerate(zip(numbers, counts)):
            if length != count:
                raise ValueError(
                    f"lengths[{row}] is {length}, but row {row} of attention_mask has {count} real tokens: expected "
                    "the sum of each row of attention_mask"
                )
    if numbers.count(inputs.shape[1]) == len(numbers):
        if mask is not None:  # one on a GPU that was not compared: no later look at it, as at others, finds padding
            torch._assert_async(mask.all(), "lengths= must be the sums of the rows of attention_mask")
        return None, None
    return right_padding(numbers, inputs) if mask is None else mask, numbers


def place(batch: Mapping[str, Tensor], inputs: Sequence[str], like: Tensor) -> dict[str, Any]:
    """A batch from a processor, with the device and dtype of a parameter; for a GPU also the lengths of its masks.

    inputs: the names that the model takes.
    """
    placed: dict[str, Any] = {name: x.to(like.device) for name, x in batch.items()}
    placed = {name: x.to(like.dtype) if x.is_floating_point() else x for name, x in placed.items()}
    if like.device.type != "cpu":
        masks = {"attention_mask": "lengths", "audio_attention_mask": "audio_lengths"}
        found = {name: batch[mask] for mask, name in masks.items() if name in inputs and mask in batch}
        placed |= {name: mask.sum(1).tolist() for name, mask in found.items() if mask.device.type == "cpu"}
    return placed


def as_numbers(lengths: AnyLengths, inputs: Tensor) -> Lengths:
    """Lengths as checked integers. Raises ValueError for others than B integers from 0 to N on the host."""
    rows, size = inputs.shape[:2]
    if isinstance(lengths, Tensor):
        if lengths.device.type != "cpu":
            raise ValueError(
                f"lengths are on {lengths.device}: expected numbers on the host, a list or a tensor on the CPU, which "
                "can be read without waiting for the device; omit lengths if there are none"
            )
        if lengths.ndim != 1 or lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise ValueError(f"lengths: expected integers [B], given {tuple(lengths.shape)} of {lengths.dtype}")
        lengths = lengths.tolist()
    numbers = Lengths(lengths)
    if len(numbers) != rows:
        raise ValueError(f"{len(numbers)} lengths for {rows} rows: expected one for each row")
    for row, number in enumerate(numbers):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= size:
            raise ValueError(f"lengths[{row}] is {number!r}: expected an integer from 0 to {size}, the size of a row")
    return numbers


def right_padding(lengths: AnyLengths, inputs: Tensor) -> Tensor:
    """The mask [B, N] of rows whose first tokens are real, True at real tokens."""
    ends = to_device(lengths, inputs.device)
    return torch.arange(inputs.shape[1], device=inputs.device) < ends[:, None]
