"""`zoo.infill`: a causal model writes what stands between a prefix and a suffix."""

from collections.abc import Sequence
from typing import Any

import torch

from zoo.inference.generation.generate import end_ids, generate
from zoo.inference.generation.prompt import check_model
from zoo.inference.generation.stopping import text_after, tokenizer_of
from zoo.models.base import Model
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.nn.core import check_positive
from zoo.preprocessing.fill_in_middle import MARK, Order, encode_parts, fill_in_middle_tokens, infilling_prompt
from zoo.preprocessing.text import TextProcessor

REFUSED = ("attention_mask", "eos_token_id", "output_scores", "tokenizer")  # options of zoo.generate


def infill(
    model: Model, prefix: str | Sequence[str], suffix: str | Sequence[str] = "", *, max_new_tokens: int = 64,
    order: Order = "psm", context: int | None = None, **options: Any,
) -> str | list[str]:  # fmt: skip
    """Write what stands between `prefix` and `suffix`: the middle alone, without them.

        middle = zoo.infill(model, "def area(width, height):\\n    return ", "\\n\\nprint(area(2, 3))\\n")

    The prompt has the tokens for fill-in-the-middle of the model's tokenizer, found by their names: those of models
    trained by recipes/code_text.py, StarCoder, SantaCoder, Qwen2.5-Coder, CodeGemma, DeepSeek-Coder and Code Llama. The
    middle ends at the token that ends it, or after `max_new_tokens`.

    Args:
        model: A decoder with its tokenizer.
        prefix: The text before the middle, or a list of texts, for a list of middles.
        suffix: The text after it, or as many texts.
        max_new_tokens: The most tokens of a middle.
        order: How the prompt begins: "psm" with the prefix, "spm" with the suffix, for models trained on that, too.
        context: The most tokens of a prompt; default: those that the model's `max_length` leaves beside the middle.
            Of longer texts the beginning of the prefix and the end of the suffix are left out.
        options: Of `zoo.generate`, such as temperature=, seed=, stop= or num_beams=.

    Raises: ValueError for a model without such tokens, and for an invalid option.
    """
    if context is not None:
        check_positive(context=context)
    processor = _processor(model, max_new_tokens)
    prefixes, suffixes = _pairs(prefix, suffix)
    if refused := [name for name in REFUSED if name in options]:
        raise ValueError(f"{refused[0]}= is not an option of zoo.infill: call zoo.generate with the tokens of "
                         f"zoo.preprocessing.fill_in_middle.infilling_prompt")  # fmt: skip
    room = model.config.max_length - max_new_tokens if context is None else context
    if room < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} leaves no room for a prompt in the model's max_length="
                         f"{model.config.max_length}: expected less")  # fmt: skip
    prompts = [infilling_prompt(processor, *pair, order=order, room=room) for pair in zip(prefixes, suffixes)]
    tokens = fill_in_middle_tokens(processor)
    ends = tuple(dict.fromkeys((*tokens.ends, *end_ids(model, "model"))))
    options = {"pad_token_id": ends[0], **options}
    copies = options.get("num_return_sequences", 1)
    middles = [""] * (len(prompts) * copies)
    for rows in rows_of_equal_length(prompts):
        ids = torch.tensor([prompts[row] for row in rows], device=model.device)
        found = generate(model, ids, max_new_tokens=max_new_tokens, eos_token_id=ends, **options)
        for place, new in enumerate(found[:, ids.shape[1] :].tolist()):
            middles[rows[place // copies] * copies + place % copies] = _text(processor, new, ends)
    return middles[0] if isinstance(prefix, str) and copies == 1 else middles


def _processor(model: Model, max_new_tokens: int) -> TextProcessor:
    check_model(model, max_new_tokens, None)
    if isinstance(model, EncoderDecoder):
        raise ValueError(f"a {type(model).__name__} has an encoder: zoo.infill is for decoders alone")
    processor = tokenizer_of(model)
    if not isinstance(processor, TextProcessor):
        raise ValueError(f"the model has a {type(processor).__name__}, expected a TextProcessor")
    return processor


def _pairs(prefix: str | Sequence[str], suffix: str | Sequence[str]) -> tuple[list[str], list[str]]:
    prefixes = [prefix] if isinstance(prefix, str) else list(prefix)
    suffixes = [suffix] * len(prefixes) if isinstance(suffix, str) else list(suffix)
    if not prefixes or len(prefixes) != len(suffixes):
        raise ValueError(f"{len(prefixes)} prefixes and {len(suffixes)} suffixes: expected as many, at least one")
    for text in (*prefixes, *suffixes):
        if not isinstance(text, str):
            raise ValueError(f"expected texts, given {type(text).__name__}")
    return prefixes, suffixes


def rows_of_equal_length(prompts: Sequence[Sequence[int]], most: int = 0) -> list[list[int]]:
    """The numbers of the prompts, in groups of equal length: without padding, no mixer has to know of it.

    most: prompts of a group; 0 for any number.
    """
    groups: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(len(prompt), []).append(row)
    size = most or max(1, len(prompts))
    return [rows[start : start + size] for rows in groups.values() for start in range(0, len(rows), size)]


def _text(processor: TextProcessor, new: list[int], ends: Sequence[int]) -> str:
    """The text of new tokens up to one that ends it. Alone, the first token could lose its space."""
    end = next((place for place, token in enumerate(new) if token in ends), len(new))
    return text_after(processor.decode, encode_parts(processor, MARK)[0], new[:end])
