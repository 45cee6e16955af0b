"""Labeled texts in memory."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.splits import even_rows
from zoo.models.config import ProblemType

Text = str | tuple[str, str]


@dataclass
class TextDataset:
    """texts: strings or pairs of them; labels: int64 [N], or float32 [N, K] (several a row) or [N] (numbers)."""

    texts: list[Text]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Tensor) -> "TextDataset":
        """The texts of these rows."""
        return TextDataset([self.texts[i] for i in rows.tolist()], self.labels[rows])

    def subset(self, count: int, *, seed: int = 0) -> "TextDataset":
        """`count` texts, the classes as evenly as they allow; 0 keeps all."""
        return self if not count or count >= len(self) else self.take(even_rows(groups(self.labels), count, seed))


@dataclass
class TextSplits:
    """Parts of a data set of texts.

    Attributes:
        problem_type: `single_label_classification` class a text, `multi_label_classification`, or a `regression`.
        classes: Their names; of a number, the one name of its column.
        validation: None where the data brings none: a part of `train` is then to be held out.
        real: False for texts that the program composed.
        source: Where they came from.
        notice: What the user must be told about the choice of the data, if anything.
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


def groups(labels: Tensor) -> Tensor:
    """What is to be spread evenly, int64 [N]: the class; for several, each combination; for numbers nothing."""
    if labels.ndim == 2:
        return labels.long().unique(dim=0, return_inverse=True)[1]
    return torch.zeros(len(labels), dtype=torch.int64) if labels.is_floating_point() else labels
