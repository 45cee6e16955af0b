"""Print text to the terminal while it is generated."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoints.load import load
from zoo.inference.generation.generate import argument_names, generate
from zoo.inference.generation.stopping import (
    CONTEXT,
    Decode,
    continuation,
    decoder_of,
    encoded,
    text_after,
    tokenizer_of,
)
from zoo.models.base import Model
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.utils.errors import did_you_mean
from zoo.utils.escape import printable

NOT_STREAMED = ("streamer", "output_scores", "num_return_sequences", "num_beams")  # options of zoo.generate


class Printer:
    """A streamer that writes the text of one row; characters that span several tokens are written when complete.

    context: the last tokens of the prompt.
    """

    is_passive = True  # only reads the tokens, so a GPU may replay its graphs between them

    def __init__(self, decode: Decode, write: Callable[[str], Any], context: list[int]) -> None:
        self.decode, self.write, self.context = decode, write, context
        self.ids: list[int] = []
        self.shown = ""

    def __call__(self, token: Tensor) -> None:
        self.ids.append(int(token[0]))
        self.show(self.text().rstrip("\ufffd"))

    def end(self) -> None:
        """Write what is left: the mark of a character that stayed incomplete."""
        self.show(self.text())

    def text(self) -> str:
        return text_after(self.decode, self.context, self.ids)

    def show(self, text: str) -> None:
        """Write what a text has after the part that was written."""
        if new := continuation(self.shown, text):
            self.write(new)
            self.shown = text


def stream_text(
    source: Any, prompt: str, *, write: Callable[[str], Any] | None = None, tokenizer: Any = None, **options: Any
) -> str:
    """Continue `prompt`, writing the text as it is generated, by default to the terminal. Returns the whole text.

    Of an encoder-decoder, such as a translation model, it is the text that it writes for `prompt`.
    source: a model, or an argument of zoo.load. options: those of zoo.generate.
    """
    model = source if isinstance(source, Model) else load(source)
    check_options(options, model)
    continues = not isinstance(model, EncoderDecoder)
    if isinstance(model, EncoderDecoder):
        tokenizer = model.source_tokenizer(tokenizer, options)
    tokenizer = tokenizer_of(model, tokenizer)
    ids = encoded(tokenizer, prompt)
    if not ids:
        raise ValueError("the prompt is empty: expected at least one word")
    show = write or print_text
    if continues:
        show(prompt)
    printer = Printer(decoder_of(model, tokenizer), show, ids[-CONTEXT:] if continues else [])
    generate(model, torch.tensor([ids], device=model.device), streamer=printer, tokenizer=tokenizer, **options)
    printer.end()
    return prompt + printer.shown if continues else printer.shown


def check_options(options: dict[str, Any], model: Model) -> None:
    """Raises ValueError for an option that zoo.generate has not, or not when its one continuation is streamed."""
    names = (*argument_names(), *getattr(model, "generation_options", ()))
    known = [name for name in names if name not in NOT_STREAMED]
    for name in options:
        if name in NOT_STREAMED and not (name == "num_beams" and options[name] == 1):
            raise ValueError(f"{name}= does not apply to one continuation that is written while it is generated: omit "
                             "it, or call zoo.generate")  # fmt: skip
        if name not in known:
            raise ValueError(f"zoo.generate has no option {name!r}{did_you_mean(name, known)}")


def print_text(text: str) -> None:
    """Print generated text; on a terminal without control sequences."""
    print(printable(text, keep="\n\t\r") if sys.stdout.isatty() else text, end="", flush=True)
