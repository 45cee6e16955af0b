"""A cache of decoded images on disk: only the first start of a training decodes them."""

import hashlib
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import PIL
import torch
from torch import Tensor

from zoo.utils.cache import cache_folder, make_room, note_use, state_of
from zoo.utils.files import write_atomic

LIMIT = 20 * 10**9  # bytes of all decoded datasets; those that were not used for the longest time are removed
_VERSION = 3  # of the reader: increase it when it gives other pixels


def cache_file(sources: Sequence[bytes | Path | None], settings: Any) -> Path | None:
    """The file of these images under these settings, whose name changes with every byte of the sources.

    Encoded bytes count with their content, files with their state. The versions of the libraries that decode count,
    too.

    Args:
        sources: The encoded images, in order.
        settings: What else determines the pixels, by its `repr`.

    Returns: None if the images cannot be identified: a function without a name of its own, or a file that is missing;
    or if this user has no home for a cache.
    """
    described = repr(settings)
    if " at 0x" in described:  # the address of an object says nothing about it
        return None
    versions = PIL.__version__, version("torchvision"), torch.__version__  # torch resizes tensors
    digest = hashlib.sha256(f"{_VERSION}/{versions}/{described}".encode())
    for source in sources:
        if isinstance(source, Path):
            try:
                source = state_of(source)
            except OSError:
                return None
        digest.update(f"{-1 if source is None else len(source)}:".encode())
        digest.update(source or b"")
    try:
        return cache_folder("images") / f"{digest.hexdigest()[:32]}.safetensors"
    except RuntimeError:  # neither HOME nor an entry for the user, as in some containers
        return None


def read_decoded(file: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The images of a cached file, uint8 of this shape; None if there is none, or if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as stored:
            expected, images = (stored.metadata() or {}).get("sha256"), stored.get_tensor("images")
    except (OSError, SafetensorError):
        return None
    if tuple(images.shape) != shape or images.dtype != torch.uint8 or _sha256(images) != expected:
        return None
    note_use(file)
    return images


def write_decoded(file: Path, images: Tensor) -> bool:
    """Store decoded images, uint8 [N, C, H, W]; returns whether they are, after a warning if they are not."""
    from safetensors.torch import save_file

    problem = make_room(file.parent, images.nbytes, LIMIT)
    if not problem:
        metadata = {"sha256": _sha256(images)}
        try:
            write_atomic(file, lambda path: save_file({"images": images}, path, metadata))
        except OSError as error:
            problem = str(error)
    if problem:
        warnings.warn(f"decoded images could not be cached in {file.parent}: {problem}. The next start decodes them "
                      f"again", stacklevel=2)  # fmt: skip
    return not problem


def _sha256(images: Tensor) -> str:
    return hashlib.sha256(images.contiguous().view(-1).numpy().data).hexdigest()
