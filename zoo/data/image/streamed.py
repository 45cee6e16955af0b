"""Labeled images of shards, decoded batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
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
from zoo.data.sources.columns import LABEL_NAMES
from zoo.data.splits import with_test
from zoo.data.stream_order import WINDOW, StreamOrder
from zoo.data.streams.folder import Shards, open_splits
from zoo.data.streams.records import Role, as_class
from zoo.data.streams.rows import StreamRows
from zoo.preprocessing import image_io
from zoo.preprocessing.image import ImageProcessor
from zoo.utils.errors import DataError

IMAGES = tuple(suffix[1:] for suffix in image_io.SUFFIXES)
IMAGE_COLUMNS = ("image", "img", "pixel_values", "jpg", "png", "file", "file_name", "path")
LABEL_COLUMNS = (*LABEL_NAMES, "fine_label", "cls")
SAMPLE = 1000  # images that the mean and standard deviation are computed from,
_CHUNK = 50  # so many at a time


class StreamedPixels:
    """The images of rows of shards, decoded where they are indexed.

    Args:
        stream: The rows.
        processor: Resizes and crops the images.
        role: The role of the images.
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
    """Labeled images of shards: an ImageDataset whose `images` are decoded where they are indexed.

    Attributes:
        stream: The rows of the images.
    """

    stream: StreamRows = field(kw_only=True)

    @classmethod
    def of(cls, stream: StreamRows, labels: Tensor, classes: list[str], processor: ImageProcessor) -> "StreamedImages":
        """The images of rows with their labels, int64 [n]."""
        pixels: Any = StreamedPixels(stream, processor)
        return cls(pixels, labels, classes, stream=stream)

    def __getitems__(self, rows: Sequence[int]) -> Any:
        """As of an ImageDataset; `epoch` is int64 [B] for a mixture, the pass through its source of each image."""
        if not isinstance(rows, Keys):
            return [self[i] for i in rows]
        return super().__getitems__(rows) | {"epoch": rows.random_epoch}

    def take(self, rows: Tensor) -> "StreamedImages":
        """The images of these rows."""
        stream = self.stream.take(rows)
        pixels: Any = self.images
        taken: Any = StreamedPixels(stream, pixels.processor, pixels.role, pixels.channels)
        return replace(self, images=taken, labels=self.labels[rows], stream=stream)

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
    check_options(s)

    def roles(suffix: str) -> list[Role]:
        return [Role("image", IMAGES, IMAGE_COLUMNS, s.image), Role("label", ("cls",), LABEL_COLUMNS, s.label)]

    parts = open_splits(sources, s, roles, s.shuffle_window or WINDOW)
    given = read_names(s.class_names)
    classes, labels = numbered(parts, given)
    sets = {split: StreamedImages.of(part, labels[split], classes, processor) for split, part in parts.items()}
    sets = with_test(sets, seed, f"{s.name} has a single image: none is left to hold out for testing; add some")
    train = sets["train"]
    some = torch.arange(0, len(train), max(1, len(train) // SAMPLE))[:SAMPLE]
    mean, std = statistics_of_parts(train.images[part] for part in some.split(_CHUNK))
    notes = [f"read piece by piece from {describe(sources)}"]
    name = Path(s.name).expanduser().resolve().name
    return ImageSplits(train, sets["test"], name, True, describe(sources), mean, std,
                       validation=sets.get("validation"), classes=classes, notes=notes)  # fmt: skip


def describe(sources: Sequence[Shards]) -> str:
    """The sources in words, for the banner."""
    counts = [sum(map(len, one.files.values())) for one in sources]
    return ", ".join(f"{count} {one.suffix} files in {one.folder}" for count, one in zip(counts, sources))


def check_options(s: Any) -> None:
    """Raise DataError for options that data in shards does not have."""
    wrong = {"group_column=": getattr(s, "group_column", ""), "group_pattern=": getattr(s, "group_pattern", ""),
             "normalize_labels=true": getattr(s, "normalize_labels", False),
             "held_out_speaker=": getattr(s, "held_out_speaker", ""),
             "on_error=skip": getattr(s, "on_error", "") == "skip",
             "on_device=true": getattr(s, "on_device", "") is True}  # fmt: skip
    if given := next((name for name, value in wrong.items() if value), ""):
        raise DataError(f"{given} is for data in memory, but data={s.name} is read piece by piece from shards: omit it")


def numbered(parts: dict[str, StreamRows], given: list[str] | None) -> tuple[list[str], dict[str, Tensor]]:
    """(class names, labels of each split, int64 [n]). Labels are numbers, or in parquet files also texts.

    Raises: DataError for other labels, or a class that is not among the training labels.
    """
    values = {split: part.records.labels("label") for split, part in parts.items()}
    names = given or list(parts["train"].records.names)
    for one in (source for part in parts.values() for source in part.records.sources):
        if not given and names and one.names and list(one.names) != names:
            raise DataError(f"{one.where} has the class names {', '.join(one.names)}, but those to train on are "
                            f"{', '.join(names)}: the numbers of its labels stand for other classes; write it with the "
                            f"same names in the same order, or give them with class_names=")  # fmt: skip
    texts = not names and all(isinstance(value, str) for value in values["train"])
    if texts:
        names = sorted(set(values["train"]))
        number = {name: i for i, name in enumerate(names)}
    found = {}
    for split, part in parts.items():
        if texts:
            for row, value in enumerate(values[split]):
                if value not in number:
                    raise DataError(f"{part.place(row)}: label {value!r} is not among the training labels")
            found[split] = torch.tensor([number[value] for value in values[split]])
        else:
            known = [as_class(value, partial(part.place, row, "label"), names)
                     for row, value in enumerate(values[split])]  # fmt: skip
            found[split] = torch.tensor(known, dtype=torch.int64)
    count = 1 + max(int(labels.max()) for labels in found.values())
    if count < 2 and not names:
        raise DataError("all labels are 0: a classifier needs two classes")
    return names or [str(i) for i in range(count)], found
