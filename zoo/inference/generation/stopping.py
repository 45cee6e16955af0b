"""Stopping criteria (end tokens and stop texts), streamers, and tokenizers for generation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# A stop text of n characters is searched in the last n + SLACK tokens, because some tokens decode to no text.
SLACK = 8


class StoppingCriteria:
    """Rows are finished when their last token is one of `ids`, or their new text contains one of `stop`."""

    def __init__(
        self, ids: tuple[int, ...], stop: tuple[str, ...], decode: Callable[[list[int]], str] | None, device: Any
    ) -> None:
        if "" in stop:
            raise ValueError("stop contains an empty text, which would end every row at once: remove it")
        self.ids = torch.tensor(ids, dtype=torch.long, device=device)
        self.stop, self.decode = stop, decode
        self.count = len(ids)

    def __bool__(self) -> bool:
        return bool(self.count or self.stop)

    def __call__(self, tokens: Tensor) -> Tensor:
        """New tokens so far [B, T] -> whether each row is finished, bool [B]."""
        last = tokens[:, -1]
        finished = torch.zeros_like(last, dtype=torch.bool)
        if self.count:
            finished = last == self.ids if self.count == 1 else torch.isin(last, self.ids)
        if self.stop:
            stopped = [self.contains_stop_text(row) for row in tokens[:, -self.window() :].tolist()]
            finished = finished | torch.tensor(stopped, device=finished.device)
        return finished

    def contains_stop_text(self, row: list[int]) -> bool:
        assert self.decode is not None
        text = self.decode(row)
        return any(end in text for end in self.stop)

    def window(self) -> int:
        """The number of last tokens to search for stop texts."""
        return max(map(len, self.stop)) + SLACK


class StreamerAdapter:
    """Passes new tokens to a streamer: a callable, or an object with put (called with the prompt first) and end."""

    def __init__(self, streamer: Any, prompt: Tensor) -> None:
        self.streamer = streamer
        self.object = hasattr(streamer, "put")
        if streamer is not None and not self.object and not callable(streamer):
            raise ValueError(f"streamer={streamer!r}: expected a callable, or an object with put and end")
        if self.object:
            streamer.put(prompt.cpu())

    def put(self, token: Tensor) -> None:
        """token: [B]."""
        if self.streamer is not None:
            (self.streamer.put if self.object else self.streamer)(token.cpu())

    def end(self) -> None:
        if self.object:
            self.streamer.end()


def tokenizer_of(model: Any, tokenizer: Any = None) -> Any:
    """The given tokenizer, or the one saved with the model."""
    found = model.preprocess if tokenizer is None else tokenizer
    if not (hasattr(found, "encode") and hasattr(found, "decode")):
        raise ValueError("the model has no tokenizer: pass tokenizer=, a tokenizers.Tokenizer or one of transformers")
    return found


def decoder_of(model: Any, tokenizer: Any = None) -> Callable[[list[int]], str]:
    """The function that decodes ids to text."""
    return tokenizer_of(model, tokenizer).decode


def encoded(tokenizer: Any, text: str) -> list[int]:
    """Encode a text to ids with a tokenizers.Tokenizer or one of transformers."""
    ids = tokenizer.encode(text)
    return list(getattr(ids, "ids", ids))
