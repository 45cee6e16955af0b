"""Devices of a run: default accelerator and precision, number of processes, and their description."""

import platform
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zoo.training.config import RunSettings, TrainerSettings
from zoo.utils.cpu_features import CPUFeatures

if TYPE_CHECKING:
    from torch import nn

HARDWARE_FILES = {"cuda": "gpu", "mps": "mps", "cpu": "cpu"}


def hardware_for(accelerator: str) -> str | None:
    """Name of the file in `configs/hardware` for an accelerator, or for the best one if it is `auto`."""
    return HARDWARE_FILES.get(best_accelerator() if accelerator == "auto" else accelerator)


def best_accelerator() -> str:
    """The first available of `cuda`, `mps` and `cpu`."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_precision(accelerator: str, model: "nn.Module | None" = None) -> str:
    """`bf16` if the device supports it natively, else `fp32` (emulated bf16 on an older CPU is slower than fp32).

    On CPUs with AMX a model with 1-D convolutions gets `fp32`: their bf16 gradients are wrong there, see `CPUFeatures`.
    """
    import torch
    from torch import nn

    if accelerator == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    cpu = CPUFeatures.detect()
    convolves = model is not None and any(isinstance(module, nn.Conv1d) for module in model.modules())
    return "bf16" if accelerator == "cpu" and cpu.bf16 and not (cpu.amx and convolves) else "fp32"


def settle(settings: RunSettings) -> Any:
    """Replace the accelerator `auto` and devices=0 by actual values.

    Raises: ValueError for a device that is not available or does not support the precision, or a batch size that cannot
        be split over the devices.
    """
    import torch

    trainer = settings.trainer
    accelerator = best_accelerator() if trainer.accelerator == "auto" else trainer.accelerator
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("accelerator=cuda: torch finds no CUDA GPU; use accelerator=cpu (hardware=cpu)")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise ValueError("accelerator=mps: torch finds no Apple GPU; use accelerator=cpu (hardware=cpu)")
    if accelerator == "cpu" and trainer.precision == "fp16":
        raise ValueError("precision=fp16 is not supported on CPUs: use precision=bf16 or precision=fp32")
    if trainer.strategy == "fsdp2" and trainer.precision == "bf16-master":
        raise ValueError("precision=bf16-master does not work with strategy=fsdp2, which casts the shards of weights "
                         "itself: use precision=bf16, or strategy=ddp")  # fmt: skip
    available = torch.cuda.device_count() if accelerator == "cuda" else 1
    devices = trainer.devices or available
    if accelerator == "cuda" and devices > available:
        raise ValueError(f"devices={devices}: this machine has {available} GPUs")
    parts = devices * trainer.num_nodes * trainer.accumulate_grad_batches
    size = getattr(getattr(settings, "data", None), "batch_size", parts)
    if size % parts:
        raise ValueError(f"batch_size={size} is the batch size of a whole step and must be a multiple of devices x "
                         f"num_nodes x accumulate_grad_batches = {parts}")  # fmt: skip
    settled = replace(trainer, accelerator=accelerator, devices=devices)  # type: ignore[arg-type]
    return replace(settings, trainer=settled)


def with_precision(trainer: TrainerSettings, model: "nn.Module | None" = None) -> TrainerSettings:
    """Replace the precision `auto` by the best one for the device and the model."""
    if trainer.precision != "auto":
        return trainer
    return replace(trainer, precision=best_precision(trainer.accelerator, model))  # type: ignore[arg-type]


def world(settings: RunSettings) -> int:
    """Number of processes of the whole run."""
    return settings.trainer.devices * settings.trainer.num_nodes


def describe_device(settings: RunSettings) -> str:
    """Description of the hardware: `2 x NVIDIA H100 (ddp)`, `CPU, 2 threads`."""
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
    """`ddp` or `fsdp2` for several processes, else `one`."""
    if world(settings) == 1 and settings.trainer.strategy != "fsdp2":
        return "one"
    return "ddp" if settings.trainer.strategy == "auto" else settings.trainer.strategy
