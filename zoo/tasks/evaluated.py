"""Base class of tasks that compute metrics of whole validation and test sets."""

from collections.abc import Mapping
from typing import Any

from torchmetrics import Metric

from zoo.tasks.base import Task
from zoo.tasks.functions import as_batch_dict


class EvaluatedTask(Task):
    """A task whose subclasses implement `_evaluate(batch, stage)`, which updates the metrics of the stage "val" or
    "test" by a batch.

    metrics: by names that begin with the stage, such as "val_loss"; one that computes a dict is logged as its entries.
    """

    metrics: Mapping[str, Metric]

    def _evaluate(self, batch: Mapping[str, Any], stage: str) -> None:
        raise NotImplementedError

    def _log_epoch(self, stage: str) -> None:
        """Log the metrics of a stage, and reset them."""
        row: dict[str, float] = {}
        for name, metric in self.metrics.items():
            if name.startswith(stage):
                value = metric.compute()
                found = value if isinstance(value, dict) else {name.removeprefix(f"{stage}_"): value}
                row |= {f"{stage}_{key}": float(score) for key, score in found.items()}
                metric.reset()
        self.log_evaluation(row)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Update the validation metrics; deterministic."""
        self._evaluate(as_batch_dict(batch), "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Update the test metrics; deterministic."""
        self._evaluate(as_batch_dict(batch), "test")

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_epoch("test")
