"""Progress of a run: Lightning's progress bar over all steps in a terminal, a line per validation elsewhere."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.console import Console

from zoo.training.callbacks import TrainingTimer


class ProgressBar(RichProgressBar):
    """Lightning's progress bar with one bar for all epochs, so that its remaining time is that of the run.

    It reads metrics at most four times a second: reading them after each step would wait for the GPU.
    """

    def __init__(self, console: Console, timer: TrainingTimer):
        super().__init__(10, theme=RichProgressBarTheme(metrics_format=".4f", metrics_text_delimiter="  "))
        self.console, self.timer = console, timer
        self._next = 0.0
        if not console.is_terminal:
            self.disable()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar, from the step of a resumed run on."""
        super().on_train_start(trainer, pl_module)
        if self.progress is not None:
            self.train_progress_bar_id = self.progress.add_task(
                "step", total=trainer.max_steps, completed=trainer.global_step
            )

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the bar: all epochs share it."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the bar."""
        if time.monotonic() >= self._next or trainer.global_step == trainer.max_steps:
            self._next = time.monotonic() + 0.25
            super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Update the metrics, or print a line if the output is not a terminal."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and trainer.is_global_zero and not self.console.is_terminal:
            metrics = "  ".join(f"{name} {value:.4f}" for name, value in self.get_metrics(trainer, pl_module).items())
            progress, duration = f"{trainer.global_step}/{trainer.max_steps}", format_duration(self.timer.seconds)
            self.console.print(f"step {progress}  {metrics}  {duration}", highlight=False)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Current metrics of training and validation: `{"train loss": 1.2340, "val loss": 1.3000}`."""
        metrics = trainer.callback_metrics.items()
        return {name.replace("_", " "): float(value) for name, value in metrics if name.startswith(("train_", "val_"))}


def format_duration(seconds: float) -> str:
    """A duration as text: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
