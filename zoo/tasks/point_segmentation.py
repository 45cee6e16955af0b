"""Segmentation of point clouds: a class for each point."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassJaccardIndex

from zoo.tasks.classification import ClassificationTask
from zoo.tasks.functions import at_least_float32
from zoo.tasks.problem_types import Objective


@dataclass(frozen=True, eq=False)
class SegmentationObjective(Objective):
    """As Objective, of single labels, with the mean IoU: of each class the points that have it and are predicted to
    have it, as a fraction of those that have it or are predicted to have it; the mean of the classes that occur."""

    def metrics(self, stage: str, classes: int) -> dict[str, Metric]:
        return {"mean_iou": MulticlassJaccardIndex(classes, average="macro")} | super().metrics(stage, classes)

    @property
    def monitor(self) -> tuple[str, str]:
        return "mean_iou", "max"


class PointSegmentationTask(ClassificationTask):
    """Train and evaluate a model that gives each point of a cloud a class.

        task = PointSegmentationTask(zoo.create_model("point_transformer_tiny", head="token", num_classes=3), lr=2e-3)
        L.Trainer(max_epochs=30).fit(task, loader)

    Batches: the model's inputs, B clouds of up to N points; `labeled` bool [B, N], True for the points that have a
    class; and the `labels` [P] of these. Logs what `ClassificationTask` logs, of the labeled points of all clouds, and
    `mean_iou`, which selects the best step. Its arguments are the same; `problem_type` is that of single labels.
    """

    runs_in_pipeline = False
    objective_type = SegmentationObjective

    def output_of(self, model: Any, batch: Mapping[str, Any]) -> Tensor:
        """Logits [P, C] of the labeled points of a batch, in float32 or float64."""
        if "labeled" not in batch:
            raise ValueError("the batch has no `labeled`: expected bool [B, N], True for the points that have a class")
        names = getattr(self.model, "inputs", ("points", "attention_mask"))
        logits = model(**{name: batch[name] for name in names if name in batch})
        if logits.ndim != 3 or logits.shape[:2] != batch["labeled"].shape:
            raise ValueError(f"PointSegmentationTask needs logits [{', '.join(map(str, batch['labeled'].shape))}, C], "
                             f"a row for each point, and the model returned {list(logits.shape)}; create it with "
                             f"head='token'")  # fmt: skip
        return at_least_float32(logits[batch["labeled"]])
