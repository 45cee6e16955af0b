"""Decoding of the images of pairs, resized as by the model's preprocess."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.data.image.decode import decode
from zoo.data.pairs.dataset import PairDataset
from zoo.data.pairs.tables import Rows
from zoo.preprocessing.image import ImageProcessor
from zoo.utils.console import announce

if TYPE_CHECKING:
    from PIL.Image import Image

Fit = Callable[["Image | Tensor"], Tensor]


@dataclass(frozen=True)
class ResizeAndCrop:
    """Resize and crop of an ImageProcessor, without its normalization."""

    preprocess: ImageProcessor

    def __call__(self, image: "Image | Tensor") -> Tensor:
        """A PIL image or uint8 [3, h, w] -> uint8 [3, H, W], gray in all channels for a model of one channel."""
        return self.preprocess.pixels(image).expand(3, -1, -1)


def decode_images(
    rows: Rows, skipped: list[str], *, size: tuple[int, int], fit: Fit | None = None, cache: bool = True
) -> PairDataset[Tensor]:
    """Decode the images of rows; messages of unreadable images are appended to `skipped`."""
    if not len(rows):
        return PairDataset(torch.empty(0, 3, *size, dtype=torch.uint8), [])
    fit = fit or ResizeAndCrop(ImageProcessor(size=size))
    decoded = decode(rows.blobs, rows.places.__getitem__, size=size, resize=fit, on_error="collect", cache=cache)
    skipped += decoded.broken
    if decoded.note:
        announce(f"{len(rows):,} pairs: {decoded.note}")
    return PairDataset(decoded.images, [rows.captions[i] for i in decoded.kept.tolist()])
