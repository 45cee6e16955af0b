"""Lightning callbacks and plugins of a run: timer, checkpoints, and the `metrics.csv` logger."""

import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from zoo.tasks.base import Task
from zoo.training.metrics_file import MetricsTable
from zoo.training.parse import SettingsError
from zoo.training.run_dir import RunFolder
from zoo.training.sharded_checkpoints import ShardedStrategy
from zoo.training.speed import gpu_memory
from zoo.utils.atomic import copy_whole, find_whole, replace_whole
from zoo.utils.console import announce
from zoo.utils.errors import did_you_mean
from zoo.utils.stopwatch import Stopwatch


def is_step_end(trainer: L.Trainer) -> bool:
    """Whether the batch that just ended was the last micro-batch of its optimizer step."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0


class CsvLogger(Logger):
    """Lightning logger that writes `metrics.csv`."""

    def __init__(self, file: Path, timer: "TrainingTimer"):
        super().__init__()
        self.file, self.timer = file, timer
        self.table: MetricsTable | None = None

    @property
    def name(self) -> str:
        """Name of the logger, which Lightning requires."""
        return "csv"

    @property
    def version(self) -> str:
        """Version of the logger, which Lightning requires."""
        return "0"

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsTable:
        """The table of metrics."""
        self.table = self.table or MetricsTable(self.file)
        return self.table

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row with the seconds of training so far. Test metrics are left to `metrics.json`."""
        row = {name: float(value) for name, value in metrics.items() if not name.startswith(("epoch", "test_"))}
        if not row:
            return
        if "train_loss" in row:
            rate = self.timer.items_per_second()
            used = {"items_per_second": rate} | self.timer.use_of_gpu(rate)
            row |= {name: x for name, x in used.items() if x is not None}
        self.experiment.add(int(step or 0), row | {"seconds": round(self.timer.seconds, 3)})

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: hyperparameters are in `config.yaml`."""


class TrainingTimer(L.Callback):
    """Measures the seconds of training, over all restarts of a run, and the current throughput.

    Args:
        items_per_step: Items (e.g. images or texts) in the batch of a step, over all devices.
        folder: The run folder, which a start that fails before its first step removes.

    Attributes:
        parts: Stopwatches of parts of a step, by name.
        flops_per_item, peak_flops: FLOPs of forward and backward, and FLOP/s of all devices; None without a GPU.
    """

    def __init__(self, items_per_step: int, folder: RunFolder | None = None):
        self.items_per_step, self.folder = items_per_step, folder
        self.parts: dict[str, Stopwatch] = {}
        self.flops_per_item: float | None = None
        self.peak_flops: float | None = None
        self._first: tuple[int, float] | None = None  # step and time of the end of the first step
        self._last = (0, 0.0)
        self._before, self._started = 0.0, 0.0
        self._mark = (0, 0.0)
        self._rate: float | None = None
        self._step = 0
        self._paused = 0.0

    @property
    def state_key(self) -> str:
        """Key of the state in checkpoints: the first name of this class, so that older checkpoints load."""
        return "Clock"

    @property
    def seconds(self) -> float:
        """Seconds of training so far, including validation."""
        return self._before + (time.perf_counter() - self._started if self._started else 0.0)

    def items_per_second(self) -> float | None:
        """Items per second since the last call after another step, without validation; None before the first step.

        Rows of metrics that a GPU delays are written at once: they have one speed.
        """
        now, (step, at) = time.perf_counter() - self._paused, self._mark
        if self._step != step:
            self._mark = (self._step, now)
            self._rate = self.items_per_step * (self._step - step) / max(now - at, 1e-9)
        return self._rate

    def mean_items_per_second(self) -> float | None:
        """Items per second of this start without its first step and validations; None before the second step."""
        steps, seconds = self._since_first_step()
        return self.items_per_step * steps / seconds if steps else None

    def shares(self) -> dict[str, float]:
        """The share of each part in the time since the first step."""
        steps, seconds = self._since_first_step()
        return {name: min(watch.seconds / seconds, 1.0) for name, watch in self.parts.items()} if steps else {}

    def use_of_gpu(self, items_per_second: float | None) -> dict[str, float | None]:
        """Peak memory in GB and model FLOPs utilization at this speed; None without a GPU."""
        mfu = None
        if self.flops_per_item and self.peak_flops and items_per_second:
            mfu = round(self.flops_per_item * items_per_second / self.peak_flops, 4)
        return {"gpu_memory_gb": gpu_memory(), "mfu": mfu}

    def _since_first_step(self) -> tuple[int, float]:
        """(steps, seconds without validation) from the end of the first step to that of the last one."""
        if self._first is None:
            return 0, 0.0
        return self._last[0] - self._first[0], max(self._last[1] - self._first[1], 1e-9)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the timer."""
        self._started, self._step = time.perf_counter(), trainer.global_step
        self._mark = (self._step, self._started - self._paused)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """Count the step."""
        self._step = trainer.global_step + 1

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Keep the folder of a run that has trained, whatever happens to it; note the end of the step."""
        if self.folder is not None:
            self.folder.is_new = False
        self._last = (self._step, time.perf_counter() - self._paused)
        if self._first is None and is_step_end(trainer):
            self._first = self._last
            for watch in self.parts.values():
                watch.reset()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Exclude validation from the throughput."""
        self._paused -= time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Exclude validation from the throughput."""
        self._paused += time.perf_counter()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the timer."""
        self._before, self._started = self.seconds, 0.0

    def state_dict(self) -> dict[str, Any]:
        """State to be saved in the checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self._before = state_dict["seconds"]


class BestAndLastCheckpoints(Checkpoint):
    """Saves `last.ckpt` regularly and after each validation, `best.ckpt` when the monitored metric improves, or when it
    equals the best and `stop_monitor`, usually the loss, is better: few validation items have many equal accuracies.

    If a validation is due at a step, the checkpoint is written after it, so that a resumed run logs the same metrics.
    Lightning's `ModelCheckpoint` writes it before.

    Args:
        folder: Folder of the checkpoints.
        every: Steps between checkpoints; 0 saves after validations only.
        validate_every: Steps between validations.
        monitor: Metric that selects the best step.
        mode: "max" or "min".
        stop_monitor, stop_mode: Metric that early stopping looks at, and its better direction. Default: `monitor`.
        early_stopping_patience: Stop after this many validations without improvement; 0 disables early stopping.
    """

    def __init__(self, folder: Path, every: int, validate_every: int, monitor: str = "val_accuracy", mode: str = "max",
                 stop_monitor: str = "", stop_mode: str = "", early_stopping_patience: int = 0):  # fmt: skip
        self.folder, self.every, self.validate_every = folder, every, validate_every
        self.early_stopping_patience = early_stopping_patience
        self.monitor, self.mode = monitor, mode
        self.stop_monitor, self.stop_mode = stop_monitor or monitor, stop_mode or mode
        self.best: float | None = None
        self.best_step = 0
        self.stop_value_of_best: float | None = None  # which decides between equal values of `monitor`
        self.best_metrics: dict[str, float] = {}  # of the validation at the best step
        self.stop_best: float | None = None
        self.worse = 0  # validations since the best value of `stop_monitor`
        self._saved_at = 0

    @property
    def state_key(self) -> str:
        """Key of the state in checkpoints: the first name of this class, so that older checkpoints load."""
        return "Checkpoints"

    @property
    def stopped_early(self) -> bool:
        """Whether training stops because `stop_monitor` no longer improves."""
        return bool(self.early_stopping_patience) and self.worse >= self.early_stopping_patience

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget a best checkpoint that was removed, so that the run does not end without one."""
        if self.best is not None and not trainer.strategy.broadcast(find_whole(self.folder / "best.ckpt") is not None):
            announce(f"{self.folder / 'best.ckpt'} was removed: the best of the validations to come replaces it")
            self.best, self.best_step, self.stop_value_of_best = None, 0, None
            self.stop_best, self.worse = None, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do not train further if the run stopped early but was killed before its result was written."""
        trainer.should_stop = self.stopped_early

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Save a checkpoint if one is due at this step."""
        step = trainer.global_step
        due = self.every and step % self.every == 0 and step % self.validate_every
        if due and step != self._saved_at and not trainer.should_stop and is_step_end(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save a checkpoint, and stop training early if the metric no longer improves."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value, stop_value = (trainer.callback_metrics.get(name) for name in (self.monitor, self.stop_monitor))
        if stop_value is None and self.early_stopping_patience:
            raise ValueError(f"early stopping looks at {self.stop_monitor}, which the validation has not logged (it "
                             f"logged {', '.join(trainer.callback_metrics)}): set task.stop_monitor")  # fmt: skip
        improved = is_better(value, self.best, self.mode) or (
            value is not None and float(value) == self.best
            and is_better(stop_value, self.stop_value_of_best, self.stop_mode)
        )  # fmt: skip
        if improved:
            self.stop_value_of_best = None if stop_value is None else float(stop_value)
            self.best, self.best_step = float(value), trainer.global_step  # type: ignore[arg-type]
            logged = trainer.callback_metrics.items()
            self.best_metrics = {name: round(float(x), 6) for name, x in logged if name.startswith("val_")}
        if is_better(stop_value, self.stop_best, self.stop_mode):
            self.stop_best, self.worse = float(stop_value), 0  # type: ignore[arg-type]
        else:
            self.worse += 1
        self.save(trainer, improved)
        if self.stopped_early:
            trainer.should_stop = True

    def save(self, trainer: L.Trainer, improved: bool = False) -> None:
        """Write `last.ckpt`. `best.ckpt` is copied first, so that a kill never leaves a last without its best."""
        self._saved_at = trainer.global_step
        new, strategy = self.folder / "new.ckpt", trainer.strategy
        if isinstance(strategy, ShardedStrategy):  # it writes during the next steps
            strategy.then = partial(self._keep, new, improved)
            trainer.save_checkpoint(new)
            return
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            self._keep(new, improved)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait until the last checkpoint is written."""
        wait(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Wait until the last checkpoint is written; what stops that is less important than the exception."""
        with suppress(Exception):
            wait(trainer)

    def _keep(self, new: Path, improved: bool) -> None:
        if improved:
            copy_whole(new, self.folder / "best.ckpt")
        replace_whole(new, self.folder / "last.ckpt")

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let Lightning, which counts micro-batches, validate at the same steps if a step has another number of them
        now."""
        count_micro_batches(checkpoint, trainer.accumulate_grad_batches)

    def state_dict(self) -> dict[str, Any]:
        """State to be saved in the checkpoint."""
        return {"best": self.best, "best_step": self.best_step, "best_metrics": self.best_metrics,
                "stop_value_of_best": self.stop_value_of_best, "stop_best": self.stop_best,
                "worse": self.worse}  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]
        self.best_metrics = state_dict.get("best_metrics", {})
        self.stop_value_of_best = state_dict.get("stop_value_of_best")
        self.stop_best, self.worse = state_dict.get("stop_best"), state_dict.get("worse", 0)


def count_micro_batches(checkpoint: dict[str, Any], per_step: int) -> None:
    """Change the numbers of micro-batches in a checkpoint, which ends with a whole step, to `per_step` for each."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    steps, before = checkpoint["global_step"], progress["total"]["ready"]
    for counts in (progress["total"], progress["current"]) if before else ():
        ready = counts["ready"] * per_step * steps // before
        counts |= {name: ready - (counts["ready"] - count) for name, count in counts.items()}  # callbacks come between


def wait(trainer: L.Trainer) -> None:
    """Wait for a checkpoint of a sharded model that is being written. Raises: OSError if it cannot be."""
    if isinstance(trainer.strategy, ShardedStrategy):
        trainer.strategy.wait()


def is_better(value: Tensor | None, best: float | None, mode: str) -> bool:
    """Whether a metric is better than the best so far; nan never is, since nothing could be better than it."""
    if value is None or value.isnan():
        return False
    return best is None or (float(value) > best if mode == "max" else float(value) < best)


def monitors(task: Task, name: str | None = None) -> tuple[str, str, str, str]:
    """(metric that selects the best step, its better direction, the same of early stopping).

    Args:
        task: The task, which knows the metrics of its validations.
        name: The option `monitor=`: one metric for both, with or without `val_`; None takes those of the task.

    Raises: SettingsError that lists the metrics.
    """
    if name is None:
        return task.monitor, task.mode, task.stop_monitor, task.stop_mode
    known = task.validation_metrics
    found = name if name in known else f"val_{name}"
    if found not in known:
        short = [metric.removeprefix("val_") for metric in known]
        raise SettingsError(f"monitor={name}: the validations of this run log {', '.join(short)}; expected one of them"
                            f"{did_you_mean(name, short)}")  # fmt: skip
    return found, known[found], found, known[found]
