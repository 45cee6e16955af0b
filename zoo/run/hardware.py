"""What a run runs on: the device and overlay taken when nobody says, ranks, and their words in the banner."""

import os
import platform
from dataclasses import replace
from typing import Any

from zoo.run.settings import RunSettings

OVERLAYS = {"cuda": "gpu", "mps": "mps", "cpu": "cpu"}


def best_accelerator() -> str:
    """`cuda`, `mps` or `cpu`, the first there is."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def settle(settings: RunSettings) -> Any:
    """Settings with the accelerator and the number of devices in the place of `auto` and 0.

    Raises: ValueError for a device that this machine has not, or a strategy for one device.
    """
    import torch

    trainer = settings.trainer
    accelerator = best_accelerator() if trainer.accelerator == "auto" else trainer.accelerator
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("accelerator=cuda: torch sees no CUDA GPU here; use accelerator=cpu (overlay=cpu)")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise ValueError("accelerator=mps: torch sees no Apple GPU here; use accelerator=cpu (overlay=cpu)")
    there = torch.cuda.device_count() if accelerator == "cuda" else 1
    devices = trainer.devices or there
    if accelerator == "cuda" and devices > there:
        raise ValueError(f"devices={devices}: this machine has {there} GPUs")
    settled = replace(trainer, accelerator=accelerator, devices=devices)  # type: ignore[arg-type]
    return replace(settings, trainer=settled)


def world(settings: RunSettings) -> int:
    """Processes of the whole run."""
    return settings.trainer.devices * settings.trainer.nodes


def rank() -> int:
    """This process's rank, from the environment that torchrun, Slurm or Lightning's launcher set; 0 without."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def share(value: Any) -> Any:
    """Rank 0's value on every rank, where an outer launcher (torchrun) started them all; else the value as it is.

    Lightning joins the process group that this opens.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return value
    import torch
    from torch import distributed as dist

    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group()
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


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
