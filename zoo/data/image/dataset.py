"""Labeled images in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.image.decode import Decoded
from zoo.data.keyed_batches import Keys
from zoo.data.sources.dataset_cards import Card
from zoo.data.splits import balanced_rows
from zoo.utils.errors import DataError


@dataclass
class ImageDataset(Dataset[dict[str, Tensor]]):
    """Labeled images.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        classes: Class names.
        broken: Messages of skipped images.
    """

    images: Tensor
    labels: Tensor
    classes: list[str]
    broken: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """One image [C, H, W], its label and its index."""
        return {"pixel_values": self.images[i], "labels": self.labels[i], "index": torch.tensor(i)}

    def __getitems__(self, rows: Sequence[int]) -> Any:
        """A collated batch for keyed batch samplers; a list of items for any other data loader."""
        if not isinstance(rows, Keys):
            return [self[i] for i in rows]
        index, epoch = torch.tensor(rows), torch.tensor(rows.epoch)
        return {"pixel_values": self.images[index], "labels": self.labels[index], "index": index, "epoch": epoch}

    def subset(self, count: int, *, seed: int = 0) -> "ImageDataset":
        """A seeded, class-balanced subset of `count` images; 0 keeps all."""
        if not count or count >= len(self):
            return self
        rows = balanced_rows(self.labels, count, seed)
        return ImageDataset(self.images[rows], self.labels[rows], self.classes, self.broken)


@dataclass
class ImageSplits:
    """Training and test split of an image dataset.

    Attributes:
        name: Name of the dataset card or of the folder.
        real: False for synthetic images, whose accuracies say nothing about real datasets.
        source: Origin of the data: a path, a Hub repository, or a description.
        mean, std: Statistics of each channel's training pixels, from 0 to 1.
        notice: Message for the user about the choice of the dataset, if any.
    """

    train: ImageDataset
    test: ImageDataset
    name: str
    real: bool
    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    card: Card | None = None
    notice: str | None = None

    @property
    def classes(self) -> list[str]:
        return self.train.classes


def labeled(decoded: Decoded, labels: list[Any], classes: list[str], where: str) -> ImageDataset:
    """Combine decoded images with their labels. Raises: DataError for labels outside of the classes."""
    tensor = torch.tensor([-1 if label is None else label for label in labels], dtype=torch.int64)[decoded.kept]
    if len(wrong := ((tensor < 0) | (tensor >= len(classes))).nonzero()):
        row = int(decoded.kept[wrong[0, 0]])
        raise DataError(f"{where}, row {row}: label {labels[row]!r}, expected 0 to {len(classes) - 1}")
    return ImageDataset(decoded.images, tensor, classes, decoded.broken)
