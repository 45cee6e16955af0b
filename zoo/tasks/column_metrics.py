"""Errors of a regression of several values: of each column, and their means. Missing labels, NaN, are left out."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class ColumnMetric(Metric):
    """Base class: sums over the items with a label, for each of K columns.

    std: a number or one for each column, by which errors are divided, so that columns of different units have a
    common mean.
    """

    full_state_update = False
    count: Tensor
    absolute: Tensor
    squared: Tensor
    total: Tensor
    total_of_squares: Tensor

    def __init__(self, columns: int, std: Any = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.std = torch.as_tensor(std, dtype=torch.float64)
        for name in ("count", "absolute", "squared", "total", "total_of_squares"):
            self.add_state(name, torch.zeros(columns, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Add predicted values and labels [B, K]."""
        std = self.std.to(labels.device)
        there = ~labels.isnan()
        y = torch.where(there, labels.double() / std, 0)
        error = torch.where(there, predicted.double() / std - y, 0)
        self.count += there.sum(0)
        self.absolute += error.abs().sum(0)
        self.squared += error.square().sum(0)
        self.total += y.sum(0)
        self.total_of_squares += y.square().sum(0)

    def errors(self) -> Tensor:
        """Mean absolute errors [K], divided by `std`; NaN for columns without labels."""
        return self.absolute / self.count

    def r2(self) -> Tensor:
        """Coefficients of determination [K]; NaN for columns with fewer than two different labels."""
        spread = self.total_of_squares - self.total.square() / self.count
        return torch.where(spread > 0, 1 - self.squared / spread, torch.nan)


class ColumnError(ColumnMetric):
    """The mean over the columns of the mean absolute error, divided by `std`."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """A scalar."""
        return self.errors().nanmean()


class ColumnR2(ColumnMetric):
    """The mean over the columns of the coefficient of determination."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """A scalar."""
        return self.r2().nanmean()


class ColumnTable(ColumnMetric):
    """Of each column [K, 3]: mean absolute error in its own unit, coefficient of determination, labels."""

    def compute(self) -> Tensor:
        """float64 [K, 3]."""
        return torch.stack([self.errors() * self.std.to(self.count.device), self.r2(), self.count], 1)
