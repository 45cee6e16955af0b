"""A checked prompt, and a model that has read it and decodes on."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.inference.generation.sampling import Sampling, demand
from zoo.inference.generation.stopping import StoppingCriteria, StreamerAdapter
from zoo.models.base import Model
from zoo.nn.kv_cache import StackState


@dataclass(frozen=True)
class Prompt:
    """What a model is to go on from: ids [B, N], and keep [B, N], False for padding (None: there is none).

    copies: continuations wanted of each row; the prompt itself is read once.
    """

    model: Any
    ids: Tensor
    keep: Tensor | None
    room: int
    copies: int = 1

    @classmethod
    def checked(
        cls, model: Model, ids: Tensor, mask: Tensor | None, room: int, target: Model | None = None
    ) -> "Prompt":
        """Raises ValueError, naming what is wrong with the prompt, or with the model for this use."""
        what = "model" if target is None else "draft"
        if getattr(model.config, "head", None) != "lm" or not hasattr(model, "decode"):
            raise ValueError(f"{what}: generation takes a decoder with head='lm', given a {type(model).__name__} with "
                             f"head={getattr(model.config, 'head', None)!r}")  # fmt: skip
        vocabulary = model.config.vocab_size
        if target is not None and target.config.vocab_size != vocabulary:
            raise ValueError(f"the draft has {vocabulary} tokens, the model {target.config.vocab_size}: "
                             "a draft must share the model's tokenizer")  # fmt: skip
        demand(isinstance(room, int) and room > 0, "max_new_tokens", room, "a whole number of at least 1")
        if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(f"expected token ids [B, N] of integers, given {tuple(ids.shape)} of {ids.dtype}")
        if ids.numel() == 0:
            raise ValueError(f"an empty prompt, {tuple(ids.shape)}: begin with at least one token, e.g. that of bos")
        ids = ids.to(model.device).long()
        keep = None if mask is None else checked_mask(mask, ids)
        refuse_unknown(ids, keep, vocabulary)
        check_length(model, int(ids.shape[1] if keep is None else keep.sum(1).max()), room)
        return cls(model, ids if keep is None else ids * keep, keep, room)

    def repeated(self, copies: int) -> "Prompt":
        return Prompt(self.model, self.ids, self.keep, self.room, copies)

    @property
    def rows(self) -> int:
        return len(self.ids) * self.copies

    def read(self) -> tuple["DecodingSession", Tensor]:
        """A reader that has read the prompt, and the scores of what follows: [rows, V]."""
        reader = DecodingSession(self)
        scores = reader.read(self.ids)
        if self.copies > 1:
            index = torch.arange(len(self.ids), device=self.ids.device).repeat_interleave(self.copies)
            reader.reorder(index)
            scores = scores[index]
        return reader, scores

    def seen(self) -> Tensor:
        """[rows, V], True for the tokens of each prompt."""
        vocabulary = self.model.config.vocab_size
        real = torch.ones_like(self.ids) if self.keep is None else self.keep.long()
        counts = self.ids.new_zeros(len(self.ids), vocabulary).scatter_add_(1, self.ids, real)
        return (counts > 0).repeat_interleave(self.copies, 0)


class DecodingSession:
    """A model that reads on: what it remembers, and which of all tokens so far are real."""

    def __init__(self, prompt: Prompt) -> None:
        self.model, batch = prompt.model, len(prompt.ids)
        capacity = prompt.ids.shape[1] + prompt.room
        self.state: StackState = self.model.new_state(batch, capacity)
        self.keep = None
        if prompt.keep is not None:
            self.keep = torch.cat([prompt.keep, prompt.keep.new_ones(batch, prompt.room)], 1)

    def read(self, ids: Tensor, every: bool = False) -> Tensor:
        """Scores behind the last of the ids [B, N], or behind every one: [B, V] or [B, N, V]."""
        keep = None if self.keep is None else self.keep[:, : self.state.length + ids.shape[1]]
        return self.model.decode(ids, self.state, keep, every=every)

    def reorder(self, index: Tensor) -> None:
        """Row i goes on from what row index[i] has read."""
        self.state.reorder(index)
        self.keep = None if self.keep is None else self.keep[index]


@dataclass(frozen=True)
class GenerationTask:
    """A prompt and how to go on from it."""

    prompt: Prompt
    sampling: Sampling
    ends: StoppingCriteria
    fill: int
    draw: torch.Generator | None
    stream: StreamerAdapter


# --- What was given ---------------------------------------------------------------------------------------------------


def checked_mask(mask: Tensor, ids: Tensor) -> Tensor | None:
    """[B, N] of bool, or None where nothing is padding."""
    if mask.shape != ids.shape:
        raise ValueError(f"attention_mask is {tuple(mask.shape)}, the ids are {tuple(ids.shape)}")
    keep = mask.to(ids.device).bool()
    if keep.all():
        return None
    if len(empty := (~keep.any(1)).nonzero()):
        raise ValueError(f"row {int(empty[0])} is padding alone: begin with at least one token, e.g. that of bos")
    return keep


def refuse_unknown(ids: Tensor, keep: Tensor | None, vocabulary: int) -> None:
    odd = (ids < 0) | (ids >= vocabulary)
    odd = odd if keep is None else odd & keep
    if len(places := odd.nonzero()):
        row, column = places[0].tolist()
        raise ValueError(f"the token {int(ids[row, column])} in row {row}, position {column} is not one of the "
                         f"model's {vocabulary}: was it made by another tokenizer?")  # fmt: skip


def check_length(model: Any, length: int, room: int) -> None:
    """A position table ends somewhere; other positions go on, at the cost of quality."""
    most = model.config.max_length
    if length + room <= most:
        return
    said = f"a prompt of {length} tokens and max_new_tokens={room} are more than the model's max_length={most}"
    if getattr(model.tokens, "positions", None) is None:
        warnings.warn(f"{said}, the texts that it was made for", stacklevel=4)
    elif length >= most:
        raise ValueError(f"{said}: shorten the prompt to {most - 1} tokens or less")
    else:
        raise ValueError(f"{said}: ask for {most - length} or less, or shorten the prompt")
