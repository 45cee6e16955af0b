"""Devices of a run: default accelerator and precision, number of processes, and their description."""

import platform
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zoo.parallel.config import PlanSettings
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
    plan = settle_plan(settings, devices * trainer.num_nodes)
    trainer = replace(trainer, accelerator=accelerator, devices=devices)  # type: ignore[arg-type]
    settled = replace(settings, trainer=trainer, plan=plan)
    parts = smallest_batch(settled)
    size = getattr(getattr(settings, "data", None), "batch_size", parts)
    if size % parts:
        factors = "devices x num_nodes" if plan.world == 1 else "plan.data x plan.shard"
        stages = "" if plan.pipeline == 1 else f" x {plan.parts_of_pipeline} microbatches (plan.microbatches)"
        raise ValueError(f"batch_size={size} is the batch size of a whole step and must be a multiple of {factors} x "
                         f"accumulate_grad_batches{stages} = {parts}")  # fmt: skip
    return settled


def settle_plan(settings: RunSettings, processes: int) -> PlanSettings:
    """The plan for all processes: those that it does not name hold further copies (`data`).

    Raises: ValueError if they cannot, and for settings that a plan does not go with.
    """
    plan, trainer = settings.plan, settings.trainer
    if plan.world == 1:
        if plan.checkpointing is not None:
            raise ValueError(f"plan.checkpointing={plan.checkpointing} is of a plan of several processes, and this one "
                             "has no other settings: use gradient_checkpointing=true, or set plan.data= or plan.shard= "
                             "as well")  # fmt: skip
        return plan
    check_recipe_plan(plan, trainer)
    if trainer.strategy != "auto":
        raise ValueError(f"strategy={trainer.strategy} and a plan ({plan}) are both given: omit strategy=, or set "
                         "plan.data= (ddp) or plan.shard= (fsdp2) alone")  # fmt: skip
    if trainer.precision == "bf16-master":
        raise ValueError(f"precision=bf16-master does not work with a plan ({plan}), whose processes hold parts of the "
                         "weights: use precision=bf16")  # fmt: skip
    if processes % plan.world:
        sizes = " x ".join(f"plan.{name}={size}" for name, size in plan.sizes.items() if size > 1)
        raise ValueError(f"the plan is for {plan.world} processes ({sizes}), and there are {processes} (devices x "
                         f"num_nodes): set devices={plan.world} or a multiple, or change a factor")  # fmt: skip
    return replace(plan, data=plan.data * (processes // plan.world))


def check_recipe_plan(plan: PlanSettings, trainer: TrainerSettings) -> None:
    """Raise ValueError for settings of a plan that only training loops of your own can use."""
    if plan.pipeline > 1:
        from zoo.parallel.cuts import check_schedule

        check_schedule(plan.schedule, plan.parts_of_pipeline, plan.pipeline, plan.stages_per_process)
    if plan.pipeline > 1 and trainer.precision == "fp16":
        raise ValueError(f"precision=fp16 scales the loss, which the stages of plan.pipeline={plan.pipeline} would not "
                         "do alike: use precision=bf16 or precision=fp32")  # fmt: skip
    if plan.pipeline > 1 and trainer.compile not in (False, "blocks"):
        raise ValueError(f"compile={str(trainer.compile).lower()}: the stages of plan.pipeline={plan.pipeline} have "
                         "parts of the model: use compile=blocks or compile=false")  # fmt: skip
    if plan.cpu_offload and plan.pipeline > 1:
        raise ValueError(f"plan.cpu_offload=true does not go with the stages of plan.pipeline={plan.pipeline}, which "
                         "keep whole parameters for all microbatches: set plan.pipeline=1 or "
                         "plan.cpu_offload=false")  # fmt: skip
    if plan.mixed_precision == "fp16" and trainer.precision != "fp16":
        raise ValueError("plan.mixed_precision=fp16 needs precision=fp16, which scales the loss so that small "
                         "gradients do not become 0: set it, or plan.mixed_precision=bf16")  # fmt: skip


def with_precision(trainer: TrainerSettings, model: "nn.Module | None" = None) -> TrainerSettings:
    """Replace the precision `auto` by the best one for the device and the model."""
    if trainer.precision != "auto":
        return trainer
    return replace(trainer, precision=best_precision(trainer.accelerator, model))  # type: ignore[arg-type]


def world(settings: RunSettings) -> int:
    """Number of processes of the whole run."""
    return settings.trainer.devices * settings.trainer.num_nodes


def batch_parts(settings: RunSettings) -> int:
    """Number of parts that a batch is divided into, before `accumulate_grad_batches`."""
    return world(settings) if settings.plan.world == 1 else settings.plan.batch_parts


def smallest_batch(settings: RunSettings) -> int:
    """Number of parts, of at least one item each, that the batch of a step is divided into."""
    return batch_parts(settings) * settings.trainer.accumulate_grad_batches * settings.plan.parts_of_pipeline


def is_divided(settings: RunSettings) -> bool:
    """Whether a process may hold a part of the model only."""
    return strategy_name(settings) in ("fsdp2", "plan")


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
    how = str(settings.plan) if settings.plan.world > 1 else strategy_name(settings)
    return f"{count} x {name} ({how})" if count > 1 else name


def strategy_name(settings: RunSettings) -> str:
    """`plan` if there is one, `ddp` or `fsdp2` for several processes, else `one`."""
    if settings.plan.world > 1:
        return "plan"
    if world(settings) == 1 and settings.trainer.strategy != "fsdp2":
        return "one"
    return "ddp" if settings.trainer.strategy == "auto" else settings.trainer.strategy
