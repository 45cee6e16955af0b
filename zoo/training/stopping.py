"""Stopping a run between two steps: after the last one, at the end of the time budget, on Ctrl-C or SIGTERM."""

import signal
import threading
import time
from types import FrameType
from typing import Any

import lightning as L
import torch

from zoo.training.callbacks import BestAndLastCheckpoints, is_step_end, wait


class TrainingInterrupted(Exception):
    """Training was stopped by Ctrl-C or SIGTERM after `step`, and its last checkpoint is written."""

    def __init__(self, step: int):
        super().__init__(f"interrupted at step {step}")
        self.step = step


class StopOnSignalOrTime(L.Callback):
    """Stops training after the last step, at the end of the time budget, or on Ctrl-C or SIGTERM; between two steps.

    After the first signal the current step is completed, a checkpoint is written and `TrainingInterrupted` is raised; a
    second signal goes to the previous handler. The time budget does not affect the learning rate schedule.

    Args:
        checkpoints: Callback that saves the checkpoint.
        minutes: Time budget of this start; None is unlimited.
        agree_every: Steps between the points at which several processes agree on whether to stop.
    """

    def __init__(self, checkpoints: BestAndLastCheckpoints, minutes: float | None = None, agree_every: int = 10):
        self.checkpoints, self.minutes, self.agree_every = checkpoints, minutes, agree_every
        self.out_of_time = False
        self._signalled = False
        self._before: dict[int, Any] = {}
        self._end = float("inf")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the signal handlers and start the time budget."""
        self._end = time.monotonic() + 60.0 * self.minutes if self.minutes else float("inf")
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._on_signal) for n in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Stop if it is time. Several processes agree on it every few steps."""
        if not is_step_end(trainer):
            return
        step = trainer.global_step
        late, signalled = time.monotonic() > self._end, self._signalled
        if trainer.world_size > 1:
            late, signalled = self._agree(trainer, step, late, signalled)
        if signalled:
            self.checkpoints.save(trainer)
            wait(trainer)
            raise TrainingInterrupted(step)
        if late or step >= trainer.max_steps > 0:
            self.out_of_time = late and step < trainer.max_steps
            trainer.should_stop = True  # Lightning validates once more, then ends

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self._restore()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the signal handlers."""
        self._restore()

    def _agree(self, trainer: L.Trainer, step: int, late: bool, signalled: bool) -> tuple[bool, bool]:
        """Whether any rank is out of time or got a signal; communicates only every few steps."""
        if step % self.agree_every:
            return False, False
        flags = torch.tensor([float(late), float(signalled)], device=trainer.strategy.root_device)
        either = trainer.strategy.reduce(flags, reduce_op="sum")
        return bool(either[0] > 0), bool(either[1] > 0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
