"""Temperature scaling: one number by which logits are divided, so that probabilities are as high as they are right."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from zoo.models.config import ProblemType

MISSING = -1  # stands for a label of several that is not there
BINS = 15  # of the expected calibration error, as in Guo et al. 2017
_LIMIT = 20.0  # the greatest temperature, and one by the least: beyond it, a few items decide


def fit_temperature(logits: Tensor, labels: Tensor, problem_type: ProblemType) -> float | None:
    """The temperature with the least loss of logits [N, C] / temperature; None if no finite one is the best.

    There is none if every item is predicted correctly (then 0 would be), or if the logits say less than chance.

    Args:
        logits: Of items that were not trained on.
        labels: [N] classes, or [N, C] zeros and ones of multi-label classification, -1 where there is none.
        problem_type: Single-label or multi-label classification.

    Source: Guo et al. 2017, section 4.2, https://arxiv.org/abs/1706.04599. The loss is convex in 1 / temperature, so
    that its slope has one zero, which bisection finds.
    """
    z = logits.double()
    targets = F.one_hot(labels, z.shape[1]) if problem_type == "single_label_classification" else labels
    targets = targets.to(z)

    def slope(scale: float) -> float:
        p = (z * scale).softmax(-1) if problem_type == "single_label_classification" else (z * scale).sigmoid()
        return float(((p - targets) * z)[targets >= 0].sum())

    low, high = 1 / _LIMIT, _LIMIT
    if slope(low) >= 0 or slope(high) <= 0:
        return None
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / middle


def calibration_error(logits: Tensor, labels: Tensor, problem_type: ProblemType) -> float:
    """Expected calibration error of logits [N, C]: mean distance between probabilities and how often they are right."""
    if problem_type == "single_label_classification":
        error = multiclass_calibration_error(logits.softmax(-1), labels, num_classes=logits.shape[1], n_bins=BINS)
    else:
        error = binary_calibration_error(logits.sigmoid(), labels.long(), n_bins=BINS, ignore_index=MISSING)
    return float(error)


class _InOrder:
    """Sorts the items before the error is computed: its sums then do not depend on how devices split the items."""

    confidences: Any
    accuracies: Any

    def compute(self) -> Tensor:
        """The error, a scalar."""
        confidences, accuracies = (
            torch.cat(x) if isinstance(x, list) else x for x in (self.confidences, self.accuracies)
        )
        order = confidences.argsort()
        self.confidences, self.accuracies = [confidences[order]], [accuracies[order]]
        return super().compute()  # type: ignore[misc]


class ClassCalibrationError(_InOrder, MulticlassCalibrationError):
    """Expected calibration error of the most probable class."""


class LabelCalibrationError(_InOrder, BinaryCalibrationError):
    """Expected calibration error over all labels of all items."""


class TemperatureFit(Metric):
    """Collects logits and labels of all processes; computes [temperature, calibration error before and after].

    The temperature is nan if no finite one is the best. Args: problem_type, and further options of torchmetrics.Metric.
    """

    full_state_update = False
    logits: list[Tensor]
    labels: list[Tensor]

    def __init__(self, problem_type: ProblemType, **options: Any):
        super().__init__(**options)
        self.problem_type = problem_type
        self.add_state("logits", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add logits [B, C], of temperature 1, and labels."""
        self.logits.append(logits.detach())
        self.labels.append(labels.nan_to_num(MISSING).long())

    def compute(self) -> Tensor:
        """float64 [3]."""
        logits, labels = (torch.cat(x) if isinstance(x, list) else x for x in (self.logits, self.labels))
        found = fit_temperature(logits, labels, self.problem_type)
        errors = [calibration_error(logits / t, labels, self.problem_type) for t in (1.0, found or 1.0)]
        return torch.tensor([float("nan") if found is None else found, *errors], dtype=torch.float64)
