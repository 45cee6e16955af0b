"""Loss, metrics and predictions for single-label classification, multi-label classification and regression."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, Metric, R2Score
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassStatScores,
    MultilabelAccuracy,
    MultilabelF1Score,
    MultilabelStatScores,
)

from zoo.models.config import ProblemType
from zoo.tasks.calibration import BINS, MISSING, ClassCalibrationError, LabelCalibrationError
from zoo.tasks.column_metrics import ColumnError, ColumnR2, ColumnTable

# (mean, std) of the targets of a regression, or of each of several: (means, stds).
Unit = tuple[float, float] | tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, eq=False)
class Objective:
    """Loss, metrics and predictions for a problem type.

    Attributes:
        problem_type: `single_label_classification` (labels [B], or probabilities [B, C]), `multi_label_classification`
            (labels [B, C] of 0 and 1) or `regression` (labels [B], or [B, C] of several values). A label of the last
            two that is NaN is missing: losses and metrics leave it out.
        label_smoothing: Fraction of the target that is spread over all classes.
        class_weights: Weights [C] of the classes in the training loss; for multi-label classification, the weights of
            positive labels.
        unit: (mean, std) of regression targets. The losses are those of (label - mean) / std; metrics and predictions
            are in the units of the labels.
    """

    problem_type: ProblemType = "single_label_classification"
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    unit: Unit = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.problem_type not in ("single_label_classification", "multi_label_classification", "regression"):
            raise ValueError(
                f"problem_type={self.problem_type!r}: expected 'single_label_classification', "
                f"'multi_label_classification' or 'regression'"
            )
        if self.problem_type != "single_label_classification" and self.label_smoothing:
            raise ValueError(
                f"label_smoothing={self.label_smoothing} needs problem_type='single_label_classification', "
                f"got {self.problem_type!r}"
            )
        if self.problem_type == "regression" and self.class_weights is not None:
            raise ValueError("class_weights: regression has no classes; omit class_weights")
        other = self.problem_type != "regression" and self.unit != (0.0, 1.0)
        if other or not (torch.tensor(self.unit[1]) > 0).all():
            raise ValueError(f"unit={self.unit}: expected (mean, std) of regression targets, with std above 0")

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar training loss."""
        total, weight = self.total_loss(logits, targets)
        return total / weight

    def total_loss(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | int]:
        """Sum of the training losses of a batch, and the weight to divide it by for their mean."""
        targets = self.checked(logits, targets)
        weights = None
        if self.class_weights is not None:
            weights = self.class_weights.to(logits.device, logits.dtype, non_blocking=True)
        if self.problem_type == "single_label_classification":
            loss = F.cross_entropy(
                logits, targets, weight=weights, label_smoothing=self.label_smoothing, reduction="sum"
            )
            return loss, len(targets) if weights is None or targets.ndim > 1 else weights[targets].sum()
        if self.problem_type == "multi_label_classification":
            return self.row_losses(logits, targets, weights).sum(), len(targets)
        return self.row_losses(logits, targets).sum(), len(targets)

    def row_losses(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Losses [B] of rows with several labels or values: the mean over those that are there."""
        regression = self.problem_type == "regression"
        if targets.ndim == 1:
            targets = targets[:, None]
        there = ~targets.isnan()
        targets = (self.normalize(targets) if regression else targets).nan_to_num(0.0).to(logits)
        losses = (
            F.mse_loss(logits, targets, reduction="none")
            if regression
            else F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="none")
        )
        return torch.where(there, losses, 0).sum(1) / there.sum(1).clamp(min=1)

    def checked(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Labels, or probabilities of classes, of the type that the loss takes.

        Raises: ValueError for another shape or type, and on the CPU for labels out of range.
        """
        single = self.problem_type == "single_label_classification"
        classes = single and not (labels.is_floating_point() and labels.ndim == 2)
        several = self.problem_type == "regression" and logits.shape[1] > 1
        whole = several or self.problem_type == "multi_label_classification" or (single and not classes)
        expected = logits.shape if whole else logits.shape[:1]
        if labels.shape != expected or (classes and labels.is_floating_point()):
            kind = "whole numbers" if classes else "numbers"
            raise ValueError(f"labels of shape {list(labels.shape)} and {labels.dtype}: {self.problem_type} expects "
                             f"{kind} of shape {list(expected)}")  # fmt: skip
        labels = labels.long() if classes else labels
        if self.problem_type == "regression" or labels.device.type != "cpu" or not len(labels):
            return labels
        low, high = labels.nan_to_num(0).aminmax()
        limit = logits.shape[1] - 1 if classes else 1
        if low < 0 or high > limit:
            odd = low.item() if low < 0 else high.item()
            raise ValueError(f"the batch has the label {odd}, expected 0 to {limit} for {logits.shape[1]} classes")
        return labels

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Losses [B] for evaluation, without class weights and label smoothing."""
        labels = self.checked(logits, labels)
        if self.problem_type == "single_label_classification":
            return F.cross_entropy(logits, labels, reduction="none")
        return self.row_losses(logits, labels)

    def metrics(self, stage: str, classes: int) -> dict[str, Metric]:
        """Metrics other than the loss, by name; the F1 score is averaged over the classes, the calibration error
        is the expected one (ECE).

        A test also has the `counts` of each class, [C, 5]: true positives, false positives, true negatives, false
        negatives, items of the class; and the `confusion` matrix of up to 100 classes. The error of several values is
        the mean of their errors in standard deviations, `unit`, and a test has the `columns`, see `ColumnTable`.
        """
        found: dict[str, Metric]
        if self.problem_type == "regression" and classes == 1:
            return {"error": MeanAbsoluteError(), "r2": R2Score()}
        if self.problem_type == "regression":
            found = {"error": ColumnError(classes, self.unit[1]), "r2": ColumnR2(classes)}
            return found | ({"columns": ColumnTable(classes)} if stage == "test" else {})
        if self.problem_type == "multi_label_classification":
            options: Any = {"ignore_index": MISSING}
            found = {"accuracy": MultilabelAccuracy(classes, average="micro", **options),
                     "f1": MultilabelF1Score(classes, **options),
                     "calibration_error": LabelCalibrationError(BINS, **options)}  # fmt: skip
            if stage == "test":
                found["counts"] = MultilabelStatScores(classes, average=None, **options)
            return found
        found = {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "f1": MulticlassF1Score(classes, average="macro"),
            "calibration_error": ClassCalibrationError(classes, BINS),
        }
        if stage == "test":
            found["counts"] = MulticlassStatScores(classes, average=None)
        if stage == "test" and classes <= 100:
            found["confusion"] = MulticlassConfusionMatrix(classes)
        return found

    def metric_inputs(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(predictions, labels) in the form that the metrics take.

        Predictions are probabilities: metrics would take logits that all lie between 0 and 1 for probabilities.
        """
        if self.problem_type == "regression":
            return self.predictions(logits), labels.to(logits)
        return self.predictions(logits), labels.nan_to_num(MISSING).long()

    def predictions(self, logits: Tensor) -> Tensor:
        """Probabilities [B, C], or predicted values for regression: [B], or [B, C] of several."""
        if self.problem_type == "regression":
            mean, std = (torch.tensor(x, device=logits.device) for x in self.unit)
            values = logits * std.to(logits) + mean.to(logits)
            return values[:, 0] if values.shape[1] == 1 else values
        return logits.softmax(-1) if self.problem_type == "single_label_classification" else logits.sigmoid()

    def normalize(self, labels: Tensor) -> Tensor:
        """Regression labels [B] or [B, C], normalized by `unit`."""
        mean, std = (torch.tensor(x, dtype=torch.float64, device=labels.device) for x in self.unit)
        return (labels.double() - mean) / std

    @property
    def monitor(self) -> tuple[str, str]:
        """(metric that selects the best step, "max" or "min")."""
        return {
            "single_label_classification": ("accuracy", "max"),
            "multi_label_classification": ("f1", "max"),
            "regression": ("error", "min"),
        }[self.problem_type]


def unit_of(labels: Tensor, centered: bool = True) -> Unit:
    """(mean, std) of regression labels [N], or (means, stds) of labels [N, C] that are there.

    centered=False: (0, root mean square), for heads without a bias.
    """
    if labels.ndim == 2:
        means, stds = zip(*(unit_of(column[~column.isnan()], centered) for column in labels.unbind(1)), strict=True)
        return means, stds
    labels = labels.double()
    mean = float(labels.mean()) if centered else 0.0
    std = float((labels - mean).square().mean().sqrt())
    return mean, std or 1.0


def inverse_unit(unit: Unit) -> Unit:
    """The unit by which values that are normalized by this one become what they were."""
    mean, std = (torch.tensor(x, dtype=torch.float64) for x in unit)
    shift, factor = -mean / std, 1 / std
    return (tuple(shift.tolist()), tuple(factor.tolist())) if mean.ndim else (float(shift), float(factor))


def balanced(labels: Tensor, classes: int) -> Tensor:
    """Weights [C] that make rare classes count as much as frequent ones: N / (C * count of the class).

    For multi-label classification (labels [N, C]): number of negatives / number of positives of each label.
    """
    if labels.ndim == 2:
        positives, there = labels.float().nansum(0), (~labels.isnan()).sum(0)
        return (there - positives) / positives.clamp(min=1)
    return len(labels) / (classes * torch.bincount(labels, minlength=classes).clamp(min=1))


def class_weights(choice: str, labels: Tensor, classes: int) -> Tensor | None:
    """The weights [C] of the option `class_weights`: those of `balanced`, or None for `none`."""
    return balanced(labels, classes) if choice == "balanced" else None
