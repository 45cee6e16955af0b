"""`zoo.generate`: text from a decoder, token by token.

The prompt is read once, for the scores behind its last token alone; then each step reads one token and remembers it.
Rows of different lengths share a batch: which tokens are real is a mask, and positions count real tokens only.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.inference.generation.beam_search import search
from zoo.inference.generation.prompt import GenerationTask, Prompt
from zoo.inference.generation.sampling import Sampling, demand
from zoo.inference.generation.speculative import speculate
from zoo.inference.generation.stopping import StoppingCriteria, StreamerAdapter, decoder_of
from zoo.models.base import Model
from zoo.models.eval_mode import eval_mode

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
    ends = StoppingCriteria(ids, stop, decoder_of(model, tokenizer) if stop else None, prompt.ids.device)
    fill = fill_id(pad_token_id, ids, one_row=len(prompt.ids) * num_return_sequences == 1, stops=bool(stop))
    draw = None if seed is None else torch.Generator(prompt.ids.device).manual_seed(seed)
    with eval_mode(model), eval_mode(draft or model), torch.inference_mode():
        if num_beams > 1:
            new = search(prompt, sampling, ends, fill, (num_beams, num_return_sequences, length_penalty))
        else:
            stream = StreamerAdapter(streamer, prompt.ids)
            task = GenerationTask(prompt.repeated(num_return_sequences), sampling, ends, fill, draw, stream)
            if draft is None:
                new = roll(task)
            else:
                new = speculate(task, Prompt.checked(draft, input_ids, attention_mask, max_new_tokens, prompt.model))
            stream.end()
    given = input_ids.repeat_interleave(num_return_sequences, 0).long()
    return torch.cat([given, new.to(given.device)], 1)


def roll(task: GenerationTask) -> Tensor:
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
