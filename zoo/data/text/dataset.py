"""Labeled texts in memory."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.splits import balanced_rows
from zoo.models.config import ProblemType

Text = str | tuple[str, str]


@dataclass
class TextDataset:
    """Labeled texts.

    Attributes:
        texts: Strings or pairs of strings.
        labels: int64 [N], float32 [N, K] (multi-label) or float32 [N] (regression).
    """

    texts: list[Text]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Tensor) -> "TextDataset":
        """The texts of these rows."""
        return TextDataset([self.texts[i] for i in rows.tolist()], self.labels[rows])

    def subset(self, count: int, *, seed: int = 0) -> "TextDataset":
        """A seeded, class-balanced subset of `count` texts; 0 keeps all."""
        return self if not count or count >= len(self) else self.take(balanced_rows(groups(self.labels), count, seed))


@dataclass
class TextSplits:
    """Splits of a labeled text dataset.

    Attributes:
        validation: None if the dataset has no validation split; hold out a part of `train` then.
        problem_type: `single_label_classification`, `multi_label_classification` or `regression`.
        classes: Class names; for regression the name of the label column.
        real: False for synthetic texts.
        source: Origin of the data: a path, a Hub repository, or a description.
        notice: Message for the user about the choice of the dataset, if any.
        test_name: What the test texts are from, if not the test split of the dataset.
    """

    train: TextDataset
    validation: TextDataset | None
    test: TextDataset
    problem_type: ProblemType
    classes: list[str]
    name: str
    real: bool
    source: str
    notice: str | None = None
    test_name: str = ""


def groups(labels: Tensor) -> Tensor:
    """Groups for balanced splits, int64 [N]: the class, the combination of labels, or one group for regression.

    Combinations that only one row has are one group.
    """
    if labels.ndim == 2:
        _, group, sizes = labels.long().unique(dim=0, return_inverse=True, return_counts=True)
        return torch.where(sizes[group] > 1, group, len(sizes))
    return torch.zeros(len(labels), dtype=torch.int64) if labels.is_floating_point() else labels
