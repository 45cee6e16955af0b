"""Progress of a run: a progress bar over all steps in a terminal, a line per validation elsewhere."""

import time
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zoo.training.callbacks import TrainingTimer


class ProgressBar(L.Callback):
    """Progress bar that refreshes at most four times a second, so that it does not slow down small models."""

    def __init__(self, console: Console, timer: TrainingTimer):
        self.console, self.timer = console, timer
        self._bar: Progress | None = None
        self._next = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar."""
        if not trainer.is_global_zero or not self.console.is_terminal:
            return
        text = TextColumn("{task.fields[metrics]}")
        columns = ("step", MofNCompleteColumn(), BarColumn(None), TimeRemainingColumn(), text)
        self._bar = Progress(*columns, console=self.console, auto_refresh=False)
        self._bar.start()
        self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step, metrics="")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Update the bar."""
        if self._bar is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.25
            self._show(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Update the bar, or print a line if the output is not a terminal."""
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        if self._bar is not None:
            self._show(trainer)
        else:
            progress, duration = f"{trainer.global_step}/{trainer.max_steps}", format_duration(self.timer.seconds)
            self.console.print(f"step {progress}  {format_metrics(trainer)}  {duration}", highlight=False)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the bar."""
        self._close()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._show(trainer)
        self._close()

    def _show(self, trainer: L.Trainer) -> None:
        assert self._bar is not None
        step, metrics = trainer.global_step, format_metrics(trainer)
        self._bar.update(self._bar.task_ids[0], completed=step, metrics=metrics, refresh=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def format_metrics(trainer: L.Trainer) -> str:
    """Current metrics as text: `train loss 1.2340  val loss 1.3000  val accuracy 0.5600`."""
    shown = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith(("train_", "val_"))}
    return "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in shown.items())


def format_duration(seconds: float) -> str:
    """A duration as text: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
