"""Loss, metrics and predictions for single-label classification, multi-label classification and regression."""

from collections.abc import Callable
from dataclasses import dataclass

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
from zoo.tasks.calibration import BINS, ClassCalibrationError, LabelCalibrationError

Unit = tuple[float, float]
Loss = Callable[[Tensor, Tensor, str], Tensor]


@dataclass(frozen=True, eq=False)
class Objective:
    """Loss, metrics and predictions for a problem type.

    Attributes:
        problem_type: `single_label_classification` (labels [B], or probabilities [B, C]), `multi_label_classification`
            (labels [B, C] of 0 and 1) or `regression` (labels [B]).
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
        if self.unit[1] <= 0 or (self.problem_type != "regression" and self.unit != (0.0, 1.0)):
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
            losses = F.binary_cross_entropy_with_logits(
                logits, targets.to(logits), pos_weight=weights, reduction="none"
            )
            return losses.mean(1).sum(), len(targets)
        return F.mse_loss(logits[:, 0], self.normalize(targets).to(logits), reduction="sum"), len(targets)

    def checked(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Labels, or probabilities of classes, of the type that the loss takes.

        Raises: ValueError for another shape or type, and on the CPU for labels out of range.
        """
        single = self.problem_type == "single_label_classification"
        classes = single and not (labels.is_floating_point() and labels.ndim == 2)
        expected = (
            logits.shape
            if self.problem_type == "multi_label_classification" or (single and not classes)
            else (logits.shape[:1])
        )
        if labels.shape != expected or (classes and labels.is_floating_point()):
            kind = "whole numbers" if classes else "numbers"
            raise ValueError(f"labels of shape {list(labels.shape)} and {labels.dtype}: {self.problem_type} expects "
                             f"{kind} of shape {list(expected)}")  # fmt: skip
        labels = labels.long() if classes else labels
        if self.problem_type == "regression" or labels.device.type != "cpu" or not len(labels):
            return labels
        low, high = labels.aminmax()
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
        if self.problem_type == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none").mean(1)
        return F.mse_loss(logits[:, 0], self.normalize(labels).to(logits), reduction="none")

    def metrics(self, stage: str, classes: int) -> dict[str, Metric]:
        """Metrics other than the loss, by name; the F1 score is averaged over the classes, the calibration error
        is the expected one (ECE).

        A test also has the `counts` of each class, [C, 5]: true positives, false positives, true negatives, false
        negatives, items of the class; and the `confusion` matrix of up to 100 classes.
        """
        found: dict[str, Metric]
        if self.problem_type == "regression":
            return {"error": MeanAbsoluteError(), "r2": R2Score()}
        if self.problem_type == "multi_label_classification":
            found = {"accuracy": MultilabelAccuracy(classes, average="micro"), "f1": MultilabelF1Score(classes),
                     "calibration_error": LabelCalibrationError(BINS)}  # fmt: skip
            return found | ({"counts": MultilabelStatScores(classes, average=None)} if stage == "test" else {})
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
        labels = labels.to(logits) if self.problem_type == "regression" else labels.long()
        return self.predictions(logits), labels

    def predictions(self, logits: Tensor) -> Tensor:
        """Probabilities [B, C], or predicted values [B] for regression."""
        if self.problem_type == "regression":
            return logits[:, 0] * self.unit[1] + self.unit[0]
        return logits.softmax(-1) if self.problem_type == "single_label_classification" else logits.sigmoid()

    def normalize(self, labels: Tensor) -> Tensor:
        """Regression labels [B], normalized by `unit`."""
        return (labels.double() - self.unit[0]) / self.unit[1]

    @property
    def monitor(self) -> tuple[str, str]:
        """(metric that selects the best step, "max" or "min")."""
        return {
            "single_label_classification": ("accuracy", "max"),
            "multi_label_classification": ("f1", "max"),
            "regression": ("error", "min"),
        }[self.problem_type]


def unit_of(labels: Tensor, centered: bool = True) -> Unit:
    """(mean, std) of regression labels [N]; (0, root mean square) with centered=False, for heads without a bias."""
    labels = labels.double()
    mean = float(labels.mean()) if centered else 0.0
    std = float((labels - mean).square().mean().sqrt())
    return mean, std or 1.0


def balanced(labels: Tensor, classes: int) -> Tensor:
    """Weights [C] that make rare classes count as much as frequent ones: N / (C * count of the class).

    For multi-label classification (labels [N, C]): number of negatives / number of positives of each label.
    """
    if labels.ndim == 2:
        positives = labels.float().sum(0)
        return (len(labels) - positives) / positives.clamp(min=1)
    return len(labels) / (classes * torch.bincount(labels, minlength=classes).clamp(min=1))


def class_weights(choice: str, labels: Tensor, classes: int) -> Tensor | None:
    """The weights [C] of the option `class_weights`: those of `balanced`, or None for `none`."""
    return balanced(labels, classes) if choice == "balanced" else None
