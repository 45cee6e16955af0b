"""Images or audio clips with captions, in memory."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from zoo.data.audio.tables import AudioClips
from zoo.data.pairs.tables import Rows

T = TypeVar("T", Tensor, AudioClips)


@dataclass
class PairDataset(Generic[T]):
    """Things and their captions.

    Attributes:
        items: Pictures, uint8 [N, 3, H, W], or sounds.
        captions: Of each thing one or several. Training draws one of them, what is tested is the first.
        family: Rows that follow each other and stay in one batch, because they are each other's near misses.
        classes: int64 [N], where captions say no more than what class a thing is of: whatever is said of one then
            holds of all things of its class.
    """

    items: T
    captions: list[tuple[str, ...]]
    family: int = 1
    classes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, rows: Tensor) -> "PairDataset[T]":
        """The pairs of these rows, each a family of its own."""
        items: Any = self.items[rows] if isinstance(self.items, Tensor) else self.items.take(rows)
        classes = None if self.classes is None else self.classes[rows]
        return PairDataset(items, [self.captions[i] for i in rows.tolist()], classes=classes)

    def subset(self, count: int, *, seed: int = 0) -> "PairDataset[T]":
        """`count` pairs, a seeded choice, whole families as long as `count` has room for them; 0 keeps all."""
        if not count or count >= len(self):
            return self
        families = -(-count // self.family)
        order = torch.randperm(len(self) // self.family, generator=torch.Generator().manual_seed(seed))[:families]
        rows = (order.sort().values[:, None] * self.family + torch.arange(self.family)).flatten()[:count]
        return replace(self.take(rows), family=self.family)


@dataclass
class PairSplits(Generic[T]):
    """Parts of a data set of pairs.

    Attributes:
        validation: None where the data brings none: a part of `train` is then to be held out.
        real: False for what the program drew or made.
        source: Where they came from.
        classes: Their names, where things are of classes.
        unseen: Things of classes that stand in neither training nor test.
        skipped: What was left out, one line each.
        notice: What the user must be told about the choice of the data, if anything.
    """

    train: PairDataset[T]
    validation: PairDataset[T] | None
    test: PairDataset[T]
    name: str
    real: bool
    source: str
    classes: list[str] = field(default_factory=list)
    unseen: PairDataset[T] | None = None
    skipped: list[str] = field(default_factory=list)
    notice: str | None = None


Decoder = Callable[[Rows, list[str]], PairDataset[T]]
"""Makes a set of rows; what it leaves out, with the reason, goes into the list."""
