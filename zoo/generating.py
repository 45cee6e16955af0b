"""`zoo.generate`: text from a decoder, token by token.

The prompt is read once, for the scores behind its last token alone; then each step reads one token and remembers it.
Rows of different lengths share a batch: which tokens are real is a mask, and positions count real tokens only.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .models.base import Model
from .nn.state import StackState
from .sampling import Sampling, demand
from .streaming import Ends, Stream, decoder_of
from .verifying import evaluating

EndIds = int | Sequence[int] | None | Literal["model"]


def generate(
    model: Model,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    eos_token_id: EndIds = "model",
    pad_token_id: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    streamer: Any = None,
    num_return_sequences: int = 1,
    draft: Model | None = None,
    tokenizer: Any = None,
) -> Tensor:
    """input_ids [B, N] -> [B * num_return_sequences, N + new]: each prompt as given, padding too, and what follows.

    attention_mask [B, N]: 0 for padding, on either side. temperature 0 takes the best token; above it, top_k, top_p,
    min_p narrow down what is drawn (see Sampling), a pure function of `seed` where one is given. num_beams > 1 searches
    for the most probable continuation, its logarithm divided by length ** length_penalty.
    eos_token_id: what ends a row: "model", the end token(s) of its config; an id or several; None, nothing. stop: texts
    that end a row, too (they need `tokenizer`, or the model's own). Rows that ended are filled with pad_token_id, else
    the end token. streamer: called with the new tokens [B] of each step, or an object with put and end.
    draft: a smaller model of the same vocabulary that proposes tokens which `model` checks several at a time: the same
    output when greedy, the same distribution when drawn.
    """
    prompt = Prompt.checked(model, input_ids, attention_mask, max_new_tokens)
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    check_counts(sampling, num_beams, num_return_sequences, streamer, draft)
    ids = end_ids(model, eos_token_id)
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    ends = Ends(ids, stop, decoder_of(model, tokenizer) if stop else None, prompt.ids.device)
    fill = fill_id(pad_token_id, ids, one_row=len(prompt.ids) * num_return_sequences == 1, stops=bool(stop))
    draw = None if seed is None else torch.Generator(prompt.ids.device).manual_seed(seed)
    with evaluating(model), evaluating(draft or model), torch.inference_mode():
        if num_beams > 1:
            from .beams import search

            new = search(prompt, sampling, ends, fill, (num_beams, num_return_sequences, length_penalty))
        else:
            stream = Stream(streamer, prompt.ids)
            task = Task(prompt.repeated(num_return_sequences), sampling, ends, fill, draw, stream)
            if draft is None:
                new = roll(task)
            else:
                from .speculation import speculate

                new = speculate(task, Prompt.checked(draft, input_ids, attention_mask, max_new_tokens, prompt.model))
            stream.end()
    given = input_ids.repeat_interleave(num_return_sequences, 0).long()
    return torch.cat([given, new.to(given.device)], 1)


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

    def read(self) -> tuple["Reader", Tensor]:
        """A reader that has read the prompt, and the scores of what follows: [rows, V]."""
        reader = Reader(self)
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


class Reader:
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
class Task:
    """A prompt and how to go on from it."""

    prompt: Prompt
    sampling: Sampling
    ends: Ends
    fill: int
    draw: torch.Generator | None
    stream: Stream


def roll(task: Task) -> Tensor:
    """One token after the other: [rows, new]."""
    prompt, ends, choose = task.prompt, task.ends, task.sampling.choose
    reader, scores = prompt.read()
    seen = prompt.seen() if task.sampling.repetition_penalty != 1 else None
    tokens = prompt.ids.new_full((prompt.rows, prompt.room), task.fill)
    over = torch.zeros(prompt.rows, dtype=torch.bool, device=tokens.device)
    for step in range(prompt.room):
        token = choose(scores, seen, task.draw)
        if ends:
            token = torch.where(over, task.fill, token)
        tokens[:, step] = token
        task.stream.put(token)
        if ends:
            over = over | ends(tokens[:, : step + 1])
            if over.all():
                break
        if step + 1 < prompt.room:
            if seen is not None:
                seen.scatter_(1, token[:, None], True)
            scores = reader.read(token[:, None])
    return tokens[:, : step + 1]


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


def check_counts(sampling: Sampling, beams: int, copies: int, streamer: Any, draft: Any) -> None:
    """Combinations that make no sense, each with what to change."""
    for name, count in (("num_beams", beams), ("num_return_sequences", copies)):
        demand(isinstance(count, int) and count > 0, name, count, "a whole number of at least 1")
    if beams > 1:
        if not sampling.greedy:
            raise ValueError(f"num_beams={beams} searches for the best text, temperature={sampling.temperature} draws "
                             "one: use one of the two")  # fmt: skip
        if copies > beams:
            raise ValueError(f"num_return_sequences={copies} of num_beams={beams}: a search returns its beams at most")
        if streamer is not None or draft is not None:
            raise ValueError("a beam search changes what it wrote as it goes: no streamer=, no draft= with num_beams")
    elif copies > 1 and sampling.greedy:
        raise ValueError(f"num_return_sequences={copies} greedy continuations are all the same: give a temperature, "
                         "or num_beams")  # fmt: skip


def end_ids(model: Model, given: EndIds) -> tuple[int, ...]:
    if given == "model":
        given = getattr(model.config, "eos_token_id", None)
    elif isinstance(given, str):
        raise ValueError(f"eos_token_id={given!r}: expected 'model', an id, a list of ids, or None")
    if given is None:
        return ()
    return (given,) if isinstance(given, int) else tuple(int(i) for i in given)


def fill_id(pad: int | None, ends: tuple[int, ...], one_row: bool, stops: bool) -> int:
    if pad is None and not ends and stops and not one_row:
        raise ValueError("rows that meet a stop text early are filled up: give pad_token_id=")
    return pad if pad is not None else ends[0] if ends else 0
