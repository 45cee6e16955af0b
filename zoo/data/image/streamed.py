"""Labeled images of shards, decoded batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.config import DataSettings
from zoo.data.image.dataset import ImageDataset, ImageSplits
from zoo.data.image.decode import decode_image, plain_png_size
from zoo.data.image.statistics import statistics_of_parts
from zoo.data.keyed_batches import Keys
from zoo.data.sources.class_names import read_names
from zoo.data.splits import with_test
from zoo.data.stream_order import StreamOrder
from zoo.data.streams.folder import Shards, describe, open_splits
from zoo.data.streams.labels import label_role, numbered_labels
from zoo.data.streams.records import Role
from zoo.data.streams.rows import StreamRows
from zoo.preprocessing import image_io
from zoo.preprocessing.image import ImageProcessor
from zoo.utils.errors import DataError

IMAGES = tuple(suffix[1:] for suffix in image_io.SUFFIXES)
IMAGE_COLUMNS = ("image", "img", "pixel_values", "jpg", "png", "file", "file_name", "path")
SAMPLE = 1000  # images that the mean and standard deviation are computed from,
_CHUNK = 50  # so many at a time


class StreamedPixels:
    """The images of rows of shards, decoded where they are indexed.

    Args:
        stream: The rows.
        processor: Resizes and crops the images.
        role: The role of the images.
        channels: Number of channels; 0 is that of the processor.
    """

    def __init__(self, stream: StreamRows, processor: ImageProcessor, role: str = "image", channels: int = 0) -> None:
        self.stream, self.processor, self.role = stream, processor, role
        self.channels = channels or processor.channels

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, items: int | slice | Tensor) -> Tensor:
        """uint8 [C, H, W] of an item, or [n, C, H, W] of several."""
        if isinstance(items, int):
            return self.decoded([items])[0]
        rows = torch.arange(len(self))[items] if isinstance(items, slice) else items
        return self.decoded(rows.tolist())

    @property
    def shape(self) -> torch.Size:
        """[N, C, H, W]."""
        return torch.Size((len(self), self.channels, *self.processor.size))

    def decoded(self, items: Sequence[int]) -> Tensor:
        """The images at these positions, uint8 [n, C, H, W]. Raises: DataError that names a broken one."""
        images = torch.empty(len(items), *self.shape[1:], dtype=torch.uint8)
        for number, (item, blob) in enumerate(zip(items, self.stream.read(items, self.role))):
            try:
                images[number] = self._pixels(blob, item)
            except (ValueError, OSError, RuntimeError) as error:
                place, reason = self.stream.place(item), str(error).partition("\n")[0]
                message = reason if reason.startswith(place) else f"{place}: {reason}"
                raise DataError(f"{message}; replace the image, or write the shard without it") from None
        return images

    def _pixels(self, blob: Any, item: int) -> Tensor:
        size = plain_png_size(blob)
        if size is not None and self.processor.keeps(size, 3):
            return decode_image(blob)
        return self.processor.pixels(image_io.read(blob, self.stream.place(item)))

    def take(self, rows: Tensor) -> "StreamedPixels":
        """The images of these rows."""
        return StreamedPixels(self.stream.take(rows), self.processor, self.role, self.channels)


@dataclass
class StreamedImages(ImageDataset):
    """Labeled images of shards: an ImageDataset whose `images` are decoded where they are indexed."""

    @classmethod
    def of(cls, stream: StreamRows, labels: Tensor, classes: list[str], processor: ImageProcessor) -> "StreamedImages":
        """The images of rows with their labels, int64 [n]."""
        pixels: Any = StreamedPixels(stream, processor)
        return cls(pixels, labels, classes)

    @property
    def stream(self) -> StreamRows:
        """The rows of the images."""
        pixels: Any = self.images
        return pixels.stream

    def __getitems__(self, rows: Sequence[int]) -> Any:
        """As of an ImageDataset; `epoch` is int64 [B] for a mixture, the pass through its source of each image."""
        if not isinstance(rows, Keys):
            return [self[i] for i in rows]
        return super().__getitems__(rows) | {"epoch": rows.random_epoch}

    def take(self, rows: Tensor) -> "StreamedImages":
        """The images of these rows."""
        pixels: Any = self.images
        return replace(self, images=pixels.take(rows), labels=self.labels[rows])

    def key_hashes(self) -> Tensor:
        """Those of the keys of the images."""
        return self.stream.hashes

    def stream_order(self, seed: int) -> StreamOrder:
        """The order of training."""
        return self.stream.order(seed)


def load_streamed_images(
    sources: Sequence[Shards], s: DataSettings, processor: ImageProcessor, seed: int
) -> ImageSplits:
    """Splits of images in shards, of which nothing but the index and the labels is read.

    Raises: DataError for damaged files, samples without an image or a label, labels that are no whole numbers, and
        options of data in memory.
    """
    parts = open_splits(sources, s, [Role("image", IMAGES, IMAGE_COLUMNS, s.image), label_role(s.label)])
    classes, labels = numbered_labels(parts, read_names(s.class_names))
    sets = {split: StreamedImages.of(part, labels[split], classes, processor) for split, part in parts.items()}
    sets = with_test(sets, seed, f"{s.name} has a single image: none is left to hold out for testing; add some")
    train = sets["train"]
    some = torch.arange(0, len(train), max(1, len(train) // SAMPLE))[:SAMPLE]
    mean, std = statistics_of_parts(train.images[part] for part in some.split(_CHUNK))
    notes = [f"read piece by piece from {describe(sources)}"]
    name = Path(s.name).expanduser().resolve().name
    return ImageSplits(train, sets["test"], name, True, describe(sources), mean, std,
                       validation=sets.get("validation"), classes=classes, notes=notes)  # fmt: skip
