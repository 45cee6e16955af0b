"""Decode encoded images into one uint8 tensor, in threads, with a cache for slow datasets."""

import hashlib
import io
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from zoo.utils.errors import DataError
from zoo.utils.files import write_atomic

Blob = bytes | Path
_CHUNK = 256
SLOW = 3.0  # seconds of decoding above which the result is cached
_VERSION = 1


@dataclass
class Decoded:
    """Decoded images.

    Attributes:
        images: uint8 [n, 3, H, W].
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
    resize: bool | Callable[[Tensor], Tensor] = False,
    on_error: str = "raise",
    cache_key: str = "",
) -> Decoded:
    """Decode images of one size, (height, width).

    Args:
        blobs: Encoded images (JPEG, PNG, WebP, or any other format of PIL), as bytes or as files.
        where: Returns the name of the i-th image for messages.
        resize: True scales and center-crops to `size`; a function does it instead. If False, other sizes are errors.
        on_error: `raise` raises at the first broken image, `skip` skips and lists it.
        cache_key: Text that identifies the blobs; if given, the result of a slow decoding is cached on disk.

    Raises:
        DataError: A broken image with `raise`, or no readable image with `skip`.
    """
    file = _cache_file(f"{cache_key}/{size}/{resize}/{len(blobs)}") if cache_key else None
    if file is not None and (stored := _read_cache(file, (len(blobs), 3, *size))) is not None:
        return Decoded(stored, torch.arange(len(blobs)))
    started = time.perf_counter()
    decoded = _decode(blobs, where, size, resize, on_error)
    if file is not None and not decoded.broken and time.perf_counter() - started > SLOW:
        _write_cache(file, decoded.images)
    return decoded


def _decode(
    blobs: Sequence[Blob],
    where: Callable[[int], str],
    size: tuple[int, int],
    resize: bool | Callable[[Tensor], Tensor],
    on_error: str,
) -> Decoded:
    images = torch.empty(len(blobs), 3, *size, dtype=torch.uint8)
    broken: dict[int, str] = {}

    def decode_chunk(start: int) -> None:
        for i in range(start, min(start + _CHUNK, len(blobs))):
            try:
                image = decode_image(blobs[i])
                images[i] = resize(image) if callable(resize) else _fit(image, size, resize)
            except (OSError, ValueError, RuntimeError, SyntaxError) as error:  # PIL raises SyntaxError for broken PNGs
                broken[i] = f"{where(i)}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
                if on_error == "raise":
                    return

    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)) as pool:
        for _ in pool.map(decode_chunk, range(0, len(blobs), _CHUNK)):
            if broken and on_error == "raise":
                pool.shutdown(cancel_futures=True)
                break
    messages = [broken[i] for i in sorted(broken)]
    if messages and on_error == "raise":
        raise DataError(f"broken image {messages[0]}. Fix or remove it, or pass on_error=skip to skip it")
    if len(messages) == len(blobs):
        raise DataError(f"no image can be read; the first is {messages[0] if messages else 'missing'}")
    kept = torch.tensor([i for i in range(len(blobs)) if i not in broken])
    return Decoded(images if not broken else images[kept], kept, messages)


def decode_image(blob: Blob) -> Tensor:
    """Decode one image to uint8 [3, H, W], with EXIF orientation; broken or truncated files raise."""
    from torchvision.io import ImageReadMode
    from torchvision.io import decode_image as fast

    data = blob.read_bytes() if isinstance(blob, Path) else blob
    if data is None:
        raise ValueError("contains no bytes")
    if data[:2] == b"\xff\xd8" or data[:8] == b"\x89PNG\r\n\x1a\n":
        buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        try:
            image = fast(buffer, ImageReadMode.RGB, apply_exif_orientation=True)
        except RuntimeError:
            return _decode_by_pil(data)  # CMYK and rare formats, and clearer messages for broken files
        if image.dtype == torch.uint8:
            return image
    return _decode_by_pil(data)


def _decode_by_pil(data: bytes) -> Tensor:
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
            return torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    except UnidentifiedImageError:  # its own message names a memory address
        raise ValueError("is not a readable image" if data else "is an empty file") from None


def _fit(image: Tensor, size: tuple[int, int], resize: bool) -> Tensor:
    """Scale the image to cover `size` and center-crop it."""
    if tuple(image.shape[1:]) == size:
        return image
    if not resize:
        raise ValueError(f"is {image.shape[1]} x {image.shape[2]} pixels, expected {size[0]} x {size[1]}")
    from torchvision.transforms.v2 import functional as F

    height, width = image.shape[1:]
    scale = max(size[0] / height, size[1] / width)
    covering = [max(size[0], round(height * scale)), max(size[1], round(width * scale))]
    return F.center_crop(F.resize(image, covering, antialias=True), list(size))


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
