"""Scores of the units of an input from attention weights: attention, rollout, and both weighted by gradients.

Attention weights say from which tokens those that the output layer reads were mixed. They include the weights of
special tokens, and of tokens whose values add nothing, so that they are no explanation by themselves.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.interpret.attention_maps import rollout
from zoo.interpret.attribution_target import Target
from zoo.interpret.capture import capture
from zoo.interpret.gradient_maps import gradient_maps
from zoo.interpret.hooks import attached, stacks
from zoo.interpret.scored_inputs import Part, ScoredInputs
from zoo.interpret.select_layers import find_layers
from zoo.models.bridge.model import Bridge
from zoo.models.clip_text.model import ClipText
from zoo.models.contrast.model import Contrastive
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.nn.heads import (
    AttentionPooling,
    AudioClassificationHead,
    DistilledClassificationHead,
    DistilledPooling,
    PoolingHead,
    TextPooling,
)

METHODS = ("attention", "rollout", "attention_x_gradient", "gradient_rollout")


def attention_scores(inputs: ScoredInputs, target: Target, method: str, rows: Tensor) -> dict[str, Tensor]:
    """{part: scores [R, n]} of some rows by one of `METHODS`.

    Raises: ValueError for a model without attention weights, or whose output layer does not say which tokens it reads.
    """
    by_gradient = method in ("attention_x_gradient", "gradient_rollout")
    is_pair = isinstance(inputs.model, EncoderDecoder)
    if is_pair and method == "gradient_rollout":
        raise ValueError("method='gradient_rollout' is for models of one stack: expected 'attention_x_gradient' or "
                         "'rollout' for an encoder-decoder")  # fmt: skip
    among = [part for part in inputs.parts.values() if part.places is not None]  # patches that a text decoder reads
    parts = [part for part in inputs.parts.values() if part.places is None]
    if isinstance(inputs.model, Bridge) and len(parts) > 1:
        raise ValueError(
            f"method={method!r}: the decoder of {type(inputs.model).__name__} does not read the patches of an image as "
            "tokens of their own: expected method='integrated_gradients' or 'input_x_gradient'"
        )
    layers = {part.name: f"{part.path}blocks.*.mixer" for part in parts}
    crosses = ["decoder.blocks.*.cross"] if is_pair and "target" in inputs.parts else []
    names = {name: layer_names(inputs.model, pattern, method) for name, pattern in layers.items()}
    names["cross"] = [name for pattern in crosses for name in layer_names(inputs.model, pattern, method)]
    pools = [f"{part.path}head.mixer" for part in parts if pools_by_attention(inputs, part)]
    every = [name for group in names.values() for name in group]
    maps = maps_by_gradient(inputs, target, rows, every) if by_gradient else maps_of(inputs, rows, [*every, *pools])
    if by_gradient and pools and method == "gradient_rollout":
        maps = maps | maps_of(inputs, rows, pools)
    found = {}
    for part in parts:
        own = {name: maps[name] for name in names[part.name]}
        if part.path == "encoder.":  # the decoder reads it, by cross-attention
            scores = through_cross(target, rows, own, [maps[name] for name in names["cross"]], method)
        elif method == "attention_x_gradient":
            scores = torch.stack(list(own.values())).mean(0).sum(1)
        else:
            width = next(iter(own.values())).shape[-1]
            read = tokens_read(inputs, target, part, rows, width, maps)
            scores = follow(read, own, method)
        found[part.name] = units_of(part, scores)
    for part in among:
        assert part.places is not None
        found[part.name] = found["text"].gather(1, part.places[rows])
        found["text"] = found["text"].scatter(1, part.places[rows], 0.0)
    return found


def layer_names(model: nn.Module, pattern: str, method: str) -> list[str]:
    """The layers of a pattern that have attention weights. Raises ValueError that names the others if none has."""
    try:
        return [name for name, _ in find_layers(model, pattern).found]
    except ValueError as error:
        raise ValueError(f"method={method!r} needs attention weights, and {error}; method='integrated_gradients' needs "
                         "none") from error  # fmt: skip


def maps_of(inputs: ScoredInputs, rows: Tensor, layers: list[str]) -> dict[str, Tensor]:
    """{layer: mean over heads [R, N, M]} of the attention weights, float32."""
    with torch.no_grad(), capture(inputs.model, layers=layers, reduce=lambda w: w.mean(1)) as maps:
        inputs.run(rows)
    return {name: w.float() for name, w in maps.items()}


def maps_by_gradient(inputs: ScoredInputs, target: Target, rows: Tensor, layers: list[str]) -> dict[str, Tensor]:
    """{layer: mean over heads [R, N, M]} of the weights times their positive gradients; see `gradient_maps`."""
    batch = {name: x[rows] for name, x in inputs.batch.items()}
    with all_tokens_computed(inputs.model):
        maps = gradient_maps(inputs.model, lambda output: target.scores(output, rows).sum(), layers=layers, **batch)
    return {name: w.float().mean(1) for name, w in maps.items()}


def all_tokens_computed(model: nn.Module) -> AbstractContextManager[None]:
    """Context in which the stacks of a model mask padding, in this thread, rather than drop it, so that each layer runs
    once for all rows."""

    def before(stack: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs | {"drop_padding": False}

    return attached([(partial(stack.register_forward_pre_hook, with_kwargs=True), before) for stack in stacks(model)])


# --- which tokens the output layer reads ------------------------------------------------------------------------------


def tower_of(inputs: ScoredInputs, part: Part) -> Any:
    """The model, or the tower of a contrastive model, that reads a part."""
    return inputs.model.tower(part.name) if isinstance(inputs.model, Contrastive) else inputs.model


def pools_by_attention(inputs: ScoredInputs, part: Part) -> bool:
    return isinstance(getattr(tower_of(inputs, part), "head", None), AttentionPooling) and part.path != "encoder."


def tokens_read(
    inputs: ScoredInputs, target: Target, part: Part, rows: Tensor, width: int, maps: Mapping[str, Tensor]
) -> Tensor:
    """How much each of the N = `width` tokens of a stack is read by the output layer, [R, N]; each row sums to 1."""
    line = torch.arange(width, device=rows.device)
    if target.positions is not None:
        places = target.positions[rows].view(len(rows), -1)  # several of an answer
        return ((line == places[..., None]) * target.weights(rows)[..., None]).sum(1)
    tower = tower_of(inputs, part)
    head, mode = tower.head, None
    first = torch.zeros(len(rows), width, device=rows.device)
    keep = part.keep[rows] if part.grid is None else torch.ones_like(first)
    keep = keep[:, :width].float()
    if isinstance(head, AttentionPooling):
        return maps[f"{part.path}head.mixer"][:, 0]
    if isinstance(tower, ClipText):
        mask = None if part.mask is None or part.mask not in inputs.batch else inputs.batch[part.mask][rows]
        return (line == tower.pooled_index(inputs.batch[part.key][rows], mask)[:, None]).float()
    if isinstance(head, TextPooling | PoolingHead):
        mode = head.mode
    elif isinstance(head, AudioClassificationHead):
        mode = "mean"
    elif isinstance(head, DistilledClassificationHead | DistilledPooling):
        first[:, :2] = 0.5
        return first
    if mode is None:
        raise ValueError(f"{type(head).__name__} does not say which tokens it reads, so their attention is not known: "
                         "expected method='integrated_gradients' or 'attention_x_gradient'")  # fmt: skip
    prefix = getattr(head, "prefix", 0)
    mean = keep * (line >= prefix)
    mean = mean / mean.sum(1, keepdim=True).clamp(min=1)
    if mode == "mean":
        return mean
    if mode == "prefix":
        return (line < prefix).float().expand_as(keep) / max(prefix, 1)
    place = keep.argmax(1) if mode != "last" else (line * keep).argmax(1)
    one = (line == place[:, None]).float()
    return (one + mean) / 2 if mode == "cls_mean" else one


# --- from maps to scores ----------------------------------------------------------------------------------------------


def follow(read: Tensor, maps: Mapping[str, Tensor], method: str) -> Tensor:
    """From the tokens that are read [R, N] to those of the first layer [R, N]."""
    layers = list(maps.values())
    if method == "attention":
        return (read[:, None] @ torch.stack(layers).mean(0))[:, 0]
    if method == "rollout":
        return (read[:, None] @ rollout({name: w[:, None] for name, w in maps.items()}))[:, 0]
    relevance = torch.eye(read.shape[1], device=read.device).expand(len(read), -1, -1)
    for weights in layers:  # Chefer et al. 2021, equation 6
        relevance = relevance + weights @ relevance
    return (read[:, None] @ relevance)[:, 0] - read


def through_cross(
    target: Target, rows: Tensor, encoder: Mapping[str, Tensor], crosses: list[Tensor], method: str
) -> Tensor:
    """The scores [R, M] of the encoder's tokens, by the cross-attention of the decoder."""
    if not crosses or target.positions is None:
        raise ValueError("there is no decoder that attends to the encoder: expected method='integrated_gradients'")
    cross = torch.stack(crosses).mean(0)  # R T M
    if method == "attention_x_gradient":
        return cross.sum(1)
    places = target.positions[rows].view(len(rows), -1)
    read = cross.gather(1, places[..., None].expand(-1, -1, cross.shape[2]))  # R A M
    read = (read * target.weights(rows)[..., None]).sum(1)
    return read if method == "attention" else follow(read, encoder, method)


def units_of(part: Part, scores: Tensor) -> Tensor:
    """Scores of tokens [R, N] -> of the units of a part [R, n]: without class tokens, zeros for tokens not computed."""
    count = part.keep.shape[1]
    if part.cells is not None:
        return scores[:, -count:]
    return torch.nn.functional.pad(scores, (0, count - scores.shape[1]))
