"""`zoo.generate`: autoregressive text generation.

The prompt is read once, with scores for its last token only; then each step reads one token and adds it to the cache.
Rows of different lengths share a batch: a mask marks padding, and positions count the other tokens only.
transformers' `generate` works with its own model classes only, and is slower (`benchmarks/decode.py`).
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.inference.generation.beam_search import BeamOptions, search
from zoo.inference.generation.bridge_prompts import bridge_inputs
from zoo.inference.generation.caption_prompts import encode_images, reads_images
from zoo.inference.generation.graph_decoding import can_be_graphed, generate_with_graphs, reading_by_graphs
from zoo.inference.generation.logits_processors import LogitsProcessor, LogitsProcessors
from zoo.inference.generation.prompt import DecodingSession, Generated, GenerationTask, Prompt
from zoo.inference.generation.prompt_cache import PromptCache
from zoo.inference.generation.sampling import Sampling, penalized, require
from zoo.inference.generation.speculative import speculate
from zoo.inference.generation.stopping import CONTEXT, StoppingCriteria, StreamerAdapter, decoder_of
from zoo.inference.generation.text_prompts import TextPrompts, encode_prompts, encode_sources
from zoo.models.base import Model
from zoo.models.bridge.model import Bridge
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.eval_mode import eval_mode
from zoo.models.text_to_image import TextToImageModel
from zoo.utils.errors import did_you_mean

EndIds = int | Sequence[int] | None | Literal["model"]


@dataclass(frozen=True)
class GenerateOutput:
    """What `zoo.generate` returns with output_scores=True.

    sequences: the prompts with new tokens [rows, N + new]. log_probs: the log-probability of each new token
    [rows, new], after all that changes the scores: penalties, processors, and when sampling temperature, top_k, top_p
    and min_p; 0 after the end of a row. sequences_scores: the score of each text [rows] of beam search, its
    log-probability / length ** length_penalty; otherwise None. texts: the texts, if the prompts were texts.
    """

    sequences: Tensor
    log_probs: Tensor
    sequences_scores: Tensor | None = None
    texts: str | list[str] | None = None


def generate(
    model: Model, input_ids: Tensor | str | Sequence[Any] | None = None, attention_mask: Tensor | None = None, *,
    max_new_tokens: int = 32, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0,
    repetition_penalty: float = 1.0, no_repeat_ngram_size: int = 0, min_new_tokens: int = 0,
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] = (), num_beams: int = 1,
    length_penalty: float = 1.0, early_stopping: bool = False, eos_token_id: EndIds = "model",
    pad_token_id: int | None = None, stop: str | Sequence[str] = (), seed: int | None = None, streamer: Any = None,
    num_return_sequences: int = 1, draft: Model | None = None, tokenizer: Any = None, output_scores: bool = False,
    cache: PromptCache | None = None, decoder_input_ids: Tensor | None = None, **options: Any,
) -> Any:  # fmt: skip
    """Generate continuations: input_ids [B, N] -> prompts with new tokens [B * num_return_sequences, N + new].

    An encoder-decoder model reads input_ids [B, N], or the input of its family such as input_features=, and returns the
    decoder's tokens from the start token on [B * num_return_sequences, 1 + new]; from a text it makes another text.
    decoder_input_ids [B, T]: how these begin. options: of its family: Whisper's language=, mBART's src_lang= and
    tgt_lang=; images= for captions of them (BLIP, CoCa), which begin with text= if it is given. LLaVA and its like read
    input_ids with pixel_values=, or text= with <image> markers or without, or a conversation, and images= or audio=.
    A text instead of input_ids is continued to a text, a list of texts to a list; a conversation (a list of messages)
    to the text of the answer. attention_mask [B, N]: 0 for padding, on either side. temperature: 0 takes the most
    probable token; above 0, tokens are sampled from those that top_k, top_p and min_p keep (see Sampling),
    reproducibly if `seed` is given. num_beams: above 1, beam search for the continuation with the highest
    log-probability / length ** length_penalty; early_stopping ends it with the first num_beams finished ones.
    no_repeat_ngram_size: no n tokens in a row stand twice in a row of the batch. min_new_tokens: so many come before
    an end token. logits_processor: functions (tokens so far [rows, T], scores [rows, V]) -> scores, such as those of
    transformers and of constrained decoding; padding is on the left, with beams rows is B * num_beams.
    eos_token_id: the token(s) that end a row: "model" for those of its config, one or several ids, or None. stop: texts
    that also end a row, names of special tokens among them; they need `tokenizer`, or a model with one. Finished rows
    are filled with pad_token_id, by default the end token. streamer: called with the new tokens [B] of each step, or an
    object with put and end.
    draft: a smaller model with the same vocabulary whose proposed tokens `model` checks several at a time. Greedy
    outputs and the distribution of samples are the same as without it.
    output_scores: return a GenerateOutput, which has the log-probability of each new token, too.
    cache: a `PromptCache` for the turns of a conversation or prompts with the same beginning, one row at a time: what
    the last call with it has read is not read again.
    """
    check_names(model, options)
    texts, inputs = text_inputs(model, input_ids, attention_mask, tokenizer, options)
    options |= {"decoder_input_ids": decoder_input_ids} if decoder_input_ids is not None else {}
    make_prompt = partial(prompt_of, inputs, options, max_new_tokens, cache)
    prompt, own_processors = make_prompt(model, None)
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    check_counts(sampling, num_beams, num_return_sequences, streamer, draft)
    ends, stop = end_ids(model, eos_token_id), (stop,) if isinstance(stop, str) else tuple(stop)
    if pad_token_id is None and prompt.source is not None:
        pad_token_id = model.config.pad_token_id
    fill = fill_id(pad_token_id, ends, one_row=len(prompt.ids) * num_return_sequences == 1, stops=bool(stop))
    task = GenerationTask(
        prompt.repeated(num_return_sequences), sampling, stopping_of(prompt, ends, stop, tokenizer), fill,
        generator_of(seed, prompt.ids.device), StreamerAdapter(streamer, prompt.ids),
        LogitsProcessors(prompt, fill, no_repeat_ngram_size, min_new_tokens, ends, logits_processor,
                         own_processors),
        output_scores,
    )  # fmt: skip
    new = run(task, BeamOptions(num_beams, num_return_sequences, length_penalty, early_stopping), draft, make_prompt)
    prompts = inputs["input_ids"] if prompt.source is None else prompt.ids
    prompts = prompts.repeat_interleave(num_return_sequences, 0).long()
    sequences = torch.cat([prompts, new.tokens.to(prompts.device)], 1)
    if texts is None:
        return result(sequences, new, None)
    return result(sequences, new, texts.continued(new.tokens, decoder_of(model, tokenizer), ends, pad_token_id))


@cache
def argument_names() -> tuple[str, ...]:
    """The options of `generate` for all models."""
    parameters = inspect.signature(generate).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)


def check_names(model: Model, options: dict[str, Any]) -> None:
    """Raises TypeError for a misspelled option of all models or of the family, ValueError for a model that makes
    images."""
    if isinstance(model, TextToImageModel):
        raise ValueError(f"a {type(model).__name__} makes images of texts: use zoo.generate_images(model, texts)")
    own = getattr(model, "generation_options", ())
    for name in options:
        known = argument_names() if isinstance(model, EncoderDecoder) else (*argument_names(), *own)
        hint = did_you_mean(name, known, cutoff=0.8)
        if hint and name not in own:
            raise TypeError(f"generate has no option {name!r}{hint}")


def text_inputs(
    model: Model, input_ids: Any, mask: Tensor | None, tokenizer: Any, options: dict[str, Any]
) -> tuple[TextPrompts | None, dict[str, Any]]:
    """(the texts, if input_ids are some, as tokens; input_ids and attention_mask).

    options: of the model's family; those of the tokenizer of source texts are taken out.
    """
    if (text := options.pop("text", None)) is not None:
        if input_ids is not None:
            raise ValueError("text= and input_ids are given: pass one of them")
        input_ids = text
    if isinstance(model, Bridge):
        return bridge_inputs(model, input_ids, mask, options)
    if reads_images(model) and (images := options.pop("images", None)) is not None:
        captions, inputs, options["pixel_values"] = encode_images(model, images, input_ids, mask, tokenizer)
        return captions, inputs
    encode = encode_sources if isinstance(model, EncoderDecoder) and not reads_images(model) else encode_prompts
    if isinstance(model, EncoderDecoder) and not isinstance(input_ids, Tensor | None):
        tokenizer = model.source_tokenizer(tokenizer, options)
    texts = encode(model, input_ids, mask, tokenizer)
    if texts is not None:
        input_ids, mask = texts.ids, texts.mask
    return texts, {"input_ids": input_ids, "attention_mask": mask}


def prompt_of(
    inputs: dict[str, Any],
    options: dict[str, Any],
    room: int,
    cache: PromptCache | None,
    model: Model,
    target: Model | None,
) -> tuple[Prompt, tuple[LogitsProcessor, ...]]:
    """The checked prompt of a model, and the processors that belong to its family. target: the model of a draft."""
    if isinstance(model, EncoderDecoder):
        source, start = model.generation_start(inputs, **options)
        return Prompt.of_source(model, source, start, room, target).cached(cache), tuple(start.processors)
    images = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    if options and isinstance(model, Bridge):
        own = ", ".join(model.generation_options)
        raise TypeError(f"generate: {type(model).__name__} takes {own}; it has no option {next(iter(options))!r}")
    if options or (images and not isinstance(model, Bridge)):
        raise TypeError(
            f"generate: {next(iter(options | images))!r} is an option of models with an encoder, given a "
            f"{type(model).__name__}"
        )
    prompt = Prompt.checked(model, inputs["input_ids"], inputs["attention_mask"], room, target)
    return replace(prompt, images=images).cached(cache), ()


def run(
    task: GenerationTask, options: BeamOptions, draft: Model | None, make_prompt: Callable[..., tuple[Prompt, Any]]
) -> Generated:
    """Generate the new tokens."""
    model = task.prompt.model
    if draft is not None and (task.processors or task.output_scores):
        names = [*task.processors.names(), *["output_scores"] * task.output_scores]
        raise ValueError(f"draft= does not work with {', '.join(names)}: omit one of the two")
    with eval_mode(model), eval_mode(draft or model), torch.inference_mode():
        if options.num_beams > 1:
            return Generated(*search(task, options))
        if draft is None:
            new = generate_tokens(task)
        else:
            new = Generated(speculate(task, make_prompt(draft, model)[0]))
        task.stream.end()
    return new


def generate_tokens(task: GenerationTask) -> Generated:
    """Generate the new tokens [rows, new] one at a time."""
    session, scores = task.prompt.read()
    if can_be_graphed(task):
        found = generate_with_graphs(task, session, scores)
        return generate_by_steps(task, session, scores) if found is None else found
    with reading_by_graphs(session, scores, task.prompt.room, alone=task.alone):
        return generate_by_steps(task, session, scores)


def generate_by_steps(task: GenerationTask, session: DecodingSession, scores: Tensor) -> Generated:
    """`generate_tokens` after the prompt: session has read it, and scores are those of the first new token."""
    prompt, sampling, stopping, stops = task.prompt, task.sampling, task.stopping, bool(task.stopping)
    seen = prompt.seen() if sampling.repetition_penalty != 1 else None
    processors = task.processors
    greedy = sampling.greedy and seen is None and not processors
    tokens = prompt.ids.new_full((prompt.rows, prompt.room), task.fill)
    log_probs = torch.zeros(tokens.shape, device=tokens.device) if task.output_scores else None
    finished = torch.zeros(prompt.rows, dtype=torch.bool, device=tokens.device)
    for step in range(prompt.room):
        known = seen
        if processors:
            scores, known = processed(task, tokens[:, :step], scores, seen, finished), None
        token = session.most_probable if greedy else sampling.choose(scores, known, task.generator)
        if log_probs is not None:
            log_probs[:, step] = sampling.log_probability(scores, known, token).masked_fill(finished, 0.0)
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
    return Generated(tokens[:, : step + 1], None if log_probs is None else log_probs[:, : step + 1])


def processed(task: GenerationTask, new: Tensor, scores: Tensor, seen: Tensor | None, finished: Tensor) -> Tensor:
    """The scores [rows, V] after the penalty and the processors; those of finished rows do not matter.

    Raises ValueError for a row without a token that may follow.
    """
    before = penalized(scores.float(), seen, task.sampling.repetition_penalty)
    after = before.where(finished[:, None], task.processors(new, before))
    if len(dead := (~after.amax(-1).isfinite()).nonzero()):
        raise task.processors.dead_end(int(dead[0, 0]), new.shape[1])
    return after


def result(sequences: Tensor, new: Generated, texts: str | list[str] | None) -> Any:
    """What `generate` returns: tokens, texts, or a GenerateOutput."""
    if new.log_probs is not None:
        return GenerateOutput(sequences, new.log_probs, new.sequences_scores, texts)
    return sequences if texts is None else texts


def stopping_of(prompt: Prompt, ends: tuple[int, ...], stop: tuple[str, ...], tokenizer: Any) -> StoppingCriteria:
    decode = decoder_of(prompt.model, tokenizer, skip_special=False) if stop else None
    return StoppingCriteria(ends, stop, decode, prompt.ids.device, prompt.last_tokens(CONTEXT) if stop else ())


def generator_of(seed: int | None, device: torch.device) -> torch.Generator | None:
    require(seed is None or (isinstance(seed, int) and not isinstance(seed, bool)), "seed", seed, "a whole number")
    return None if seed is None else torch.Generator(device).manual_seed(seed)


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
        eos_token_id = getattr(model.config.part_of("decoder_input_ids"), "eos_token_id", None)
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
