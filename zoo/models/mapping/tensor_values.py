"""What the tensors of a checkpoint hold: values that no model can compute with are refused, each tensor read once."""

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.models.load_report import listed
from zoo.utils.arguments import FLOATS


def defect(tensor: Tensor, own: Tensor, *, values: bool = True) -> str | None:
    """What is wrong with the values of a tensor from a file, "int8, expected a float type"; None if nothing is.

    own: the tensor of the model that it is for, of which only the type is used. values: whether to read the values.
    """
    if tensor.is_meta:
        return "without values (it is on the meta device)"
    if tensor.is_quantized or tensor.layout != torch.strided:
        kind, way = ("quantized", "dequantize") if tensor.is_quantized else ("sparse", "to_dense")
        return f"{kind}, expected a dense tensor: convert it with .{way}()"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"{list(tensor.shape)} values of which the file holds {tensor.untyped_storage().nbytes()} bytes"
    floats = own.is_floating_point()
    if tensor.dtype not in FLOATS if floats else tensor.dtype.is_floating_point:
        expected = "float32, float16, bfloat16 or float64" if floats else "whole numbers"
        return f"{_kind(tensor)}, expected {expected}"
    return not_finite(tensor) if floats and values else None


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def not_finite(tensor: Tensor) -> str | None:
    """How many values are not finite; None if all are.

    A sum is not finite if one value is not; it is the fastest way to look at all. Great values may overflow it."""
    total = tensor.sum(dtype=None if tensor.dtype == torch.float64 else torch.float32)
    if total.isfinite():
        return None
    bad = int((~tensor.isfinite()).sum())
    return f"NaN or infinite in {bad} of {tensor.numel()} values" if bad else None


def is_cast(name: str, tensor: Tensor) -> bool:
    """Whether a tensor has the dtype of its model: floats do, but not the frequencies of rotary embeddings."""
    return tensor.is_floating_point() and not name.endswith(".inv_freq")


def cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of a model in the dtype of the model; those that `is_cast` excludes as they are."""
    return tensor.to(dtype) if is_cast(name, tensor) else tensor


def to_one_float_type(tensors: dict[str, Tensor]) -> list[str]:
    """Convert the floats, in place, to the type that most values have. Returns a note on those that were of another."""
    usual, odd, notes = usual_float_type(tensors)
    for name in odd:
        tensors[name] = tensors[name].to(usual)
    return notes


def usual_float_type(tensors: Mapping[str, Tensor]) -> tuple[torch.dtype | None, list[str], list[str]]:
    """(the type that most values have, names of the floats of another type, a note on those)."""
    count: dict[torch.dtype, int] = {}
    for name, tensor in tensors.items():
        if is_cast(name, tensor):
            count[tensor.dtype] = count.get(tensor.dtype, 0) + tensor.numel()
    if len(count) < 2:
        return next(iter(count), None), [], []
    usual = max(count, key=lambda dtype: count[dtype])
    odd = [name for name, tensor in tensors.items() if is_cast(name, tensor) and tensor.dtype != usual]
    kinds = " and ".join(sorted({_kind(tensors[name]) for name in odd}))
    usual_kind = str(usual).removeprefix("torch.")
    return usual, odd, [f"{listed(odd, 4)} in {kinds}, converted to {usual_kind}, the type of most tensors"]


def aligned(tensor: Tensor) -> Tensor:
    """Copy a small tensor to an address that is a multiple of 64, as torch allocates; within a file it has any address.

    Matrix products of odd sizes round differently for unaligned addresses, so a loaded model would not be bit-equal to
    the saved one. Large tensors stay memory-mapped: they are not affected, and copies would cost memory.
    """
    small = tensor.numel() * tensor.element_size() <= 1 << 18
    return tensor.clone() if small and tensor.data_ptr() % 64 else tensor
