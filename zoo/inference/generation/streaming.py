"""Print text to the terminal while it is generated."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoints.load import load
from zoo.inference.generation.generate import generate
from zoo.inference.generation.stopping import encoded, tokenizer_of
from zoo.models.base import Model
from zoo.utils.escape import printable


class Printer:
    """A streamer that writes the text of one row; characters that span several tokens are written when complete."""

    def __init__(self, decode: Callable[[list[int]], str], write: Callable[[str], Any]) -> None:
        self.decode, self.write = decode, write
        self.ids: list[int] = []
        self.shown = ""

    def __call__(self, token: Tensor) -> None:
        self.ids.append(int(token[0]))
        text = self.decode(self.ids)
        if not text.endswith("\ufffd"):
            self.write(text[len(self.shown) :])
            self.shown = text


def stream_text(
    source: Any, prompt: str, *, write: Callable[[str], Any] | None = None, tokenizer: Any = None, **options: Any
) -> str:
    """Continue `prompt`, writing the text as it is generated, by default to the terminal. Returns the whole text.

    source: a model, or an argument of zoo.load. options: those of zoo.generate.
    """
    model = source if isinstance(source, Model) else load(source)
    tokenizer = tokenizer_of(model, tokenizer)
    ids = encoded(tokenizer, prompt)
    if not ids:
        raise ValueError("the prompt is empty: expected at least one word")
    show = write or _print
    show(prompt)
    printer = Printer(tokenizer.decode, show)
    generate(model, torch.tensor([ids], device=model.device), streamer=printer, tokenizer=tokenizer, **options)
    return prompt + printer.shown


def _print(text: str) -> None:
    """Print generated text; on a terminal without control sequences."""
    print(printable(text, keep="\n\t\r") if sys.stdout.isatty() else text, end="", flush=True)
