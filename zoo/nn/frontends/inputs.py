"""Checks of the inputs of all front ends."""

import torch
from torch import Tensor


def check_dtype(name: str, values: Tensor, weight: Tensor) -> None:
    """Raise ValueError for inputs of another dtype than the weights, unless autocast converts both (not float64)."""
    converted = torch.is_autocast_enabled(values.device.type) and torch.float64 not in (values.dtype, weight.dtype)
    if values.dtype != weight.dtype and not converted:
        raise ValueError(
            f"{name} has the dtype {values.dtype}, but the weights of the model have {weight.dtype}: convert the "
            f"inputs, as in {name}.to(model.dtype), or load the model with dtype={values.dtype}"
        )
