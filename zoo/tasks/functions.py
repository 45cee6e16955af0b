"""Functions that tasks share: batches, seeds, types, parameters, metrics."""

import hashlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

COPY = "is_copy"  # entry of a batch [B] that a pipeline has filled: which rows do not count


def metrics_in(value: Any) -> Iterator[Metric]:
    """The metrics in dicts and lists, and those that they consist of."""
    if isinstance(value, Metric):
        yield from (module for module in value.modules() if isinstance(module, Metric))
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from metrics_in(part)


def as_batch_dict(batch: Any) -> Mapping[str, Any]:
    """A batch as a dict; an (images, labels) pair, as torchvision datasets yield it, becomes named inputs."""
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return {"pixel_values": batch[0], "labels": batch[1]}
    raise ValueError(f"expected a batch that is a dict or a pair (images, labels), got {type(batch).__name__}")


def optimized(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The parameters of an optimizer."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def as_count(count: Tensor | float, loss: Tensor, dtype: torch.dtype) -> Tensor:
    """The number of items of a loss, on its device; a number is written there without waiting for it."""
    return count.detach().to(dtype) if isinstance(count, Tensor) else loss.new_full((), count, dtype=dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """In float32, or in float64 as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def seed_all(seed: int, step: int, micro: int, device: torch.device) -> None:
    """Seed the random number generators of the CPU and of `device` from (seed, step, micro-batch)."""
    digest = hashlib.blake2b(struct.pack("<3q", seed, step, micro), digest_size=8).digest()
    key = int.from_bytes(digest, "little") >> 1
    torch.default_generator.manual_seed(key)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(key)
