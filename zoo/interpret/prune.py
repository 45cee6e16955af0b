"""`zoo.prune`: a model without some of its attention heads, which is smaller and faster.

scores = zoo.head_importance(model, texts, labels=labels)
small = zoo.prune(model, keep=0.5, importance=scores)
zoo.save(small, "small")
"""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from zoo.checkpoints.gqa import copy_attributes
from zoo.checkpoints.save import checked_state
from zoo.interpret.choose_heads import choose_in_all_layers, choose_in_each_layer
from zoo.interpret.head_scores import HeadImportance
from zoo.interpret.select_layers import block_places, match_layers
from zoo.models.base import Model
from zoo.models.config import Config
from zoo.models.load_report import LoadReport
from zoo.models.mapping.tensors import tie, tied_names
from zoo.models.registry import build, family
from zoo.nn.attention import Attention
from zoo.nn.block import Block
from zoo.nn.pruned_heads import KeptHeads, attention_layers, check_attention, head_rows

Layer = str | int
Scores = HeadImportance | Mapping[str, Any] | Tensor


def prune(
    model: Model,
    keep: Mapping[Layer, int | Iterable[int]] | float,
    *,
    importance: Scores | None = None,
    per_layer: bool = False,
) -> Model:
    """A copy of a model that has only some of its attention heads, and computes what the model does with the others at
    zero.

        small = zoo.prune(model, {0: [0, 2], "blocks.5.mixer": [3]})     # these heads stay; other layers keep all
        small = zoo.prune(model, keep=0.5, importance=scores)            # half of all heads, those with the best scores

    The rows of q, k and v and the columns of the output projection of the other heads are gone, so the copy has fewer
    parameters, takes less time, and decodes with a smaller cache. It is saved, loaded, fine-tuned and exported to ONNX
    as any model; its config says in `pruned_heads` which heads were removed. Other libraries have no such models, and
    `zoo.export` to them says so. Labels, temperature, preprocessing and frozen parameters are those of the model.

    keep: {layer: heads that stay}, a layer by its name ("encoder.blocks.0.mixer"), a pattern or the number of a block,
        as in `zoo.capture`, and heads by their numbers, negative ones from the end. Or, with `importance`, how many
        heads stay of those that have scores: a number, or a fraction of them.
    importance: from `zoo.head_importance`, or scores {layer: [heads]} or [layers, heads] in the order of the model; the
        heads with the greatest scores stay, at least one in each layer. Layers without scores keep all heads.
    per_layer: `keep` is the number or fraction of heads of each layer, instead of all layers together.

    Where query heads share keys and values, each group that stays keeps equally many query heads; keys and values of
    the other groups are removed. With scores the best such choice is taken, which may have fewer heads than `keep`.
    Source: Michel et al. 2019, https://arxiv.org/abs/1905.10650.

    Raises: ValueError for heads that do not exist, a layer without heads, scores of another model, mixers and attention
        kinds whose heads cannot be taken apart, adapters, models wrapped by others (torch.compile, DDP) or sharded, and
        those of `zoo.optimize`.
    """
    state = checked_state(model)  # before anything else: adapters and optimized models have other tensors
    layers = attention_layers(model)
    if not layers:
        raise ValueError(no_heads_message(model))
    if isinstance(keep, Mapping):
        if importance is not None or per_layer:
            raise ValueError("keep= names the heads that stay: omit importance= and per_layer=")
        chosen: Mapping[str, Sequence[int]] = named_heads(model, layers, keep)
    else:
        chosen = best_heads(layers, keep, importance, per_layer)
    kept = {name: KeptHeads.of(name, layers[name].core.spec, heads) for name, heads in chosen.items()}
    kept = {name: heads for name, heads in kept.items() if len(heads.heads) < layers[name].core.spec.heads}
    for name in kept:
        check_attention(name, layers[name])
    new = build(family(model.family), with_pruned_heads(model.config, layers, kept))
    rows = {f"{name}.{path}": (dim, index) for name, heads in kept.items()
            for path, dim, index in head_rows(layers[name], heads)}  # fmt: skip
    tensors = {name: select(tensor, *rows[name]) if name in rows else tensor.clone() for name, tensor in state.items()}
    tied = tied_names(new)
    new.load_state_dict(tensors | {name: tensors[other] for name, other in tied.items()}, assign=True)
    tie(new, tied)
    copy_attributes(model, new)
    new.load_report = report_of(model, new, kept)
    return new


def select(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """The entries that stay."""
    return tensor.index_select(dim, index.to(tensor.device))


# --- Which heads stay -------------------------------------------------------------------------------------------------


def named_heads(
    model: nn.Module, layers: Mapping[str, Attention], keep: Mapping[Layer, int | Iterable[int]]
) -> dict[str, list[int]]:
    """{layer: heads} as the caller names them. Raises ValueError for layers and heads that do not exist."""
    places, mixers = block_places(model), other_mixers(model)
    chosen: dict[str, list[int]] = {}
    for layer, heads in keep.items():
        if not isinstance(layer, str | int) or isinstance(layer, bool):
            raise ValueError(f"keep: {layer!r} does not name a layer: expected a name or the number of a block")
        matched = match_layers(layer, [*layers, *mixers], places)
        found = [name for name in matched if name in layers]
        if not found:
            raise ValueError(f"keep: {matched[0]} is a {mixers[matched[0]]}, a mixer whose heads cannot be taken "
                             "apart: heads are removed from attention alone")  # fmt: skip
        for name in found:
            if name in chosen:
                raise ValueError(f"keep: {layer!r} and another entry are both for {name}: name each layer once")
            chosen[name] = numbers_of(heads, layers[name].core.spec.heads, name)
    return chosen


def numbers_of(heads: int | Iterable[int], count: int, name: str) -> list[int]:
    """The numbers of heads, from 0 on. Raises ValueError for others."""
    given: list[Any] = list(heads) if isinstance(heads, Iterable) else [heads]
    if not all(isinstance(head, Integral) and not isinstance(head, bool) for head in given):
        raise ValueError(f"keep: {name} has {heads!r:.100}, expected the numbers of heads that stay, such as [0, 2]")
    if odd := [head for head in given if not -count <= head < count]:
        raise ValueError(f"keep: {name} has {count} heads, from 0 to {count - 1}, and no head {odd[0]}")
    if len(set(numbers := [int(head) % count for head in given])) < len(numbers):
        raise ValueError(f"keep: {name} has {heads!r:.100}, which names a head twice")
    return numbers


def best_heads(
    layers: Mapping[str, Attention], keep: Any, importance: Scores | None, per_layer: bool
) -> dict[str, tuple[int, ...]]:
    """{layer: heads} with the best scores. Raises ValueError for numbers that are out of range."""
    if isinstance(keep, bool) or not isinstance(keep, int | float):
        raise ValueError(f"keep={keep!r:.100}: expected {{layer: heads}}, a number of heads, or a fraction such as 0.5")
    if importance is None:
        raise ValueError(
            f"keep={keep!r:.100} is a number of heads, and which of them stay follows from their scores: pass "
            "importance=zoo.head_importance(model, data), or name the heads, keep={0: [0, 2]}"
        )
    scores = scores_of(layers, importance)
    specs = {name: layers[name].core.spec for name in scores}
    if per_layer:
        counts = {name: number_of_heads(keep, spec.heads, 1, name) for name, spec in specs.items()}
        return choose_in_each_layer(specs, scores, counts)
    total = sum(spec.heads for spec in specs.values())
    what = "the model" if len(scores) == len(layers) else "the part of the model with scores"
    return choose_in_all_layers(specs, scores, number_of_heads(keep, total, len(specs), what))


def number_of_heads(keep: Any, total: int, least: int, what: str) -> int:
    """How many of `total` heads stay. Raises ValueError for a number below `least` or above all."""
    count = round(keep * total) if isinstance(keep, float) and 0 < keep <= 1 else keep
    if isinstance(count, float) or not least <= count <= total:
        few = f" ({count} heads)" if isinstance(count, int) and isinstance(keep, float) else ""
        raise ValueError(
            f"keep={keep}{few}: {what} has {total} heads, and at least one in each layer stays: expected a number from "
            f"{least} to {total}, or a fraction above 0 and up to 1.0 that is as many"
        )
    return count


def scores_of(layers: Mapping[str, Attention], importance: Scores) -> dict[str, Tensor]:
    """{layer: scores [H]}. Raises ValueError for scores of another model."""
    if isinstance(importance, Tensor):
        if importance.ndim != 2 or len(importance) != len(layers):
            raise ValueError(f"importance is {tuple(importance.shape)}, and the model has {len(layers)} layers of "
                             "attention: expected a row of scores for each")  # fmt: skip
        given = {name: row[: layers[name].core.spec.heads] for name, row in zip(layers, importance, strict=True)}
        if importance.shape[1] != max(attention.core.spec.heads for attention in layers.values()):
            raise ValueError(f"importance is {tuple(importance.shape)}, and the layers have "
                             f"{sorted({a.core.spec.heads for a in layers.values()})} heads: these are scores of "
                             "another model")  # fmt: skip
    else:
        named = importance.scores if isinstance(importance, HeadImportance) else importance
        if not isinstance(named, Mapping) or not named:
            raise ValueError(f"importance is a {type(importance).__name__}: expected the result of "
                             "zoo.head_importance, {layer: scores}, or a tensor [layers, heads]")  # fmt: skip
        given = {name: torch.as_tensor(values) for name, values in named.items()}
    for name, values in given.items():
        if name not in layers:
            raise ValueError(f"importance has scores of {name!r}, which this model does not have: these are "
                             f"scores of another model (it has {', '.join(layers):.200})")  # fmt: skip
        if values.shape != (layers[name].core.spec.heads,):
            raise ValueError(f"importance has scores {tuple(values.shape)} of {name}, which has "
                             f"{layers[name].core.spec.heads} heads: these are scores of another model")  # fmt: skip
        if not values.isfinite().all():
            raise ValueError(f"importance has a score of {name} that is not finite")
    return {name: given[name].double().cpu() for name in layers if name in given}


def other_mixers(model: nn.Module) -> dict[str, str]:
    """{name: class} of the mixers of a model that are not attention."""
    blocks = [(name, part) for name, part in model.named_modules() if isinstance(part, Block)]
    return {f"{name}.mixer": type(block.mixer).__name__ for name, block in blocks
            if not any(isinstance(part, Attention) for part in block.mixer.modules())}  # fmt: skip


def no_heads_message(model: Model) -> str:
    mixers = ", ".join(sorted(set(other_mixers(model).values())))
    why = f"its layers are {mixers}, mixers whose heads cannot be taken apart" if mixers else "it has no attention"
    return f"this {model.family} model has no attention heads that could be removed: {why}"


# --- The config and the report ----------------------------------------------------------------------------------------


def with_pruned_heads(config: Config, layers: Mapping[str, Attention], kept: Mapping[str, KeptHeads]) -> Config:
    """The config of a model, of which layers keep these heads; the heads of a tower are in the config of the tower."""
    parts = {f"{part}.": own for part, own in config.parts.items() if own is not config}
    changes: dict[str, Any] = {}
    for name, heads in kept.items():
        prefix = next((prefix for prefix in parts if name.startswith(prefix)), "")
        own, path = parts.get(prefix, config), name.removeprefix(prefix)
        removed = changes.setdefault(f"{prefix}pruned_heads", dict(own.pruned_heads or {}))
        before, spec = removed.get(path, ()), layers[name].core.spec
        numbers = spec.kept or range(spec.heads)
        gone = {numbers[head] for head in range(spec.heads)} - {numbers[head] for head in heads.heads}
        removed[path] = tuple(sorted({*before, *gone}))
    return config.replace(**changes)


def report_of(model: Model, new: Model, kept: Mapping[str, KeptHeads]) -> LoadReport:
    """What became of the model."""
    layers, left = attention_layers(model), attention_layers(new)
    before, after = (sum(part.core.spec.heads for part in own.values()) for own in (layers, left))
    sizes = [sum(p.numel() for p in own.parameters()) for own in (model, new)]
    source = getattr(model.load_report, "source", "") or model.variant or model.family
    report = LoadReport(source, mapped=list(new.state_dict()))
    if kept:
        report.notes.append(f"{before - after} of {before} heads were removed, in {len(kept)} of {len(layers)} layers: "
                            f"{sizes[1]:,} parameters instead of {sizes[0]:,}")  # fmt: skip
    return report
