"""Copies between the host and a device that the host does not wait for."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def to_device(values: Tensor | Sequence[Any], device: torch.device | str | None) -> Tensor:
    """A tensor of numbers that are on the host, on a device.

    `torch.tensor(values, device="cuda")` and a plain `.to("cuda")` wait until the GPU has done all of its work.
    """
    return torch.as_tensor(values).to(device, non_blocking=True)


def to_host(values: Tensor) -> tuple[Tensor, Any]:
    """(values on the CPU, event that fires when they are there); the event is None if they are there already."""
    if not values.is_cuda:
        return values.cpu(), None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return host, ready
