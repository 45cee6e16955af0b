"""Answers of several tokens, whose scores are explained: the tokens that a decoder reads, and the target."""

from typing import Any

import torch
from torch import Tensor

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

    Raises: ValueError for inputs with padding on the left, and for an answer without tokens.
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
    lengths = own.keep.sum(1)
    if not torch.equal(own.keep, torch.arange(own.keep.shape[1], device=lengths.device) < lengths[:, None]):
        raise ValueError(f"target={given[0]!r} has {len(ids[0])} tokens, which follow the input: expected inputs "
                         "with their padding on the right")  # fmt: skip
    answers = lengths.new_tensor([(row + [-1] * size)[:size] for row in ids])
    read = lengths.new_tensor([(row + row[-1:] * size)[: size - 1] for row in ids])
    places = lengths[:, None] + torch.arange(size, device=lengths.device) - 1  # where the output is read
    batch = dict(inputs.batch) | {own.key: followed(inputs.batch[own.key], places[:, 1:], read)}
    for name in [own.mask] if is_pair else [own.mask, "token_type_ids", "image_attention_mask"]:
        if name is not None and name in batch:
            row = torch.arange(len(places), device=places.device)[:, None]
            last = batch[name][row, places[:, :1]]
            if name == "token_type_ids" and isinstance(model, PaliGemma):
                last = torch.ones_like(last)
            batch[name] = followed(batch[name], places[:, 1:], last)
    parts = {part.name: part for part in find_parts(model, batch)}
    parts[own.name].fixed.scatter_(1, places[:, 1:], True)
    return ScoredInputs(model, batch, parts), Target(answers, places, given)


def followed(x: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Inputs [B, N, ...] with values [B, A or 1, ...] at `places` [B, A], behind the last token of each row, and
    padding behind them: [B, N + A, ...]."""
    longer = torch.cat([x, x[:, -1:].repeat_interleave(places.shape[1], 1)], 1)
    row = torch.arange(len(x), device=x.device)[:, None]
    return longer.index_put((row, places), values.to(x.dtype))
