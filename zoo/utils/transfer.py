"""Copies from the host to a device that the host does not wait for."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def to_device(values: Tensor | Sequence[Any], device: torch.device | str | None) -> Tensor:
    """A tensor of numbers that are on the host, on a device.

    `torch.tensor(values, device="cuda")` and a plain `.to("cuda")` wait until the GPU has done all of its work.
    """
    return torch.as_tensor(values).to(device, non_blocking=True)
