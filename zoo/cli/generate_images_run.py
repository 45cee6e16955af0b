"""What `zoo generate` does with a model that makes images of a text."""

import argparse
import io
import math
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from zoo.checkpoints.load import load
from zoo.cli.settings import options_of
from zoo.inference.generation.images import GeneratedImages, generate_images, options_for
from zoo.models.base import Model
from zoo.utils.atomic import write_atomic
from zoo.utils.errors import did_you_mean
from zoo.utils.escape import say

DEFAULT_OUT = "images.png"
SMALLEST = 128  # pixels of an image in the sheet; smaller ones are enlarged, each pixel a square
GAP = 4  # pixels between images
GIVEN_BY_FLAGS = {"images": "--image FILE", "rerank": "--rerank FOLDER"}
OF_PYTHON = ("model", "texts", "image_tokenizer", "options")


def generate_sheet(model: Model, text: str, args: argparse.Namespace, words: Sequence[str]) -> int:
    """Write the images for a text to one PNG; returns the exit status. words: options in the form key=value."""
    out = Path(args.out or DEFAULT_OUT)
    check_out(out, args.image, args.overwrite)
    if args.audio or len(args.image) > 1:
        given = "--audio" if args.audio else f"{len(args.image)} times --image"
        raise ValueError(f"{given}: a {type(model).__name__} makes images of a text, and completes one --image with "
                         f"keep=ROWS")  # fmt: skip
    options = options_of(words)
    check_names(model, options)
    if bool(args.image) != ("keep" in options):
        raise ValueError("--image FILE and keep= belong together: the image to complete, and how many rows of its "
                         "tokens stay")  # fmt: skip
    rerank = None if args.rerank is None else load(args.rerank)
    image = Path(args.image[0]) if args.image else None
    made = generate_images(model, [text], images=image, rerank=rerank, **options)
    write_atomic(out, png(sheet(made), text))
    count, size = made.tokens.shape[1], made.images[0][0].size
    images = "1 image" if count == 1 else f"{count} images"
    best = "" if count == 1 else ", the best first, row by row"
    say(f"{out}: {images} of {size[0]} x {size[1]} pixels{best}")
    return 0


def check_out(out: Path, images: Sequence[str], overwrite: bool) -> None:
    """Raise ValueError unless a sheet can be written to `out`; images: the files of the input."""
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: expected the name of a .png file")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder: expected the name of a file to write")
    if out.exists() and any(Path(image).exists() and out.samefile(image) for image in images):
        raise ValueError(f"--out {out} is an input: give another name")
    if out.exists() and not overwrite:
        raise ValueError(f"--out {out} exists: replace it with --overwrite, or give another name")


def check_names(model: Model, options: dict[str, Any]) -> None:
    """Raise ValueError for an option that is not one of images, or not one of the model."""
    known = [name for name in signature(generate_images).parameters if name not in OF_PYTHON]
    known = [*(name for name in known if name not in GIVEN_BY_FLAGS), *options_for(model)]
    for name in options:
        if name in GIVEN_BY_FLAGS:
            raise ValueError(f"{name}= is given by {GIVEN_BY_FLAGS[name]}")
        if name not in known:
            raise ValueError(f"{type(model).__name__} has no option {name!r} for images{did_you_mean(name, known)} "
                             f"(options: {', '.join(known)})")  # fmt: skip


def sheet(made: GeneratedImages) -> Any:
    """A PIL image of the images of one text, in about as many rows as columns, small ones enlarged."""
    from PIL import Image

    images = made.images[0]
    factor = max(1, SMALLEST // min(images[0].size))
    width, height = (edge * factor for edge in images[0].size)
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    size = (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    whole = Image.new(images[0].mode, size, "white")
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        enlarged = image.resize((width, height), Image.Resampling.NEAREST)
        whole.paste(enlarged, (column * (width + GAP), row * (height + GAP)))
    return whole


def png(image: Any, text: str) -> bytes:
    """The bytes of a PNG file, with the text as its description."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("Description", text)
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=info)
    return file.getvalue()
