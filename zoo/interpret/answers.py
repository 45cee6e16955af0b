"""Answers of several tokens, whose scores are explained: the tokens that a decoder reads, and the target."""

from typing import Any

import torch

from zoo.interpret.attribution_target import Target, find_target
from zoo.interpret.scored_inputs import ScoredInputs, find_parts, tokenizer_of
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.paligemma.model import PaliGemma


def inputs_and_target(inputs: ScoredInputs, target: Any, batch_size: int) -> tuple[ScoredInputs, Target]:
    """The inputs, followed by the answer if the target is one, and the target; see `find_target`."""
    if isinstance(target, Target):
        return inputs, target
    return with_answer(inputs, target) or (inputs, find_target(inputs, target, batch_size))


def with_answer(inputs: ScoredInputs, target: Any) -> tuple[ScoredInputs, Target] | None:
    """The inputs followed by an answer, a text of several tokens, and these tokens as the target; None for what is not
    an answer of a decoder. A list has an answer for each row.

    Raises: ValueError for inputs with padding, behind which nothing follows, and for an answer without tokens.
    """
    model, tokenizer = inputs.model, tokenizer_of(inputs.model)
    given = target if isinstance(target, list) else [target] * inputs.rows
    is_text = len(given) == inputs.rows and all(isinstance(text, str) for text in given)
    if not is_text or tokenizer is None or model.config.head != "lm":
        return None
    is_pair = isinstance(model, EncoderDecoder)
    backend = tokenizer.for_targets().backend if is_pair else tokenizer.backend
    ids: list[list[int]] = [
        backend.encode(text, add_special_tokens=False).ids if (whole := backend.token_to_id(text)) is None else [whole]
        for text in given
    ]
    size = max(map(len, ids))
    if size < 2:
        return None
    if not all(ids):
        raise ValueError(f"target={given[ids.index([])]!r} has no tokens: expected the text of an answer")
    own = list(inputs.parts.values())[-1]
    if not bool(own.keep.all()):
        raise ValueError(f"target={given[0]!r} has {len(ids[0])} tokens, which follow the input: expected inputs "
                         "without padding, such as one at a time")  # fmt: skip
    length = own.keep.shape[1]
    read = own.keep.new_tensor([(row + row[-1:] * size)[: size - 1] for row in ids], dtype=torch.long)
    batch = dict(inputs.batch) | {own.key: torch.cat([inputs.batch[own.key], read], 1)}
    for name in [own.mask] if is_pair else [own.mask, "token_type_ids", "image_attention_mask"]:
        if name is not None and name in batch:
            last = batch[name][:, -1:]
            if name == "token_type_ids" and isinstance(model, PaliGemma):
                last = torch.ones_like(last)
            batch[name] = torch.cat([batch[name], last.repeat_interleave(size - 1, 1)], 1)
    parts = {part.name: part for part in find_parts(model, batch)}
    parts[own.name].fixed[:, length:] = True
    answers = read.new_tensor([(row + [-1] * size)[:size] for row in ids])
    places = torch.arange(length - 1, length - 1 + size, device=read.device).expand(inputs.rows, -1)
    return ScoredInputs(model, batch, parts), Target(answers, places, given)
