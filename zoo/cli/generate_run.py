"""What `zoo generate` does."""

import argparse

from zoo.checkpoints.load import load
from zoo.cli.generate_images_run import generate_sheet
from zoo.cli.settings import is_option, options_of
from zoo.inference.generation.streaming import stream_text
from zoo.models.text_to_image import TextToImageModel


def generate_command(args: argparse.Namespace) -> int:
    """Print what the model writes, or write the images that it makes; returns the exit status."""
    files = {name: found for name, found in (("images", args.image), ("audio", args.audio)) if found}
    prompt, words = args.prompt, args.options
    if files and prompt is not None and is_option(prompt):  # without a prompt, options take its place
        prompt, words = None, [prompt, *words]
    if prompt is None and not files:
        raise ValueError("the text to continue is missing: zoo generate FOLDER TEXT, or --image FILE to describe one")
    model = load(args.source)
    if isinstance(model, TextToImageModel):
        if prompt is None:
            raise ValueError('the text of the images is missing: zoo generate FOLDER "a red circle"')
        return generate_sheet(model, prompt, args, words)
    for flag in ("out", "rerank", "overwrite"):
        if getattr(args, flag):
            raise ValueError(f"--{flag} is for models that make images (dalle, maskgit), and {args.source} is a "
                             f"{type(model).__name__}, which writes a text: omit it")  # fmt: skip
    stream_text(model, prompt, **options_of(words), **files)
    print()
    return 0
