"""Arguments that many public functions take: a path, a dtype, a device. Each is checked before any work starts."""

import os
from pathlib import Path
from typing import Any

import torch

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check_path(name: str, value: Any) -> Path:
    """A path, with ~ as the home of the user. Raises ValueError for an empty text or anything that is not a path."""
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise ValueError(f"{name}={value!r:.200}: expected a path, as a text that is not empty or a pathlib.Path")
    return Path(value).expanduser()


def check_dtype(dtype: Any) -> None:
    """Raise ValueError unless it is None or a type of floats that models can compute with."""
    if dtype is not None and (not isinstance(dtype, torch.dtype) or dtype not in FLOATS):
        names = ", ".join(map(str, FLOATS))
        raise ValueError(f"dtype={dtype!r}: expected one of {names}, or None for the dtype of the model")


def check_device(device: Any) -> torch.device:
    """The device. Raises ValueError for one that torch does not know, or that this machine does not have."""
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"device={device!r} cannot be used: {reason}. Expected 'cpu', or 'cuda' with a GPU") from None
    if found.type == "meta":
        raise ValueError("device='meta' holds no values: load to 'cpu', or build the model with zoo.create_model")
    return found
