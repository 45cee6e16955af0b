"""Progress of a run: Lightning's bar over all steps in a terminal, elsewhere a line per validation and minute."""

import math
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.console import Console

from zoo.training.callbacks import TrainingTimer
from zoo.training.expected_end import ExpectedEnd, end_text
from zoo.training.speed import describe_parts
from zoo.utils.console import format_duration

MINUTE = 60.0  # seconds between two lines without a terminal


class ProgressBar(RichProgressBar):
    """Lightning's progress bar with one bar for all epochs, so that its remaining time is that of the run.

    It reads metrics at most four times a second: reading them after each step would wait for the GPU. Where it shows
    the expected end, that follows the speed of the run; if the end that was printed last is off, a line corrects it.

    Args:
        console: Where it is shown; quiet on all ranks but 0.
        timer: The timer of the run.
        budget: Seconds of the time budget; None is unlimited.

    Attributes:
        expected: Seconds that the banner expects the training to take; None if it does not know.
    """

    def __init__(self, console: Console, timer: TrainingTimer, budget: float | None = None):
        super().__init__(10, theme=RichProgressBarTheme(metrics_format=".4f", metrics_text_delimiter="  "))
        self.console, self.timer = console, timer
        self.expected: float | None = None
        self._end = ExpectedEnd(budget)
        self._next = self._validating_since = 0.0
        self._last_line = time.monotonic()
        self._step = 0
        if not console.is_terminal:
            self.disable()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar, from the step of a resumed run on."""
        super().on_train_start(trainer, pl_module)
        self._step, self._last_line = trainer.global_step, time.monotonic()
        self._end.start(self._last_line, self._step, self.expected)
        if self.progress is not None:
            self.train_progress_bar_id = self.progress.add_task(
                "step", total=trainer.max_steps, completed=trainer.global_step
            )

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the bar: all epochs share it."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the bar, or print a line if the last one is a minute old."""
        now = time.monotonic()
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._end.step(now, self._step)
        self._correct(trainer, now)
        if not self.console.is_terminal:
            if now - self._last_line >= MINUTE:
                per_step = self._end.seconds_per_step
                speed = "  ".join(self._speed(self.timer.items_per_step / per_step)) if per_step else ""
                train = {n: v for n, v in self.get_metrics(trainer, pl_module).items() if n.startswith("train")}
                self._print_line(trainer, now, train, speed)
        elif now >= self._next or trainer.global_step == trainer.max_steps:
            self._next = now + 0.25
            super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Update the metrics, or print a line if the output is not a terminal."""
        super().on_validation_end(trainer, pl_module)
        now = time.monotonic()
        if trainer.state.fn == "fit":
            self._end.validation(now, self._validating_since)
            if not self.console.is_terminal:
                self._print_line(trainer, now, self.get_metrics(trainer, pl_module))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar of the validation."""
        super().on_validation_start(trainer, pl_module)
        self._validating_since = time.monotonic()

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any,
                                batch_idx: int, dataloader_idx: int = 0) -> None:  # fmt: skip
        """Update the bar, or print a line if the last one is a minute old."""
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if trainer.state.fn == "fit":
            self._print_batch("validating", batch_idx, trainer.num_val_batches)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar of the test."""
        super().on_test_start(trainer, pl_module)
        self._last_line = time.monotonic()

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any,
                          batch_idx: int, dataloader_idx: int = 0) -> None:  # fmt: skip
        """Update the bar, or print a line if the last one is a minute old."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self._print_batch("testing", batch_idx, trainer.num_test_batches)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Current metrics of training and validation: `{"train loss": 1.2340, "val loss": 1.3000}`.

        In a terminal the expected end of a long run follows.
        """
        metrics = trainer.callback_metrics.items()
        shown: dict[str, Any] = {
            name.replace("_", " "): float(value) for name, value in metrics if name.startswith(("train_", "val_"))
        }
        for part in describe_parts(self.timer.shares()) if self.console.is_terminal else ():
            name, _, share = part.partition(" ")
            shown[name] = share
        if self.console.is_terminal and (end := end_text(self._remaining(trainer, time.monotonic()))):
            shown["end"] = end.removeprefix("expected end ")
        return shown

    def _speed(self, items_per_second: float) -> list[str]:
        """Items per second, use of the GPU, and the parts of a step that take much of its time."""
        gpu = self.timer.use_of_gpu(items_per_second)
        mfu = "" if gpu["mfu"] is None else f"MFU {gpu['mfu']:.0%}"
        memory = "" if gpu["gpu_memory_gb"] is None else f"GPU {gpu['gpu_memory_gb']:.3g} GB"
        return [f"{items_per_second:,.3g} items/s", *filter(None, (mfu, memory)), *describe_parts(self.timer.shares())]

    def _remaining(self, trainer: L.Trainer, now: float) -> float | None:
        """Seconds until the end of the run; None if that is not known."""
        steps, batches = trainer.max_steps - trainer.global_step, trainer.num_val_batches
        if steps < 0 or trainer.state.fn != "fit":
            return None
        every = float(trainer.val_check_interval or 1) / trainer.accumulate_grad_batches
        return self._end.remaining(now, steps, math.ceil(steps / max(every, 1)), sum(batches))

    def _correct(self, trainer: L.Trainer, now: float) -> None:
        """Print the expected end if that which was printed before is off."""
        line = self._end.correction(now, self._remaining(trainer, now))
        if line is not None and trainer.is_global_zero:
            self.console.print(line, highlight=False)

    def _print_line(self, trainer: L.Trainer, now: float, metrics: dict[str, Any], speed: str = "") -> None:
        """Print the step, metrics, speed, duration so far and expected end."""
        self._last_line, remaining = now, self._remaining(trainer, now)
        self._end.printed(now, remaining)
        parts = [f"step {trainer.global_step}/{trainer.max_steps}"]
        parts += [f"{name} {value:.4f}" for name, value in metrics.items()]
        parts += [speed, format_duration(self.timer.seconds), end_text(remaining)]
        if trainer.is_global_zero:
            self.console.print("  ".join(filter(None, parts)), highlight=False)

    def _print_batch(self, what: str, index: int, batches: list[int | float]) -> None:
        """Without a terminal, print the batch of a long validation or test once a minute."""
        now = time.monotonic()
        if not self.console.is_terminal and now - self._last_line >= MINUTE:
            self._last_line = now
            self.console.print(f"{what}: batch {index + 1:,} of {sum(batches):,}", highlight=False)
