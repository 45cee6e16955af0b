"""Read image files: the one reader of training, prediction, embedding, search and pages.

Pillow decodes. An image comes out upright, as its EXIF orientation says, and with 8 bits per channel.
"""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

    Source = str | Path | bytes | Image

PLUGINS = {".heic": "pillow-heif", ".heif": "pillow-heif", ".hif": "pillow-heif", ".jxl": "pillow-jxl-plugin"}
"""Packages of the formats that Pillow reads with a plugin, by suffix."""

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".pfm", ".avif", ".avifs", ".ico", ".icns", ".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".apng", ".mpo", ".tga",
    ".qoi", ".dds", ".pcx", ".sgi", ".psd", *PLUGINS,
)  # fmt: skip
"""Suffixes of image files, in lower case."""

_ORIENTATION = 0x0112  # EXIF tag
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags


def read(source: "Source", name: str = "") -> "Image":
    """Decode an image file, or the bytes of one; of several frames, the first. A PIL image is turned upright, too.

    name: of the image in messages; default: its path. Integers of 16 bits, and floats from 0 to 1, are scaled by their
    range.

    Raises: ValueError that names an image which is missing, damaged, of a format that needs a plugin, larger than
        Pillow's limit on decompression bombs, or whose values have no known range.
    """
    from PIL import Image, UnidentifiedImageError

    name = name or (str(source) if isinstance(source, str | Path) else "the image")
    if not isinstance(source, bytes | str | Path | Image.Image):
        raise ValueError(f"{name} contains no bytes" if source is None else f"{name} is a {type(source).__name__}")
    try:
        if isinstance(source, Image.Image):
            return _upright(source, name)
        with _open(source) as image:
            return _upright(image, name)
    except FileNotFoundError:
        raise ValueError(f"there is no image file {name}") from None
    except IsADirectoryError:
        raise ValueError(
            f"{name} is a folder: expected an image file, or a list of them; `zoo predict MODEL {name}` takes a folder"
        ) from None
    except UnidentifiedImageError:  # its own message names a memory address
        reason = "is damaged" if isinstance(source, Image.Image) else _unreadable(source)
        raise ValueError(f"{name} {reason}") from None
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} is too large to be decoded safely: {str(error).partition(',')[0]}. Make it smaller, or raise the "
            "limit, PIL.Image.MAX_IMAGE_PIXELS, if you trust it"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises errors of many kinds for damaged files, SyntaxError among them
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise (
            error if str(error).startswith(name) else ValueError(f"{name} is not a readable image file: {reason}")
        ) from None


def check_pixels(height: int, width: int, what: str) -> None:
    """Raise ValueError if an image of this size is larger than Pillow's limit on decompression bombs."""
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and height * width > (limit := 2 * Image.MAX_IMAGE_PIXELS):
        raise ValueError(
            f"{what} would have {height:,} x {width:,} pixels, more than the limit of {limit:,}. Crop the image, or "
            "raise the limit, PIL.Image.MAX_IMAGE_PIXELS"
        )


def uint8_tensor(image: Any) -> Tensor:
    """uint8 [C, H, W] from a numpy array [H, W] or [H, W, C], or a tensor [H, W] or [C, H, W]."""
    import numpy

    if isinstance(image, numpy.ndarray):
        tensor = torch.from_numpy(numpy.ascontiguousarray(image))
        tensor = tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor
    elif isinstance(image, Tensor):
        tensor = image
    else:
        raise ValueError(f"expected a PIL image, a path, a numpy array or a tensor, given {type(image).__name__}")
    tensor = tensor[None] if tensor.ndim == 2 else tensor
    if tensor.dtype != torch.uint8 or tensor.ndim != 3:
        raise ValueError(
            f"expected uint8 pixels [C, H, W] of one image, given {tensor.dtype} of shape {list(tensor.shape)}; pass "
            f"pixels that are already normalized directly to the model: model(pixel_values=x)"
        )
    return tensor


def _open(source: "str | Path | bytes") -> "Image":
    """Open a file, with the plugin for its format if that is installed."""
    from PIL import Image, UnidentifiedImageError

    for last in (False, True):
        try:
            return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        except UnidentifiedImageError:
            if last or not _register_plugin(_format(source)):
                raise
    raise AssertionError


def _register_plugin(suffix: str) -> bool:
    """Let Pillow read a format by its plugin. Returns whether there is one, and it is installed."""
    if suffix not in PLUGINS:
        return False
    try:
        if suffix == ".jxl":
            import pillow_jxl  # noqa: F401  (registers itself)
        else:
            import pillow_heif

            pillow_heif.register_heif_opener()
    except ImportError:
        return False
    return True


def _format(source: "str | Path | bytes") -> str:
    """The suffix that fits the first bytes of a file: photos of phones are often named .jpg and are HEIC."""
    if isinstance(source, bytes):
        head, suffix = source[:12], ""
    else:
        suffix = Path(source).suffix.lower()
        with Path(source).open("rb") as file:
            head = file.read(12)
    if not head:
        return "empty"
    if head[4:8] == b"ftyp":
        return ".avif" if head[8:12] in (b"avif", b"avis") else ".heic"
    return ".jxl" if head[:2] == b"\xff\x0a" or head[4:8] == b"JXL " else suffix


def _unreadable(source: "str | Path | bytes") -> str:
    """What a file is that Pillow does not read, and how to fix that."""
    suffix = _format(source)
    if suffix == "empty":
        return "is an empty file"
    if suffix in PLUGINS:
        return f"is not a readable image file: Pillow reads {suffix} files with a plugin: pip install {PLUGINS[suffix]}"
    if suffix in (".avif", ".jp2", ".webp"):
        return f"is not a readable image file. If this Pillow reads no {suffix} files: pip install --upgrade pillow"
    return "is not a readable image file"


def _upright(image: "Image", name: str) -> "Image":
    """The decoded image, turned as its EXIF orientation says, with 8 bits per channel."""
    import numpy
    from PIL import ImageOps

    image.load()
    tags: Any = getattr(image, "tag_v2", {})
    bits, inverted = tags.get(_BITS_PER_SAMPLE, (16,))[0], tags.get(_PHOTOMETRIC) == 0
    kind = (image.mode, image.format)
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
    except Exception as error:  # damaged metadata of a file whose pixels can be read
        warnings.warn(f"{name} has damaged EXIF data, its orientation is not known: {error}", stacklevel=2)
        turned = False
    upright = ImageOps.exif_transpose(image) if turned else image
    if kind[0].startswith("I;16") or kind in (("I", "PNG"), ("I", "PPM")):  # Pillow scales PPM files to 16 bits
        return _scaled(upright, 2 ** min(bits, 16) - 1, inverted)
    if kind[0] == "F":
        low, high = cast(tuple[float, float], upright.getextrema())
        if not (numpy.isfinite(numpy.asarray(upright)).all() and low >= 0 and high <= 1):
            raise ValueError(f"{name} has float values from {low} to {high}: expected finite ones from 0 to 1 (white)")
        return _scaled(upright, 1, inverted)
    if kind[0] == "I":
        raise ValueError(
            f"{name} has 32-bit integers, whose values for black and white are not known: save it with 8 or 16 bits"
        )
    return upright


def _scaled(image: "Image", top: int, inverted: bool) -> "Image":
    """Gray values from 0 to `top` as 8 bits. inverted: 0 is white (a TIFF's photometric interpretation)."""
    import numpy
    from PIL import Image

    values = numpy.asarray(image).astype(numpy.float32) * (255 / top)
    return Image.fromarray((255 - values if inverted else values).round().astype(numpy.uint8))
