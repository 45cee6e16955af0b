"""What a run adds to a Lightning trainer: the clock, checkpoints, stopping, the `metrics.csv` logger."""

import shutil
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from zoo.training.metrics_file import MetricsTable
from zoo.utils.files import write_atomic


class Interrupted(Exception):
    """Ctrl-C, or the request of a job scheduler to end. The last checkpoint is written; `step` says at which step."""

    def __init__(self, step: int):
        super().__init__(f"interrupted at step {step}")
        self.step = step


def whole_step(trainer: L.Trainer) -> bool:
    """Whether the batch that just ended was the last micro-batch of its step."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that a kill or a full disk cannot leave half written, and that load without running code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside the target, then put it in its place."""
        write_atomic(Path(path), lambda part: torch.save(checkpoint, part))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Tensors, numbers and texts only, whatever the caller asks for."""
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


class CsvLogger(Logger):
    """Lightning's face of `metrics.csv`."""

    def __init__(self, file: Path, clock: "Clock"):
        super().__init__()
        self.file, self.clock = file, clock
        self.table: MetricsTable | None = None

    @property
    def name(self) -> str:
        """Of no use here, but asked for."""
        return "csv"

    @property
    def version(self) -> str:
        """Of no use here, but asked for."""
        return "0"

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsTable:
        """The table."""
        self.table = self.table or MetricsTable(self.file)
        return self.table

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """A row, with the seconds trained so far. The test's figures belong to no step, but into `metrics.json`."""
        figures = {name: float(value) for name, value in metrics.items() if not name.startswith(("epoch", "test_"))}
        if not figures:
            return
        if "train_loss" in figures:
            figures["items_per_second"] = self.clock.rate()
        self.experiment.add(int(step or 0), figures | {"seconds": round(self.clock.seconds, 3)})

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """`config.yaml` has them."""


class Clock(L.Callback):
    """Seconds of training over all starts of a run, and its present speed.

    Args:
        items_per_step: Images, or texts, in a step's batch over all devices.
    """

    def __init__(self, items_per_step: int):
        self.items_per_step = items_per_step
        self._before, self._started = 0.0, 0.0
        self._mark = (0, 0.0)
        self._step = 0
        self._paused = 0.0

    @property
    def seconds(self) -> float:
        """Trained so far, validation included."""
        return self._before + (time.perf_counter() - self._started if self._started else 0.0)

    def rate(self) -> float:
        """Items per second since the last call, validation left out."""
        now, (step, at) = time.perf_counter() - self._paused, self._mark
        self._mark = (self._step, now)
        return self.items_per_step * (self._step - step) / max(now - at, 1e-9)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start."""
        self._started, self._step = time.perf_counter(), trainer.global_step
        self._mark = (self._step, self._started - self._paused)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """Count the step."""
        self._step = trainer.global_step + 1

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the time out of the speed."""
        self._paused -= time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the time out of the speed."""
        self._paused += time.perf_counter()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop."""
        self._before, self._started = self.seconds, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Goes into the checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Comes out of the checkpoint."""
        self._before = state_dict["seconds"]


class Checkpoints(Checkpoint):
    """`last.ckpt` every so many steps and after each validation, `best.ckpt` when a validation is the best so far.

    Where a validation is due, the step's checkpoint waits for it: a run resumed from there has the same figures.
    After `patience` validations in a row that are not the best, the run ends early; 0 never ends it.
    """

    def __init__(self, folder: Path, every: int, validate_every: int, monitor: str = "val_accuracy", mode: str = "max",
                 patience: int = 0):  # fmt: skip
        self.folder, self.every, self.validate_every, self.patience = folder, every, validate_every, patience
        self.monitor, self.sign = monitor, 1.0 if mode == "max" else -1.0
        self.best: float | None = None
        self.best_step = 0
        self.worse = 0  # validations since the best one
        self._saved_at = 0

    @property
    def early(self) -> bool:
        """Whether the run ends because it no longer gets better."""
        return bool(self.patience) and self.worse >= self.patience

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that was to end early and was killed before it had written its result trains no further."""
        trainer.should_stop = self.early

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """The step's checkpoint."""
        step = trainer.global_step
        due = self.every and step % self.every == 0 and step % self.validate_every
        if due and step != self._saved_at and not trainer.should_stop and whole_step(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The validation's checkpoint."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value = trainer.callback_metrics.get(self.monitor)
        improved = value is not None and (self.best is None or self.sign * float(value) > self.sign * self.best)
        if improved:
            assert value is not None
            self.best, self.best_step = float(value), trainer.global_step
        self.worse = 0 if improved else self.worse + 1
        self.save(trainer, improved)
        if self.early:
            trainer.should_stop = True

    def save(self, trainer: L.Trainer, improved: bool = False) -> None:
        """Write `last.ckpt`; the best is copied before, so that no kill leaves a last without its best."""
        self._saved_at = trainer.global_step
        fresh = self.folder / "new.ckpt"
        trainer.save_checkpoint(fresh)
        if trainer.is_global_zero:
            if improved:
                write_atomic(self.folder / "best.ckpt", lambda part: shutil.copyfile(fresh, part))
            fresh.replace(self.folder / "last.ckpt")

    def state_dict(self) -> dict[str, Any]:
        """Goes into the checkpoint."""
        return {"best": self.best, "best_step": self.best_step, "worse": self.worse}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Comes out of the checkpoint."""
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]
        self.worse = state_dict.get("worse", 0)


class Stops(L.Callback):
    """Ends a run at its last step, at its time budget, or on Ctrl-C and SIGTERM; always between two steps.

    The first signal lets the step at hand finish, has the checkpoint written and raises `Interrupted`; a second one
    falls through to what was there before. The schedule knows nothing of the budget.
    """

    def __init__(self, checkpoints: Checkpoints, minutes: float | None = None, agree_every: int = 10):
        self.checkpoints, self.minutes, self.agree_every = checkpoints, minutes, agree_every
        self.out_of_time = False
        self._signalled = False
        self._before: dict[int, Any] = {}
        self._end = float("inf")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen for signals; the budget starts."""
        self._end = time.monotonic() + 60.0 * self.minutes if self.minutes else float("inf")
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._hear) for n in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Look whether to stop. Ranks agree on it every few steps."""
        if not whole_step(trainer):
            return
        step = trainer.global_step
        late, signalled = time.monotonic() > self._end, self._signalled
        if trainer.world_size > 1:
            late, signalled = self._agree(trainer, step, late, signalled)
        if signalled:
            self.checkpoints.save(trainer)
            raise Interrupted(step)
        if late or step >= trainer.max_steps > 0:
            self.out_of_time = late and step < trainer.max_steps
            trainer.should_stop = True  # Lightning validates once more, then ends

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Signals as they were."""
        self._restore()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Signals as they were."""
        self._restore()

    def _agree(self, trainer: L.Trainer, step: int, late: bool, signalled: bool) -> tuple[bool, bool]:
        """Whether any rank is late or was signalled, asked every few steps."""
        if step % self.agree_every:
            return False, False
        flags = torch.tensor([float(late), float(signalled)], device=trainer.strategy.root_device)
        either = trainer.strategy.reduce(flags, reduce_op="sum")
        return bool(either[0] > 0), bool(either[1] > 0)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
