"""The progress of a run: one bar over all planned steps in a terminal, a line per validation elsewhere."""

import time
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zoo.training.callbacks import Clock


class Bar(L.Callback):
    """Refreshed at most four times a second, so that small models do not wait for it."""

    def __init__(self, console: Console, clock: Clock):
        self.console, self.clock = console, clock
        self._bar: Progress | None = None
        self._next = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put up the bar."""
        if not trainer.is_global_zero or not self.console.is_terminal:
            return
        text = TextColumn("{task.fields[figures]}")
        columns = ("step", MofNCompleteColumn(), BarColumn(None), TimeRemainingColumn(), text)
        self._bar = Progress(*columns, console=self.console, auto_refresh=False)
        self._bar.start()
        self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step, figures="")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Move it."""
        if self._bar is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.25
            self._show(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A line per validation where no terminal is."""
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        if self._bar is not None:
            self._show(trainer)
        else:
            step = trainer.global_step
            self.console.print(f"step {step}/{trainer.max_steps}  {figures(trainer)}  {spoken(self.clock.seconds)}",
                               highlight=False)  # fmt: skip

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self._close()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._show(trainer)
        self._close()

    def _show(self, trainer: L.Trainer) -> None:
        assert self._bar is not None
        self._bar.update(self._bar.task_ids[0], completed=trainer.global_step, figures=figures(trainer), refresh=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def figures(trainer: L.Trainer) -> str:
    """`train loss 1.234  val loss 1.3  val accuracy 0.56`."""
    shown = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith(("train_", "val_"))}
    return "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in shown.items())


def spoken(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
