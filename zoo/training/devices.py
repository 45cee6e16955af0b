"""What a run runs on: the device and overlay taken when nobody says, ranks, and their words in the banner."""

import platform
from dataclasses import replace
from typing import Any

from zoo.training.config import RunSettings

OVERLAYS = {"cuda": "gpu", "mps": "mps", "cpu": "cpu"}


def best_accelerator() -> str:
    """`cuda`, `mps` or `cpu`, the first there is."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_precision(accelerator: str) -> str:
    """`bf16` where the device computes in it (an older CPU only imitates it, more slowly than float32), else `fp32`."""
    import torch

    if accelerator == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if accelerator == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


def settle(settings: RunSettings) -> Any:
    """Settings with the accelerator, precision and number of devices in the place of `auto` and 0.

    Raises: ValueError for a device that this machine has not, or a strategy for one device.
    """
    import torch

    trainer = settings.trainer
    accelerator = best_accelerator() if trainer.accelerator == "auto" else trainer.accelerator
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("accelerator=cuda: torch sees no CUDA GPU here; use accelerator=cpu (hardware=cpu)")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise ValueError("accelerator=mps: torch sees no Apple GPU here; use accelerator=cpu (hardware=cpu)")
    there = torch.cuda.device_count() if accelerator == "cuda" else 1
    devices = trainer.devices or there
    if accelerator == "cuda" and devices > there:
        raise ValueError(f"devices={devices}: this machine has {there} GPUs")
    parts = devices * trainer.num_nodes * trainer.accumulate_grad_batches
    size = getattr(getattr(settings, "data", None), "batch_size", parts)
    if size % parts:
        raise ValueError(f"batch_size={size} is that of a whole step and does not divide into devices x num_nodes x "
                         f"accumulate_grad_batches = {parts} parts; take a multiple of {parts}")  # fmt: skip
    precision = best_precision(accelerator) if trainer.precision == "auto" else trainer.precision
    settled = replace(trainer, accelerator=accelerator, devices=devices, precision=precision)  # type: ignore[arg-type]
    return replace(settings, trainer=settled)


def world(settings: RunSettings) -> int:
    """Processes of the whole run."""
    return settings.trainer.devices * settings.trainer.num_nodes


def describe_device(settings: RunSettings) -> str:
    """`2 x NVIDIA H100 (ddp)`, `CPU, 2 threads`."""
    import torch

    trainer = settings.trainer
    if trainer.accelerator == "cuda":
        name = torch.cuda.get_device_name()
    elif trainer.accelerator == "mps":
        name = f"Apple GPU ({platform.machine()})"
    else:
        name = f"CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
    count = world(settings)
    return f"{count} x {name} ({strategy_name(settings)})" if count > 1 else name


def strategy_name(settings: RunSettings) -> str:
    """`ddp` or `fsdp2` for several processes, `one` otherwise (a sharded run on one device is a plain one)."""
    if world(settings) == 1 and settings.trainer.strategy != "fsdp2":
        return "one"
    return "ddp" if settings.trainer.strategy == "auto" else settings.trainer.strategy
