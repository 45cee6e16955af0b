"""Settings -> a `lightning.Trainer`."""

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch import loggers
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from zoo.training.callbacks import AtomicCheckpoints, CsvLogger
from zoo.training.config import RunSettings
from zoo.training.devices import strategy_name, world
from zoo.training.parse import SettingsError
from zoo.utils.errors import did_you_mean

PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

_EXPECTED = (
    "resuming from a checkpoint that ended before the epoch",  # batches are keyed by the step
    "The number of training batches .* is smaller than the logging interval",  # rows are counted over epochs
    "does not have many workers",  # workers=0 gathers from memory
    "You have overridden `.*configure_model`",
    "Found .* module.* in eval mode",  # the moving average
    "The `srun` command is available",
    "ModelParallelStrategy",
    "`isinstance.treespec, LeafSpec",  # torch's, of its own
    "It is recommended to use `self.log",  # torchmetrics has summed over the ranks already
)


def make_trainer(settings: RunSettings, folder: Path, steps: int, validate_every: int,
                 callbacks: list[Callback], csv: CsvLogger) -> L.Trainer:  # fmt: skip
    """A trainer of exactly so many steps.

    Args:
        steps: Planned optimizer steps.
        validate_every: Steps between validations.
    """
    t = settings.trainer
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # the banner says what matters
    for expected in _EXPECTED:
        warnings.filterwarnings("ignore", message=f".*{expected}")
    return L.Trainer(
        accelerator="gpu" if t.accelerator == "cuda" else t.accelerator,
        devices=t.devices, num_nodes=t.num_nodes, strategy=make_strategy(settings), precision=PRECISION[t.precision],  # type: ignore[arg-type]
        max_epochs=-1, max_steps=steps, accumulate_grad_batches=t.accumulate_grad_batches,
        gradient_clip_val=t.gradient_clip_val or None, val_check_interval=validate_every * t.accumulate_grad_batches,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, log_every_n_steps=t.log_every,
        use_distributed_sampler=False,   # it reshuffles; the data module slices by rank
        deterministic=t.deterministic, benchmark=False,
        logger=[csv, *further_logger(t.logger, folder)], callbacks=callbacks, plugins=[AtomicCheckpoints()],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=True, default_root_dir=folder,
    )  # fmt: skip


def make_strategy(settings: RunSettings) -> str | Strategy:
    """One device, copies of the model (ddp), or the model sharded over the devices (fsdp2)."""
    name = strategy_name(settings)
    if name == "ddp":
        return DDPStrategy(gradient_as_bucket_view=True)
    if name == "fsdp2":
        return ModelParallelStrategy(world(settings), 1, save_distributed_checkpoint=False)
    return "auto"


def further_logger(name: str | None, folder: Path) -> list[Logger]:
    """A Lightning logger by its class name, writing into the run folder.

    Raises: SettingsError for an unknown name, or one whose package is not installed.
    """
    if not name:
        return []
    check_logger(name)
    arguments: dict[str, Any] = {"save_dir": folder}
    if name in ("TensorBoardLogger", "CSVLogger"):
        arguments |= {"name": "", "version": name.removesuffix("Logger").lower()}
    try:
        return [getattr(loggers, name)(**arguments)]
    except TypeError:  # CometLogger and NeptuneLogger name their folders otherwise
        return [getattr(loggers, name)()]
    except ModuleNotFoundError as error:
        mend = "pip install 'attention-zoo[logs]' brings TensorBoard"
        raise SettingsError(f"logger={name} is not installed ({error}); {mend}") from None


def check_logger(name: str | None) -> None:
    """Raises: SettingsError for a name that Lightning has no logger of."""
    known = sorted(n for n in loggers.__all__ if n != "Logger")
    if name and name not in known:
        raise SettingsError(f"logger={name}: there are {', '.join(known)}{did_you_mean(name, known)}")
