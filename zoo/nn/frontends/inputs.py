"""Checks of the inputs of all front ends."""

import torch
from torch import Tensor


def check_input_dtype(name: str, values: Tensor, weight: Tensor) -> None:
    """Raise ValueError for inputs of another dtype than the weights, unless autocast converts both (not float64)."""
    if values.dtype == weight.dtype or values.device.type == "meta":
        return
    if torch.float64 in (values.dtype, weight.dtype) or not torch.is_autocast_enabled(values.device.type):
        raise ValueError(
            f"{name} has the dtype {values.dtype}, but the weights of the model have {weight.dtype}: convert the "
            f"inputs, as in {name}.to(model.dtype), or load the model with dtype={values.dtype}"
        )


def check_not_empty(x: Tensor, name: str) -> None:
    """Raise ValueError for a tensor without elements, which torch cannot reshape."""
    if not torch.compiler.is_compiling() and 0 in x.shape:
        raise ValueError(f"{name} is empty, its shape is {tuple(x.shape)}: expected at least one row and one value")
