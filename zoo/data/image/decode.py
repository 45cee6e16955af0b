"""Decode encoded images into one uint8 tensor, in threads or processes, with a cache for slow datasets."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.data.image.decoded_cache import cache_file, read_decoded, write_decoded
from zoo.data.sources.decode_all import decode_all, shared_buffer
from zoo.data.sources.fingerprint import note_files
from zoo.preprocessing import image_io
from zoo.utils.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Blob = bytes | Path
_PNG, _RGB_OF_8_BITS = b"\x89PNG\r\n\x1a\n", b"\x08\x02"  # bit depth and color type of the header
SLOW = 0.5  # seconds of decoding above which the result is cached


@dataclass
class Decoded:
    """Decoded images.

    Attributes:
        images: uint8 [n, C, H, W].
        kept: Source index of each image, int64 [n].
        broken: "where: why" of all other sources.
        note: What the user should know about the cache, if it is in use.
    """

    images: Tensor
    kept: Tensor
    broken: list[str] = field(default_factory=list)
    note: str = ""


def decode(
    blobs: Sequence[Blob],
    where: Callable[[int], str],
    *,
    size: tuple[int, int],
    channels: int = 3,
    resize: "Callable[[Image], Tensor] | None" = None,
    on_error: str = "raise",
    cache: bool = False,
) -> Decoded:
    """Decode images to one size, (height, width).

    Args:
        blobs: Encoded images (JPEG, PNG, WebP, or any other format of PIL), as bytes or as files.
        where: Returns the name of the i-th image for messages.
        channels: Number of channels of the result.
        resize: Converts a PIL image to uint8 [channels, *size], as `ImageProcessor.pixels` does. If None, images of
            other sizes are errors.
        on_error: `raise` raises at the first broken image, `skip` skips and lists it; `collect` also lists all of them.
        cache: Keep the result of a slow decoding on disk, and read it from there if nothing has changed.

    Raises:
        DataError: A broken image with `raise`, or no readable image with `skip`.
    """
    note_files(blobs)
    shape = (len(blobs), channels, *size)
    file = cache_file(blobs, (shape, resize)) if cache else None
    if file is not None and (stored := read_decoded(file, shape)) is not None:
        return Decoded(stored, torch.arange(len(blobs)), note=_cache_note("are read, decoded before, from", file))
    started = time.perf_counter()
    decoded = _decode(blobs, where, shape, resize, on_error)
    slow = time.perf_counter() - started > SLOW
    if file is not None and slow and not decoded.broken and write_decoded(file, decoded.images):
        decoded.note = _cache_note("are kept, decoded, for the next start in", file)
    return decoded


def _cache_note(what: str, file: Path) -> str:
    return f"the images {what} {file.parent}; cache_decoded=false decodes them at each start"


def _decode(
    blobs: Sequence[Blob],
    where: Callable[[int], str],
    shape: tuple[int, ...],
    resize: "Callable[[Image], Tensor] | None",
    on_error: str,
) -> Decoded:
    _check_memory(shape)
    images = torch.frombuffer(shared_buffer(math.prod(shape)), dtype=torch.uint8)[: math.prod(shape)].view(shape)

    def decode_one(i: int) -> str:
        try:
            image = decode_image(blobs[i], where(i)) if resize is None else resize(image_io.read(blobs[i], where(i)))
            if image.shape != shape[1:]:
                expected = f"{shape[2]} x {shape[3]} pixels"
                raise ValueError(f"is {image.shape[1]} x {image.shape[2]} pixels, expected {expected}")
            images[i] = image
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            return reason if reason.startswith(where(i)) else f"{where(i)}: {reason}"
        return ""

    broken = decode_all(len(blobs), decode_one, "image", on_error, processes=True)
    kept = torch.tensor([i for i in range(len(blobs)) if i not in broken], dtype=torch.int64)
    return Decoded(images if not broken else images[kept], kept, list(broken.values()))


def _check_memory(shape: tuple[int, ...]) -> None:
    """Raise DataError for images [N, C, H, W] that do not fit into memory, before the system kills the process."""
    if not hasattr(os, "sysconf"):  # Windows
        return
    memory, needed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), math.prod(shape)
    if needed > memory:
        raise DataError(f"{shape[0]:,} images of {shape[2]} x {shape[3]} pixels take {needed / 1e9:.1f} GB, but this "
                        f"machine has {memory / 1e9:.1f} GB of memory: use fewer images, or a smaller "
                        f"image_size=")  # fmt: skip


def decode_image(blob: Blob, name: str = "") -> Tensor:
    """Decode one image to uint8 [3, H, W], as `image_io.read` does; broken or truncated files raise ValueError."""
    import numpy as np

    data = blob.read_bytes() if isinstance(blob, Path) else blob
    if (size := plain_png_size(data)) is not None:
        from torchvision.io import ImageReadMode, decode_png

        image_io.check_pixels(*size, name or "the image")
        try:  # PNG is lossless: the pixels of Pillow, in a fifth of its time
            return decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        except RuntimeError:
            pass  # Pillow has clearer messages
    return torch.from_numpy(np.array(image_io.read(data, name).convert("RGB"))).permute(2, 0, 1)


def plain_png_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a PNG with three channels of 8 bits, without transparency or metadata (an orientation).

    None for any other image.
    """
    if data is None or not data.startswith(_PNG) or data[24:26] != _RGB_OF_8_BITS:
        return None
    if any(chunk in data for chunk in (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tRNS")):
        return None
    return int.from_bytes(data[20:24]), int.from_bytes(data[16:20])
