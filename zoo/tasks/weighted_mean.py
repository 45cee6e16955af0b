"""The mean of values with weights."""

import torch
from torch import Tensor
from torchmetrics import MeanMetric


class WeightedMean(MeanMetric):
    """Mean over the items of all batches, from the mean of each batch and the number of its items.

    `MeanMetric` looks for NaN in each update, for which it waits for the device; and with nan_strategy="disable"
    torchmetrics 1.9 replaces all weights by 1.
    """

    def __init__(self) -> None:
        super().__init__(nan_strategy="disable")

    def update(self, value: Tensor, weight: Tensor | float = 1.0) -> None:  # type: ignore[override]
        """Add values, such as the mean of a batch, with a weight for all or for each, such as the number of its
        items."""
        weights = torch.ones_like(value, dtype=self.weight.dtype) * weight
        self.mean_value += (value * weights).sum()
        self.weight += weights.sum()
