"""Stopping criteria (end tokens and stop texts), streamers, and tokenizers for generation."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.text import TextProcessor

# A stop text of n bytes is searched in the last n + SLACK tokens, because some tokens decode to no text.
SLACK = 8
# Tokens before a text that are decoded with it: alone, its first token loses its space or a part of its character.
CONTEXT = 4
Decode = Callable[[list[int]], str]


class StoppingCriteria:
    """Rows are finished when their last token is one of `ids`, or their new text contains one of `stop`.

    decode: the function that decodes ids, special tokens included. contexts: the last tokens of each prompt.
    """

    def __init__(
        self,
        ids: tuple[int, ...],
        stop: tuple[str, ...],
        decode: Decode | None,
        device: Any,
        contexts: Sequence[list[int]] = (),
    ) -> None:
        if "" in stop:
            raise ValueError("stop contains an empty text, which would end every row at once: remove it")
        self.ids = torch.tensor(ids, dtype=torch.long, device=device)
        self.stop, self.decode, self.contexts = stop, decode, contexts
        self.end_ids, self.count = ids, len(ids)

    def __bool__(self) -> bool:
        return bool(self.count or self.stop)

    def __call__(self, tokens: Tensor, prompt: int | None = None) -> Tensor:
        """New tokens so far [B, T] -> whether each row is finished, bool [B].

        prompt: the index of the prompt that all rows continue; by default each prompt has equally many rows, in order.
        """
        last = tokens[:, -1]
        finished = torch.zeros_like(last, dtype=torch.bool)
        if self.count:
            finished = last == self.ids if self.count == 1 else torch.isin(last, self.ids)
        if self.stop:
            rows = tokens[:, -self.window() - CONTEXT :].tolist()
            prompts = [i * len(self.contexts) // len(rows) if prompt is None else prompt for i in range(len(rows))]
            stopped = [self.contains_stop_text(row, self.contexts[i]) for row, i in zip(rows, prompts)]
            finished = finished | torch.tensor(stopped, device=finished.device)
        return finished

    def contains_stop_text(self, row: list[int], context: list[int]) -> bool:
        """row: the last new tokens. context: the last tokens of the prompt, used if there are no earlier new ones."""
        assert self.decode is not None
        if len(row) > self.window():
            context, row = row[: -self.window()], row[-self.window() :]
        text = text_after(self.decode, context, row)
        return any(end in text for end in self.stop)

    def window(self) -> int:
        """The number of last tokens to search for stop texts."""
        return max(len(text.encode()) for text in self.stop) + SLACK


def text_after(decode: Decode, context: list[int], ids: list[int]) -> str:
    """The text that `ids` add to the text of `context`."""
    return continuation(decode(context) if context else "", decode([*context, *ids]))


def continuation(before: str, text: str) -> str:
    """What a text has after its common beginning with the text `before`."""
    if text.startswith(before):
        return text[len(before) :]
    return text[next((i for i, pair in enumerate(zip(before, text)) if pair[0] != pair[1]), len(text)) :]


class StreamerAdapter:
    """Passes new tokens to a streamer: a callable, or an object with put (called with the prompt first) and end.

    has_tokens: whether it has new tokens. is_busy: whether it is called now, or raised an error.
    """

    def __init__(self, streamer: Any, prompt: Tensor) -> None:
        self.streamer = streamer
        self.object = hasattr(streamer, "put")
        if streamer is not None and not self.object and not callable(streamer):
            raise ValueError(f"streamer={streamer!r}: expected a callable, or an object with put and end")
        # Other streamers may change the model between two tokens, such as by opening a `zoo.capture`.
        self.has_tokens = self.is_busy = False
        self.is_passive = streamer is None or getattr(streamer, "is_passive", False)
        if self.object:
            streamer.put(prompt.cpu())

    def put(self, token: Tensor) -> None:
        """token: [B]."""
        if self.streamer is not None:
            self.has_tokens = self.is_busy = True
            (self.streamer.put if self.object else self.streamer)(token.cpu())
            self.is_busy = False

    def end(self) -> None:
        if self.object:
            self.streamer.end()


def tokenizer_of(model: Any, tokenizer: Any = None) -> Any:
    """The given tokenizer, or the one saved with the model."""
    found = model.preprocess if tokenizer is None else tokenizer
    found = found.text if isinstance(found, MultimodalProcessor) else found
    if not (hasattr(found, "encode") and hasattr(found, "decode")):
        raise ValueError("the model has no tokenizer: pass tokenizer=, a tokenizers.Tokenizer or one of transformers")
    return found


def decoder_of(model: Any, tokenizer: Any = None, *, skip_special: bool = True) -> Decode:
    """The function that decodes ids to text, without special tokens or with them."""
    found = tokenizer_of(model, tokenizer)
    if isinstance(found, TextProcessor):
        return partial(found.decode, skip_special=skip_special)
    try:
        takes = "skip_special_tokens" in inspect.signature(found.decode).parameters
    except ValueError:  # functions of extension modules may have no signature
        takes = False
    decode: Decode = partial(found.decode, skip_special_tokens=skip_special) if takes else found.decode
    return decode


def encoded(tokenizer: Any, text: str) -> list[int]:
    """Encode a text to ids with a tokenizers.Tokenizer or one of transformers."""
    ids = tokenizer.encode(text)
    return list(getattr(ids, "ids", ids))
