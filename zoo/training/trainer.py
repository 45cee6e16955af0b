"""Create the `lightning.Trainer` of a run from its settings."""

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch import loggers
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.strategies import DDPStrategy, Strategy

from zoo.parallel.plan import Plan
from zoo.training.callbacks import CsvLogger
from zoo.training.checkpoint_files import AtomicCheckpointIO
from zoo.training.config import RunSettings
from zoo.training.devices import strategy_name, world
from zoo.training.parse import SettingsError
from zoo.training.plan_strategy import PlanStrategy
from zoo.training.sharded_checkpoints import ShardedStrategy
from zoo.utils.errors import did_you_mean

PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed", "bf16-master": "bf16-mixed"}
"""Of validations, too; the training steps of `bf16-master` are those of `zoo.tasks.bf16_weights`."""

_EXPECTED = (
    "resuming from a checkpoint that ended before the epoch",  # batches are a function of the step
    "The number of training batches .* is smaller than the logging interval",  # logging counts steps across epochs
    "does not have many workers",  # num_workers=0 reads from memory
    "You have overridden `.*configure_model`",
    "Found .* module.* in eval mode",  # the moving average
    "The `srun` command is available",
    "ModelParallelStrategy",
    "`isinstance.treespec, LeafSpec",  # raised inside torch
    "It is recommended to use `self.log",  # torchmetrics already reduces over ranks
)


def make_trainer(settings: RunSettings, folder: Path, steps: int, validate_every: int,
                 callbacks: list[Callback], csv: CsvLogger) -> L.Trainer:  # fmt: skip
    """Create a trainer for a fixed number of steps.

    Args:
        settings: Settings of the run.
        folder: The run folder.
        steps: Planned optimizer steps.
        validate_every: Steps between validations.
        callbacks: Callbacks of the run.
        csv: The logger that writes `metrics.csv`.
    """
    t = settings.trainer
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # the banner shows this information
    for expected in _EXPECTED:
        warnings.filterwarnings("ignore", message=f".*{expected}")
    return L.Trainer(
        accelerator="gpu" if t.accelerator == "cuda" else t.accelerator,
        devices=t.devices, num_nodes=t.num_nodes, strategy=make_strategy(settings), precision=PRECISION[t.precision],  # type: ignore[arg-type]
        max_epochs=-1, max_steps=steps, accumulate_grad_batches=t.accumulate_grad_batches,
        gradient_clip_val=t.gradient_clip_val or None, val_check_interval=validate_every * t.accumulate_grad_batches,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, log_every_n_steps=t.log_every,
        use_distributed_sampler=False,   # the data module distributes batches itself
        deterministic=t.deterministic, benchmark=False,
        logger=[csv, *extra_logger(t.logger, folder)], callbacks=callbacks, plugins=[AtomicCheckpointIO()],
        enable_progress_bar=t.progress, enable_model_summary=False, enable_checkpointing=True, default_root_dir=folder,
    )  # fmt: skip


def make_strategy(settings: RunSettings) -> str | Strategy:
    """Strategy for one device, for data parallelism (ddp), for a sharded model (fsdp2), or for a plan."""
    name = strategy_name(settings)
    if name == "plan":
        return PlanStrategy(Plan(**vars(settings.plan)))
    if name == "ddp":
        return DDPStrategy(gradient_as_bucket_view=True)
    if name == "fsdp2":
        return ShardedStrategy(world(settings))
    return "auto"


def extra_logger(name: str | None, folder: Path) -> list[Logger]:
    """Create a Lightning logger by class name, which writes to the run folder.

    Raises: SettingsError for an unknown name, or if the logger's package is not installed.
    """
    if not name:
        return []
    check_logger(name)
    arguments: dict[str, Any] = {"save_dir": folder}
    if name in ("TensorBoardLogger", "CSVLogger"):
        arguments |= {"name": "", "version": name.removesuffix("Logger").lower()}
    try:
        return [getattr(loggers, name)(**arguments)]
    except TypeError:  # CometLogger and NeptuneLogger do not take save_dir
        return [getattr(loggers, name)()]
    except ModuleNotFoundError as error:
        fix = "pip install 'attention-zoo[logs]' installs TensorBoard"
        raise SettingsError(f"logger={name} is not installed ({error}); {fix}") from None


def check_logger(name: str | None) -> None:
    """Raises: SettingsError if Lightning has no logger of this name."""
    known = sorted(n for n in loggers.__all__ if n != "Logger")
    if name and name not in known:
        raise SettingsError(f"logger={name}: expected one of {', '.join(known)}{did_you_mean(name, known)}")
