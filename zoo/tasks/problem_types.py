"""What a classifier learns from its scores: one class a row, several, or a number. Loss, figures, answers."""

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
    MultilabelAccuracy,
    MultilabelF1Score,
)

from zoo.models.config import ProblemType

Unit = tuple[float, float]
Loss = Callable[[Tensor, Tensor, str], Tensor]


@dataclass(frozen=True, eq=False)
class Objective:
    """problem_type: `single_label_classification` class a row (labels [B], or shares [B, C]), `multi_label_classification` (labels [B, C] of 0 and 1), a `regression` ([B]).

    label_smoothing: share of the target spread over all classes. class_weights [C]: of the classes in the training
    loss; for several labels the weight of a label that is there. unit (mean, std): numbers are learned as
    (number - mean) / std, and the losses are of those; figures and answers are of the numbers themselves.
    """

    problem_type: ProblemType = "single_label_classification"
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    unit: Unit = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.problem_type not in ("single_label_classification", "multi_label_classification", "regression"):
            raise ValueError(
                f"problem_type={self.problem_type!r}: expected 'single_label_classification', 'multi_label_classification' or 'regression'"
            )
        if self.problem_type != "single_label_classification" and self.label_smoothing:
            raise ValueError(
                f"label_smoothing={self.label_smoothing} needs one class a row, problem_type is {self.problem_type!r}"
            )
        if self.problem_type == "regression" and self.class_weights is not None:
            raise ValueError("class_weights: a number has no classes")
        if self.unit[1] <= 0 or (self.problem_type != "regression" and self.unit != (0.0, 1.0)):
            raise ValueError(f"unit={self.unit}: expected (mean, std) of numbers, std above 0")

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The scalar that training takes down."""
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        if self.problem_type == "single_label_classification":
            return F.cross_entropy(logits, targets, weight=weights, label_smoothing=self.label_smoothing)
        if self.problem_type == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, targets.to(logits), pos_weight=weights)
        return F.mse_loss(logits[:, 0], self.scaled(targets).to(logits))

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[B], without weights and smoothing: what evaluation reports."""
        if self.problem_type == "single_label_classification":
            return F.cross_entropy(logits, labels, reduction="none")
        if self.problem_type == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none").mean(1)
        return F.mse_loss(logits[:, 0], self.scaled(labels).to(logits), reduction="none")

    def metrics(self, stage: str, classes: int) -> dict[str, Metric]:
        """The figures beside the loss, by name; the F1 score is the mean over the classes."""
        if self.problem_type == "regression":
            return {"error": MeanAbsoluteError(), "r2": R2Score()}
        if self.problem_type == "multi_label_classification":
            return {"accuracy": MultilabelAccuracy(classes, average="micro"), "f1": MultilabelF1Score(classes)}
        found: dict[str, Metric] = {"accuracy": MulticlassAccuracy(classes, average="micro")}
        if stage == "test":
            found["f1"] = MulticlassF1Score(classes, average="macro")
        if stage == "test" and classes <= 100:
            found["confusion"] = MulticlassConfusionMatrix(classes)
        return found

    def scores(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What those figures are told."""
        return (
            (self.answer(logits), labels.to(logits)) if self.problem_type == "regression" else (logits, labels.long())
        )

    def answer(self, logits: Tensor) -> Tensor:
        """Probabilities [B, C], or numbers [B]."""
        if self.problem_type == "regression":
            return logits[:, 0] * self.unit[1] + self.unit[0]
        return logits.softmax(-1) if self.problem_type == "single_label_classification" else logits.sigmoid()

    def scaled(self, numbers: Tensor) -> Tensor:
        """[B], in units of what is learned."""
        return (numbers.double() - self.unit[0]) / self.unit[1]

    @property
    def monitor(self) -> tuple[str, str]:
        """(the figure that says which step is best, "max" or "min")."""
        return {
            "single_label_classification": ("accuracy", "max"),
            "multi_label_classification": ("f1", "max"),
            "regression": ("error", "min"),
        }[self.problem_type]


def unit_of(numbers: Tensor, centered: bool = True) -> Unit:
    """(mean, std) of numbers [N]; not centered, mean 0 and their root mean square, for heads that have no bias."""
    numbers = numbers.double()
    mean = float(numbers.mean()) if centered else 0.0
    spread = float((numbers - mean).square().mean().sqrt())
    return mean, spread or 1.0


def balanced(labels: Tensor, classes: int) -> Tensor:
    """Weights [C] by which rare classes count as much as frequent ones: N / (C * count); for several labels
    (labels [N, C]), how many times more often a label is absent than there.
    """
    if labels.ndim == 2:
        there = labels.float().sum(0)
        return (len(labels) - there) / there.clamp(min=1)
    return len(labels) / (classes * torch.bincount(labels, minlength=classes).clamp(min=1))
