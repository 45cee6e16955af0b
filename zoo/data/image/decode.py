"""Decode encoded images into one uint8 tensor, in threads, with a cache for slow datasets."""

import hashlib
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.data.sources.decode_all import decode_all
from zoo.data.sources.fingerprint import note_files
from zoo.preprocessing import image_io
from zoo.utils.errors import DataError
from zoo.utils.files import write_atomic

if TYPE_CHECKING:
    from PIL.Image import Image

Blob = bytes | Path
_PNG, _RGB_OF_8_BITS = b"\x89PNG\r\n\x1a\n", b"\x08\x02"  # bit depth and color type of the header
SLOW = 3.0  # seconds of decoding above which the result is cached
_VERSION = 2  # of the reader: increase it when it gives other pixels


@dataclass
class Decoded:
    """Decoded images.

    Attributes:
        images: uint8 [n, C, H, W].
        kept: Source index of each image, int64 [n].
        broken: "where: why" of all other sources.
    """

    images: Tensor
    kept: Tensor
    broken: list[str] = field(default_factory=list)


def decode(
    blobs: Sequence[Blob],
    where: Callable[[int], str],
    *,
    size: tuple[int, int],
    channels: int = 3,
    resize: "Callable[[Image], Tensor] | None" = None,
    on_error: str = "raise",
    cache_key: str = "",
) -> Decoded:
    """Decode images to one size, (height, width).

    Args:
        blobs: Encoded images (JPEG, PNG, WebP, or any other format of PIL), as bytes or as files.
        where: Returns the name of the i-th image for messages.
        channels: Number of channels of the result.
        resize: Converts a PIL image to uint8 [channels, *size], as `ImageProcessor.pixels` does. If None, images of
            other sizes are errors.
        on_error: `raise` raises at the first broken image, `skip` skips and lists it.
        cache_key: Text that identifies the blobs; if given, the result of a slow decoding is cached on disk.

    Raises:
        DataError: A broken image with `raise`, or no readable image with `skip`.
    """
    note_files(blobs)
    shape = (len(blobs), channels, *size)
    file = _cache_file(f"{cache_key}/{size}/{resize}/{len(blobs)}") if cache_key else None
    if file is not None and (stored := _read_cache(file, shape)) is not None:
        return Decoded(stored, torch.arange(len(blobs)))
    started = time.perf_counter()
    decoded = _decode(blobs, where, shape, resize, on_error)
    if file is not None and not decoded.broken and time.perf_counter() - started > SLOW:
        _write_cache(file, decoded.images)
    return decoded


def _decode(
    blobs: Sequence[Blob],
    where: Callable[[int], str],
    shape: tuple[int, ...],
    resize: "Callable[[Image], Tensor] | None",
    on_error: str,
) -> Decoded:
    _check_memory(shape)
    images = torch.empty(shape, dtype=torch.uint8)

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

    broken = decode_all(len(blobs), decode_one, "image", on_error)
    kept = torch.tensor([i for i in range(len(blobs)) if i not in broken])
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
    if _is_plain_png(data):
        from torchvision.io import ImageReadMode, decode_png

        height, width = int.from_bytes(data[20:24]), int.from_bytes(data[16:20])
        image_io.check_pixels(height, width, name or "the image")
        try:  # PNG is lossless: the pixels of Pillow, in a fifth of its time
            return decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        except RuntimeError:
            pass  # Pillow has clearer messages
    return torch.from_numpy(np.array(image_io.read(data, name).convert("RGB"))).permute(2, 0, 1)


def _is_plain_png(data: bytes) -> bool:
    """Whether it is a PNG with three channels of 8 bits and without metadata, which may hold an orientation."""
    if data is None or not data.startswith(_PNG) or data[24:26] != _RGB_OF_8_BITS:
        return False
    return not any(chunk in data for chunk in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"))


# --- The cache ----------------------------------------------------------------------------------------------------


def identity(files: Sequence[Path]) -> str:
    """Fingerprint of files that changes when one is added, removed, replaced or touched."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        stat = file.stat()
        digest.update(f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _cache_file(key: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.blake2b(f"{_VERSION}/{key}".encode(), digest_size=16).hexdigest()
    return Path(home) / "attention-zoo" / "images" / f"{name}.safetensors"


def _read_cache(file: Path, shape: tuple[int, ...]) -> Tensor | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        images = load_file(file)["images"]
    except (OSError, SafetensorError, KeyError):
        return None  # absent or damaged: decode again
    return images if tuple(images.shape) == shape and images.dtype == torch.uint8 else None


def _write_cache(file: Path, images: Tensor) -> None:
    import warnings

    from safetensors.torch import save_file

    try:
        write_atomic(file, lambda path: save_file({"images": images}, path))
    except OSError as error:
        warnings.warn(f"decoded images could not be cached in {file.parent}: {error}", stacklevel=2)
