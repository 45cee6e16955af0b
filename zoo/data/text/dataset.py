"""Labeled texts in memory."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo.data.splits import Items

Text = str | tuple[str, str]


@dataclass
class TextDataset(Items):
    """Labeled texts.

    Attributes:
        texts: Strings or pairs of strings.
        labels: int64 [N], float32 [N, K] (multi-label) or float32 [N] (regression).
    """

    noun: ClassVar[str] = "texts"

    texts: list[Text]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.texts)

    def contents(self) -> list[Text]:
        return self.texts

    def take(self, rows: Tensor) -> "TextDataset":
        """The texts of these rows."""
        return TextDataset([self.texts[i] for i in rows.tolist()], self.labels[rows])

    def groups(self) -> Tensor:
        """The classes; see `groups`."""
        return groups(self.labels)


def groups(labels: Tensor) -> Tensor:
    """Groups for balanced splits, int64 [N]: the class, the combination of labels, or one group for regression.

    Combinations that only one row has are one group.
    """
    there = labels[~labels.isnan()]
    if labels.ndim == 2 and bool(((there == 0) | (there == 1)).all()):
        _, group, sizes = labels.nan_to_num(-1).long().unique(dim=0, return_inverse=True, return_counts=True)
        return torch.where(sizes[group] > 1, group, len(sizes))
    return torch.zeros(len(labels), dtype=torch.int64) if labels.is_floating_point() else labels
