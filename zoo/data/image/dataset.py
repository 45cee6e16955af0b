"""Labeled images in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.image.decode import Decoded
from zoo.data.keyed_batches import Keys
from zoo.data.sources.dataset_cards import Card
from zoo.data.splits import Items, Splits
from zoo.utils.errors import DataError


@dataclass
class ImageDataset(Items, Dataset[dict[str, Tensor]]):
    """Labeled images.

    Attributes:
        images: uint8 [N, C, H, W], as stored in memory.
        labels: int64 [N].
        classes: Class names.
        broken: Messages of skipped images.
        resize: Converts a stored image to the size and number of channels of the model when it is fetched; small
            images take less memory so. None leaves them alone.
    """

    noun: ClassVar[str] = "images"

    images: Tensor
    labels: Tensor
    classes: list[str]
    broken: list[str] = field(default_factory=list)
    resize: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """One image [C, H, W], its label and its index."""
        image = self.images[i] if self.resize is None else self.resize(self.images[i])
        return {"pixel_values": image, "labels": self.labels[i], "index": torch.tensor(i)}

    def __getitems__(self, rows: Sequence[int]) -> Any:
        """A collated batch for keyed batch samplers; a list of items for any other data loader."""
        if not isinstance(rows, Keys):
            return [self[i] for i in rows]
        index = torch.tensor(rows)
        return {"pixel_values": self.pixels(index), "labels": self.labels[index], "index": index, "epoch": rows.epoch}

    def pixels(self, index: Tensor) -> Tensor:
        """The images of these rows as the model takes them, uint8 [B, C, H, W]."""
        images = self.images[index]
        return images if self.resize is None else torch.stack([self.resize(image) for image in images])

    def take(self, rows: Tensor) -> "ImageDataset":
        """The images of these rows."""
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def groups(self) -> Tensor:
        """The classes."""
        return self.labels


@dataclass
class ImageSplits(Splits[ImageDataset]):
    """Splits of an image dataset.

    Attributes:
        mean, std: Statistics of each channel's training pixels, from 0 to 1.
        card: The dataset's card, if it has one.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    card: Card | None = None

    def __post_init__(self) -> None:
        self.classes = self.classes or self.train.classes


def labeled(decoded: Decoded, labels: list[Any], classes: list[str], where: str) -> ImageDataset:
    """Combine decoded images with their labels. Raises: DataError for labels outside of the classes."""
    tensor = torch.tensor([-1 if label is None else label for label in labels], dtype=torch.int64)[decoded.kept]
    if len(wrong := ((tensor < 0) | (tensor >= len(classes))).nonzero()):
        row = int(decoded.kept[wrong[0, 0]])
        raise DataError(f"{where}, row {row}: label {labels[row]!r}, expected 0 to {len(classes) - 1}")
    return ImageDataset(decoded.images, tensor, classes, decoded.broken)
