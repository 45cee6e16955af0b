"""What ends a text: end tokens and stop texts; and who is told of new tokens."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# A stop text is looked for in the last so many tokens more than it has characters: some tokens show nothing.
SLACK = 8


class StoppingCriteria:
    """Which rows are over: those whose last token is one of `ids`, or whose new text holds one of `stop`."""

    def __init__(
        self, ids: tuple[int, ...], stop: tuple[str, ...], decode: Callable[[list[int]], str] | None, device: Any
    ) -> None:
        if "" in stop:
            raise ValueError("stop holds an empty text, which would end everything at once")
        self.ids = torch.tensor(ids, dtype=torch.long, device=device)
        self.stop, self.decode = stop, decode
        self.count = len(ids)

    def __bool__(self) -> bool:
        return bool(self.count or self.stop)

    def __call__(self, tokens: Tensor) -> Tensor:
        """New tokens so far [B, T] -> bool [B]."""
        last = tokens[:, -1]
        over = torch.zeros_like(last, dtype=torch.bool)
        if self.count:
            over = last == self.ids if self.count == 1 else torch.isin(last, self.ids)
        if self.stop:
            said = [self.stopped(row) for row in tokens[:, -self.window() :].tolist()]
            over = over | torch.tensor(said, device=over.device)
        return over

    def stopped(self, row: list[int]) -> bool:
        assert self.decode is not None
        text = self.decode(row)
        return any(end in text for end in self.stop)

    def window(self) -> int:
        return max(map(len, self.stop)) + SLACK


class StreamerAdapter:
    """Hands new tokens to a streamer: a callable, or an object with put (given the prompt first) and end."""

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
    """What turns texts into ids and back: the tokenizer given, else the one that was saved with the model."""
    found = model.preprocess if tokenizer is None else tokenizer
    if not (hasattr(found, "encode") and hasattr(found, "decode")):
        raise ValueError(
            "a tokenizer is needed, and the model came without one: give tokenizer= (tokenizers.Tokenizer)"
        )
    return found


def decoder_of(model: Any, tokenizer: Any = None) -> Callable[[list[int]], str]:
    """Ids -> text."""
    return tokenizer_of(model, tokenizer).decode


def encoded(tokenizer: Any, text: str) -> list[int]:
    """Text -> ids, of a tokenizers.Tokenizer or one of transformers."""
    ids = tokenizer.encode(text)
    return list(getattr(ids, "ids", ids))
