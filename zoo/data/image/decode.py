"""Encoded images -> one uint8 tensor, in threads; a broken one is named."""

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
SLOW = 3.0  # seconds; what takes longer to decode is kept for the next run
_VERSION = 1


@dataclass
class Decoded:
    """images uint8 [n, 3, H, W]; kept: which of the given ones they are; broken: "where: why" for all others."""

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
    keep_as: str = "",
) -> Decoded:
    """Decode images of one size, (height, width).

    Args:
        blobs: Encoded images (JPEG, PNG, WebP, and what PIL reads besides), as bytes or as files.
        where: Names the i-th one in messages.
        resize: Scale and center-crop to `size`, or a function that does it; otherwise another size is an error.
        on_error: `raise` raises at the first broken image, `skip` leaves it out and lists it.
        keep_as: Anything that identifies these very blobs; with it, a slow result is kept in the user's cache.

    Raises:
        DataError: A broken image with `stop`, or nothing left with `skip`.
    """
    file = _cache_file(f"{keep_as}/{size}/{resize}/{len(blobs)}") if keep_as else None
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

    def work(start: int) -> None:
        for i in range(start, min(start + _CHUNK, len(blobs))):
            try:
                picture = decode_image(blobs[i])
                images[i] = resize(picture) if callable(resize) else _fit(picture, size, resize)
            except (OSError, ValueError, RuntimeError, SyntaxError) as error:  # PIL raises SyntaxError for broken PNGs
                broken[i] = f"{where(i)}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
                if on_error == "raise":
                    return

    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)) as pool:
        for _ in pool.map(work, range(0, len(blobs), _CHUNK)):
            if broken and on_error == "raise":
                pool.shutdown(cancel_futures=True)
                break
    messages = [broken[i] for i in sorted(broken)]
    if messages and on_error == "raise":
        raise DataError(f"broken image {messages[0]}. Mend or remove it, or pass on_error=skip to go on without it")
    if len(messages) == len(blobs):
        raise DataError(f"no image can be read; the first is {messages[0] if messages else 'missing'}")
    kept = torch.tensor([i for i in range(len(blobs)) if i not in broken])
    return Decoded(images if not broken else images[kept], kept, messages)


def decode_image(blob: Blob) -> Tensor:
    """One image as uint8 [3, H, W], upright. Raises what the decoder raises; a cut-off file is an error, never gray."""
    from torchvision.io import ImageReadMode
    from torchvision.io import decode_image as fast

    data = blob.read_bytes() if isinstance(blob, Path) else blob
    if data is None:
        raise ValueError("holds no bytes")
    if data[:2] == b"\xff\xd8" or data[:8] == b"\x89PNG\r\n\x1a\n":
        buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        try:
            image = fast(buffer, ImageReadMode.RGB, apply_exif_orientation=True)
        except RuntimeError:
            return _decode_by_pil(data)  # CMYK and other rarities, and a plainer reason for what is broken
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
    except UnidentifiedImageError:  # its own words name a place in memory
        raise ValueError("is no picture that can be read" if data else "is an empty file") from None


def _fit(image: Tensor, size: tuple[int, int], resize: bool) -> Tensor:
    """Scale the image so that it covers `size`, and cut the middle out."""
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
    """Text that changes when a file is added, removed, replaced or touched."""
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
        return None  # absent or damaged: decoded anew
    return images if tuple(images.shape) == shape and images.dtype == torch.uint8 else None


def _write_cache(file: Path, images: Tensor) -> None:
    import warnings

    from safetensors.torch import save_file

    try:
        write_atomic(file, lambda path: save_file({"images": images}, path))
    except OSError as error:
        warnings.warn(f"decoded images could not be kept in {file.parent}: {error}", stacklevel=2)
