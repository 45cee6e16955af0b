"""Print text to the terminal while it is generated."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoints.load import load
from zoo.inference.generation.caption_prompts import ends_of, reads_images
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
from zoo.models.bridge.model import Bridge
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.preprocessing.modality import MODALITIES
from zoo.utils.errors import did_you_mean
from zoo.utils.escape import printable

NOT_STREAMED = ("streamer", "output_scores", "num_return_sequences", "num_beams")  # options of zoo.generate
READ = tuple(record.argument for record in MODALITIES.values() if record.name != "text")


class Printer:
    """A streamer that writes the text of one row; characters that span several tokens are written when complete.

    context: the last tokens of the prompt. begin: what is written before the first token, such as the prompt, and not
    at all if generating ends with an error before it.
    """

    is_passive = True  # only reads the tokens, so a GPU may replay its graphs between them

    def __init__(self, decode: Decode, write: Callable[[str], Any], context: list[int], begin: str = "") -> None:
        self.decode, self.write, self.context, self.begin = decode, write, context, begin
        self.ids: list[int] = []
        self.shown = ""

    def __call__(self, token: Tensor) -> None:
        self.start()
        self.ids.append(int(token[0]))
        self.show(self.text().rstrip("\ufffd"))

    def end(self) -> None:
        """Write what is left: the mark of a character that stayed incomplete."""
        self.start()
        self.show(self.text())

    def start(self) -> None:
        if self.begin:
            self.write(self.begin)
            self.begin = ""

    def text(self) -> str:
        return text_after(self.decode, self.context, self.ids)

    def show(self, text: str) -> None:
        """Write what a text has after the part that was written."""
        if new := continuation(self.shown, text):
            self.write(new)
            self.shown = text


def stream_text(
    source: Any, prompt: str | None = None, *, write: Callable[[str], Any] | None = None, tokenizer: Any = None,
    **options: Any,
) -> str:  # fmt: skip
    """Continue `prompt`, writing the text as it is generated, by default to the terminal. Returns the whole text.

    Of an encoder-decoder, such as a translation model, it is the text that it writes for `prompt`; of a model that
    reads images or audio (images=, audio=) its answer, or its caption, which may begin with a prompt.
    source: a model, or an argument of zoo.load. options: those of zoo.generate.
    """
    model = source if isinstance(source, Model) else load(source)
    check_options(options, model)
    if isinstance(model, Bridge) or reads_images(model):
        return stream_answer(model, prompt, write or print_text, tokenizer, options)
    if prompt is None:
        raise ValueError(f"the text to continue is missing: a {type(model).__name__} reads texts alone")
    continues = not isinstance(model, EncoderDecoder)
    if isinstance(model, EncoderDecoder):
        tokenizer = model.source_tokenizer(tokenizer, options)
    tokenizer = tokenizer_of(model, tokenizer)
    ids = encoded(tokenizer, prompt)
    if not ids:
        raise ValueError("the prompt is empty: expected at least one word")
    show = write or print_text
    before = (ids[-CONTEXT:], prompt) if continues else ([], "")
    printer = Printer(decoder_of(model, tokenizer), show, *before)
    generate(model, torch.tensor([ids], device=model.device), streamer=printer, tokenizer=tokenizer, **options)
    printer.end()
    return prompt + printer.shown if continues else printer.shown


def stream_answer(
    model: Model, prompt: str | None, write: Callable[[str], Any], tokenizer: Any, options: dict[str, Any]
) -> str:
    """The answer of a model that reads images or audio, or one caption with the prompt that it begins with."""
    images = options.get("images")
    if reads_images(model) and isinstance(images, list | tuple) and len(images) != 1:
        raise ValueError(f"{len(images)} images: one caption is written while it is generated; call zoo.generate")
    begin, context = "", []
    if prompt is not None and not isinstance(model, Bridge):
        ids, ends = encoded(tokenizer_of(model, tokenizer), prompt), ends_of(model)
        begin, context = prompt, [token for token in ids if token not in ends][-CONTEXT:]
    printer = Printer(decoder_of(model, tokenizer), write, context, begin)
    generate(model, text=prompt, streamer=printer, tokenizer=tokenizer, **options)
    printer.end()
    return begin + printer.shown


def check_options(options: dict[str, Any], model: Model) -> None:
    """Raises ValueError for an option that zoo.generate has not, or not when its one continuation is streamed."""
    names = (*argument_names(), *getattr(model, "generation_options", ()), *["images"] * reads_images(model))
    known = [name for name in names if name not in NOT_STREAMED]
    for name in options:
        if name in NOT_STREAMED and not (name == "num_beams" and options[name] == 1):
            raise ValueError(f"{name}= does not apply to one continuation that is written while it is generated: omit "
                             "it, or call zoo.generate")  # fmt: skip
        if name not in known and name in READ:
            raise ValueError(f"{name}= is for models that read {name}; a {type(model).__name__} does not")
        if name not in known:
            raise ValueError(f"zoo.generate has no option {name!r}{did_you_mean(name, known)}")


def print_text(text: str) -> None:
    """Print generated text; on a terminal without control sequences."""
    print(printable(text, keep="\n\t\r") if sys.stdout.isatty() else text, end="", flush=True)
