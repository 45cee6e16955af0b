"""`zoo.generate`: autoregressive text generation.

The prompt is read once, with scores for its last token only; then each step reads one token and adds it to the cache.
Rows of different lengths share a batch: a mask marks padding, and positions count the other tokens only.
transformers' `generate` works with its own model classes only, and is slower (`benchmarks/decode.py`).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.inference.generation.beam_search import search
from zoo.inference.generation.prompt import GenerationTask, Prompt
from zoo.inference.generation.sampling import Sampling, require
from zoo.inference.generation.speculative import speculate
from zoo.inference.generation.stopping import CONTEXT, StoppingCriteria, StreamerAdapter, decoder_of
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
    """Generate continuations: input_ids [B, N] -> prompts with new tokens [B * num_return_sequences, N + new].

    attention_mask [B, N]: 0 for padding, on either side. temperature: 0 takes the most probable token; above 0, tokens
    are sampled from those that top_k, top_p and min_p keep (see Sampling), reproducibly if `seed` is given. num_beams:
    above 1, beam search for the continuation with the highest log-probability / length ** length_penalty.
    eos_token_id: the token(s) that end a row: "model" for those of its config, one or several ids, or None. stop: texts
    that also end a row, names of special tokens among them; they need `tokenizer`, or a model with one. Finished rows
    are filled with pad_token_id, by default the end token. streamer: called with the new tokens [B] of each step, or an
    object with put and end.
    draft: a smaller model with the same vocabulary whose proposed tokens `model` checks several at a time. Greedy
    outputs and the distribution of samples are the same as without it.
    """
    prompt = Prompt.checked(model, input_ids, attention_mask, max_new_tokens)
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    check_counts(sampling, num_beams, num_return_sequences, streamer, draft)
    ids = end_ids(model, eos_token_id)
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    decode = decoder_of(model, tokenizer, skip_special=False) if stop else None
    stopping = StoppingCriteria(ids, stop, decode, prompt.ids.device, prompt.last_tokens(CONTEXT) if stop else ())
    fill = fill_id(pad_token_id, ids, one_row=len(prompt.ids) * num_return_sequences == 1, stops=bool(stop))
    require(seed is None or (isinstance(seed, int) and not isinstance(seed, bool)), "seed", seed, "a whole number")
    generator = None if seed is None else torch.Generator(prompt.ids.device).manual_seed(seed)
    with eval_mode(model), eval_mode(draft or model), torch.inference_mode():
        if num_beams > 1:
            new = search(prompt, sampling, stopping, fill, (num_beams, num_return_sequences, length_penalty))
        else:
            stream = StreamerAdapter(streamer, prompt.ids)
            task = GenerationTask(prompt.repeated(num_return_sequences), sampling, stopping, fill, generator, stream)
            if draft is None:
                new = generate_tokens(task)
            else:
                new = speculate(task, Prompt.checked(draft, input_ids, attention_mask, max_new_tokens, prompt.model))
            stream.end()
    prompts = input_ids.repeat_interleave(num_return_sequences, 0).long()
    return torch.cat([prompts, new.to(prompts.device)], 1)


def generate_tokens(task: GenerationTask) -> Tensor:
    """Generate the new tokens [rows, new] one at a time."""
    prompt, sampling, stopping, stops = task.prompt, task.sampling, task.stopping, bool(task.stopping)
    session, scores = prompt.read()
    seen = prompt.seen() if sampling.repetition_penalty != 1 else None
    greedy = sampling.greedy and seen is None
    tokens = prompt.ids.new_full((prompt.rows, prompt.room), task.fill)
    finished = torch.zeros(prompt.rows, dtype=torch.bool, device=tokens.device)
    for step in range(prompt.room):
        token = session.most_probable if greedy else sampling.choose(scores, seen, task.generator)
        if stops:
            token = torch.where(finished, task.fill, token)
        tokens[:, step] = token
        task.stream.put(token)
        if stops:
            finished = finished | stopping(tokens[:, : step + 1])
            if finished.all():
                break
        if step + 1 < prompt.room:
            if seen is not None:
                seen.scatter_(1, token[:, None], True)
            scores = session.read(token[:, None])
    return tokens[:, : step + 1]


def check_counts(sampling: Sampling, beams: int, copies: int, streamer: Any, draft: Any) -> None:
    """Raises ValueError for invalid counts and for combinations of options that do not work."""
    for name, count in (("num_beams", beams), ("num_return_sequences", copies)):
        require(isinstance(count, int) and count > 0, name, count, "a whole number of at least 1")
    if beams > 1:
        if not sampling.greedy:
            raise ValueError(f"num_beams={beams} does not work with sampling (temperature={sampling.temperature}): use "
                             "temperature=0 or num_beams=1")  # fmt: skip
        if copies > beams:
            raise ValueError(f"num_return_sequences={copies}: expected at most num_beams={beams}")
        if streamer is not None or draft is not None:
            raise ValueError("beam search revises earlier tokens, so streamer= and draft= need num_beams=1")
    elif copies > 1 and sampling.greedy:
        raise ValueError(f"num_return_sequences={copies} greedy continuations are all the same: pass temperature= or "
                         "num_beams=")  # fmt: skip


def end_ids(model: Model, eos_token_id: EndIds) -> tuple[int, ...]:
    """The ids of the end tokens."""
    if eos_token_id == "model":
        eos_token_id = getattr(model.config, "eos_token_id", None)
    elif isinstance(eos_token_id, str):
        raise ValueError(f"eos_token_id={eos_token_id!r}: expected 'model', an id, a list of ids, or None")
    if eos_token_id is None:
        return ()
    return (eos_token_id,) if isinstance(eos_token_id, int) else tuple(int(i) for i in eos_token_id)


def fill_id(pad: int | None, end_ids: tuple[int, ...], one_row: bool, stops: bool) -> int:
    """The token that fills finished rows."""
    if pad is None and not end_ids and stops and not one_row:
        raise ValueError("stop= with several rows needs a token to fill the rows that end early: pass pad_token_id=")
    return pad if pad is not None else end_ids[0] if end_ids else 0
