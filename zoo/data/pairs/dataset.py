"""Images or audio clips with captions, in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from zoo.data.audio.tables import AudioClips
from zoo.data.pairs.tables import Rows
from zoo.data.splits import Items, Splits

T = TypeVar("T", Tensor, AudioClips)


@dataclass
class PairDataset(Items, Generic[T]):
    """Images or audio clips with their captions.

    Attributes:
        items: Images, uint8 [N, 3, H, W], or audio clips.
        captions: One or several captions of each item. Training samples one of them, evaluation uses the first.
        family: Number of consecutive rows that are hard negatives of each other and stay in one batch.
        classes: int64 [N] if captions only name the class of an item, so that they fit all items of that class.
    """

    noun: ClassVar[str] = "pairs"
    smallest_validation: ClassVar[int] = 2  # a single pair has nothing to be contrasted with

    items: T
    captions: list[tuple[str, ...]]
    family: int = 1
    classes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, rows: Tensor) -> "PairDataset[T]":
        """The pairs of these rows, with family=1."""
        items: Any = self.items[rows] if isinstance(self.items, Tensor) else self.items.take(rows)
        classes = None if self.classes is None else self.classes[rows]
        return PairDataset(items, [self.captions[i] for i in rows.tolist()], classes=classes)

    def some_captions(self) -> list[str]:
        """Captions that a tokenizer is trained on: all of them."""
        return [text for captions in self.captions for text in captions]

    def subset(self, count: int, *, seed: int = 0) -> "PairDataset[T]":
        """A seeded subset of `count` pairs in whole families, except perhaps the last one; 0 keeps all."""
        if not count or count >= len(self):
            return self
        families = -(-count // self.family)
        order = torch.randperm(len(self) // self.family, generator=torch.Generator().manual_seed(seed))[:families]
        rows = (order.sort().values[:, None] * self.family + torch.arange(self.family)).flatten()[:count]
        part = self.select(rows)
        part.family = self.family
        return part


@dataclass
class PairSplits(Splits[PairDataset[T]], Generic[T]):
    """Splits of a dataset of pairs.

    Attributes:
        unseen: Items of the held-out classes, which are neither in `train` nor in `test`.
    """

    unseen: PairDataset[T] | None = None


Decoder = Callable[[Rows, list[str]], PairDataset[T]]
"""Decodes rows to a dataset; messages of skipped rows are appended to the list."""
