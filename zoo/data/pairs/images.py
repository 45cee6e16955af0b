"""Decoding of the images of pairs, resized as by the model's preprocess."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.image.decode import decode, identity
from zoo.data.pairs.dataset import PairDataset
from zoo.data.pairs.tables import Rows


@dataclass(frozen=True)
class ResizeAndCrop:
    """Resize and crop of an ImageProcessor, without its normalization."""

    preprocess: Any

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 [3, h, w] -> uint8 [3, H, W]."""
        if self.preprocess.channels == 1:
            from torchvision.transforms.v2.functional import rgb_to_grayscale

            image = rgb_to_grayscale(image, 3)
        return self.preprocess._crop(self.preprocess._resize(image))


def decode_images(rows: Rows, size: tuple[int, int], fit: Callable[[Tensor], Tensor] | None,
                skipped: list[str]) -> PairDataset[Tensor]:  # fmt: skip
    """Decode the images of rows; messages of unreadable images are appended to `skipped`."""
    if not len(rows):
        return PairDataset(torch.empty(0, 3, *size, dtype=torch.uint8), [])
    files = [blob for blob in rows.blobs if isinstance(blob, Path)]
    cache_key = identity(files) if len(files) == len(rows) else ""
    decoded = decode(rows.blobs, rows.places.__getitem__, size=size, resize=fit or True, on_error="skip",
                     cache_key=cache_key)  # fmt: skip
    skipped += decoded.broken
    return PairDataset(decoded.images, [rows.captions[i] for i in decoded.kept.tolist()])
