"""muP, the maximal update parametrization: a learning rate found for a narrow model is also that of a wider one.

Under AdamW every entry of a weight moves by about the learning rate in a step. A sum over `width` inputs of such
entries grows with the width, and so the best learning rate falls as a model becomes wider, for each kind of weight in
another way. muP gives each kind its own rate and its own initial values, so that the change of every activation in a
step is the same at every width. With r = width / base width:

| weight                                                   | rate   | initial values                                  |
|----------------------------------------------------------|--------|-------------------------------------------------|
| input: embeddings, positions, biases, norms, patches     | lr     | as without muP                                  |
| hidden: from a size that grows with the width to another | lr / r | as without muP, a variance of 1 / (3 fan-in)    |
| output: from a size that grows to one that does not      | lr / r | of 1 / (3 r fan-in), so that it falls by r ** 2 |

No forward pass changes, so nothing is hidden in a saved model. Factors that a model itself multiplies embeddings or
scores with (`sqrt(width)` in Gemma, `1 / sqrt(width)` in T5) are made up for. An output layer that shares the word
embeddings cannot have a rate and initial values of its own: the factor 1 / r goes to the gain and bias of the norm
before it, with their rate. Where these are loaded from a file, which muP does not change, the embeddings learn at the
rate of an output.

Heads have the same size at every width, and their number grows: with heads that grow, the best rate is another one.

Source: Yang et al. 2022 (Tensor Programs V), table 3 and, for shared embeddings, table 8, whose factor of the scores is
the same as a gain with that factor in its initial value and its rate, https://arxiv.org/abs/2203.03466.
"""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from zoo.models.base import Model
from zoo.models.config import Config
from zoo.models.load_report import listed
from zoo.models.registry import build, family
from zoo.models.tower_config import ContrastiveConfig
from zoo.nn.core import check_positive
from zoo.nn.frontends.text import TextEmbedding, WordEmbedding
from zoo.nn.heads import LMHead, MaskedLMHead
from zoo.nn.rms_norm import UnitOffsetRMSNorm
from zoo.nn.stack import Stack
from zoo.tasks.optimizer import owned

SIDES = ("encoder_", "decoder_")
SIZES = ("heads", "kv_heads", "mlp_dim")  # what grows in proportion to the width, where a config sets it
Growth = dict[str, dict[str, set[int]]]  # {field of a width: {parameter: its dimensions that grow with the field}}


class MupScale(NamedTuple):
    """What muP makes of a parameter: its kind, and the factors of its learning rate and of its initial values."""

    role: Literal["input", "hidden", "output"]
    lr: float
    init: float


UNCHANGED = MupScale("input", 1.0, 1.0)


def mup_scales(model: nn.Module, base_width: int) -> dict[str, MupScale]:
    """The factors of each parameter of a model, by name.

    Which dimensions of a weight grow with the width is found by comparing the model with one of twice the width, which
    takes no memory. A model of several towers has a width for each: all of them are compared with `base_width`. Weights
    of modules that are not layers of torch are hidden if two of their dimensions grow, otherwise inputs.

    Args:
        base_width: The width of the model that the learning rate was found for.

    Raises: ValueError for a module that is not a model of the zoo, a model without a width, LoRA adapters, parameters
        that are not of the model's config, an output layer that shares the word embeddings without a norm before it, or
        a base width that is not a positive integer.
    """
    check_positive(base_width=base_width)
    if not isinstance(model, Model):
        raise ValueError(f"mup=true needs a model of zoo.create_model or zoo.load, not {type(model).__name__}: which "
                         "of its weights grow with the width is not known")  # fmt: skip
    if any(".lora_" in name for name, _ in model.named_parameters()):
        raise ValueError("mup=true with LoRA adapters: their rank does not grow with the width, so that the rates of "
                         "muP are not theirs; set mup=false")  # fmt: skip
    config = with_all_heads(model.config)
    own = build(family(model.family), config)
    ratios = {name: width / base_width for name, width in widths(config).items()}
    if not ratios:
        raise ValueError(f"mup=true: {model.family} has no width that all of its layers grow with; set mup=false")
    wide = {name: build(family(model.family), wider(config, name)) for name in ratios}
    grown = {name: grown_dimensions(own, twice) for name, twice in wide.items()}
    result = {name: scale_of(name, owner, value, grown, ratios) for name, value, owner in owned(own)}
    if unknown := [name for name, _ in model.named_parameters() if name not in result]:
        raise ValueError(f"mup=true: whether these parameters grow with the width is not known, as they are not those "
                         f"of the model's config: {listed(unknown)}; set mup=false")  # fmt: skip
    for name, twice in wide.items():
        undo_factors(result, own, twice, ratios[name])
        for path, head in own.named_modules():
            if isinstance(head, LMHead) and (shared := shared_embedding(own, head)) in grown[name]:
                output = 1 / (ratios[name] * own_factor(own, twice, path, ratios[name]))
                scale_shared(result, shared, output, norm_before(own, path), set(model.load_report.initialized))
    return result


def mup_rates(model: nn.Module, base_width: int) -> dict[str, float]:
    """The factors of the learning rate by parameter, for `param_groups`.

    Raises: ValueError as `mup_scales`, and for new parameters whose initial values are not those of muP.
    """
    scales = mup_scales(model, base_width)
    assert isinstance(model, Model)
    check_initialized(model, base_width)
    return {name: scale.lr for name, scale in scales.items()}


def initialize_mup(model: nn.Module, base_width: int) -> None:
    """Scale the initial values of a new model to those of muP, in place; once, before it is trained.

    Parameters that were loaded, from a file or by `load_state_dict`, keep their values: those in
    `model.load_report.initialized` are scaled. A recipe does this by itself. A second call changes nothing. To continue
    a training loop of your own, call this before `load_state_dict`: the rates are then those of the beginning.

    Raises: ValueError as `mup_scales`, and for a model whose values were scaled from another width.
    """
    scales = mup_scales(model, base_width)
    assert isinstance(model, Model)
    if model.mup_base_width is not None:
        check_initialized(model, base_width)
        return
    new = set(model.load_report.initialized)
    with torch.no_grad():
        for name, value, owner in owned(model):
            factor = scales[name].init
            if name not in new or factor == 1:
                continue
            if isinstance(owner, UnitOffsetRMSNorm):  # its gain is 1 + weight
                value.copy_((1 + value) * factor - 1)
            else:
                value.mul_(factor)
    model.mup_base_width = base_width


def check_initialized(model: Model, base_width: int) -> None:
    """Raise ValueError for new parameters, such as those of a new head, whose initial values are not those of muP from
    this width."""
    found, report = model.mup_base_width, set(model.load_report.initialized)
    new = [name for name, _ in model.named_parameters() if name in report]
    if found is None and new:
        raise ValueError(f"mup=true: the initial values of new parameters ({listed(new)}) are not those of muP; call "
                         f"zoo.tasks.initialize_mup(model, {base_width}) before the task is made")  # fmt: skip
    if found is not None and found != base_width:
        raise ValueError(f"mup_base_width={base_width}: the initial values of this model are those for a base width of "
                         f"{found}; use that one, or a new model")  # fmt: skip


def describe_mup(model: nn.Module, base_width: int) -> str:
    """What muP does to a model of the zoo, in words, for the banner of a run."""
    assert isinstance(model, Model)
    sizes = ", ".join(f"{name} {w} ({w / base_width:.3g} times)" for name, w in widths(model.config).items())
    total, new = sum(1 for _ in model.parameters()), set(model.load_report.initialized)
    loaded = total - sum(name in new for name, _ in model.named_parameters())
    kept = f"; {loaded} of {total} parameters are loaded, which keep their values" if loaded else ""
    return f"lr is that of width {base_width}, here {sizes}: matrices learn at lr divided by that{kept}"


# --- The widths of a model, and what grows with them ------------------------------------------------------------------


def widths(config: Config) -> dict[str, int]:
    """The widths of a config by field: `width`, those of a side that has its own, or those of its towers."""
    flat = config.flat()
    towers = [f"{part}.width" for part in config.parts if f"{part}.width" in flat]
    names = towers or ["width", *(f"{side}width" for side in SIDES)]
    return {name: flat[name] for name in names if flat.get(name)}


def doubled(config: Config, name: str) -> dict[str, int]:
    """Overrides that double a width, and with it the number of heads and the size of the MLP."""
    flat = config.flat()
    stem = name.removesuffix("width")
    others = [side for side in SIDES if stem == "" and not flat.get(f"{side}width")]
    fields = [f"{part}{size}" for part in (stem, *others) for size in SIZES]
    return {field: 2 * flat[field] for field in (name, *fields) if flat.get(field)}


def with_all_heads(config: Config) -> Config:
    """The config without removed heads (`zoo.prune`), on which no kind and no factor depends."""
    pruned = [name for name, heads in config.flat().items() if name.rpartition(".")[2] == "pruned_heads" and heads]
    return config.replace(**dict.fromkeys(pruned))


def wider(config: Any, name: str) -> Config:
    """The config with twice the width `name`."""
    overrides = doubled(config, name)
    part = name.removesuffix(".width")
    if isinstance(config, ContrastiveConfig) and config.towers[part].proj is None:
        # the width of the shared space is that of all towers without a projection
        for other, tower in config.towers.items():
            overrides |= {} if tower.proj else doubled(config, f"{other}.width")
        overrides["width"] = 2 * config.width
    wide: Config = config.replace(**overrides)
    return wide


def grown_dimensions(model: nn.Module, wide: nn.Module) -> dict[str, set[int]]:
    """The dimensions of each parameter that are larger in the wider model; parameters without any are left out."""
    shapes = {name: value.shape for name, value, _ in owned(wide)}
    found = {name: {i for i, (a, b) in enumerate(zip(value.shape, shapes[name], strict=True)) if b > a}
             for name, value, _ in owned(model)}  # fmt: skip
    return {name: dimensions for name, dimensions in found.items() if dimensions}


def input_dimension(owner: nn.Module) -> int | None:
    """The dimension that a layer's weight is summed over, None for parameters of other modules."""
    if isinstance(owner, nn.modules.conv._ConvTransposeNd):
        return 0
    return 1 if isinstance(owner, nn.Linear | nn.modules.conv._ConvNd | nn.RNNBase) else None


def scale_of(name: str, owner: nn.Module, value: nn.Parameter, grown: Growth, ratios: dict[str, float]) -> MupScale:
    """The factors of one parameter by its kind. A depthwise convolution sums over no size that grows: an input.

    `init_falls_with_width` of a module names parameters that begin with a standard deviation of width ** -0.5 and are
    inputs, so that muP takes that factor back.
    """
    own = {field: found[name] for field, found in grown.items() if name in found}
    dimension = input_dimension(owner)
    if own and name.rpartition(".")[2] in getattr(owner, "init_falls_with_width", ()):
        return MupScale("input", 1.0, max(ratios[field] for field in own) ** 0.5)
    if value.ndim < 2 or isinstance(owner, nn.Embedding) or not own:
        return UNCHANGED
    if dimension is None:
        fields = [field for field, dimensions in own.items() if len(dimensions) > 1]
        return MupScale("hidden", 1 / max(map(ratios.__getitem__, fields)), 1.0) if fields else UNCHANGED
    fields = [field for field, dimensions in own.items() if dimension in dimensions]
    if not fields:
        return UNCHANGED
    ratio = max(map(ratios.__getitem__, fields))
    if any(dimensions - {dimension} for dimensions in own.values()):
        return MupScale("hidden", 1 / ratio, 1.0)
    return MupScale("output", 1 / ratio, ratio**-0.5)


# --- Factors within a forward pass, and shared embeddings -------------------------------------------------------------


def undo_factors(scales: dict[str, MupScale], own: nn.Module, wide: nn.Module, ratio: float) -> None:
    """Make up for factors of embeddings and scores that a model itself derives from its width."""
    modules = dict(wide.named_modules())
    for path, module in own.named_modules():
        if not isinstance(module, TextEmbedding | LMHead):
            continue
        factor = own_factor(own, wide, path, ratio)
        start, layer = 1.0, "proj" if isinstance(module, LMHead) else "word"
        if isinstance(module, TextEmbedding) and isinstance(module.word, WordEmbedding) and module.word.std:
            start = ratio ** round(math.log2(modules[path].word.std / module.word.std), 6)
        name = f"{path}.{layer}.weight"
        if name in scales and (factor != 1 or start != 1):  # a shared one has another name
            role, lr, init = scales[name]
            scales[name] = MupScale(role, lr / factor, init / factor / start)


def scale_shared(scales: dict[str, MupScale], shared: str, output: float, norm: list[str], new: set[str]) -> None:
    """Give the norm before an output layer that shares the embedding `shared` the factor of the layer, `output`.

    Where the gain of the norm is loaded from a file and keeps its value, the embedding has the lower of its two rates.
    """
    role, lr, init = scales[shared]
    if new.issuperset(norm):
        scales |= dict.fromkeys(norm, MupScale("output", output / lr, output / lr))
    else:
        scales[shared] = MupScale(role, min(lr, output), init)


def own_factor(own: nn.Module, wide: nn.Module, path: str, ratio: float) -> float:
    """The factor `scale` of a module of a model over that at the base width: a power of the width."""
    here, there = (float(model.get_submodule(path).scale) for model in (own, wide))  # type: ignore[arg-type]
    return ratio ** round(math.log2(there / here), 6)


def shared_embedding(model: nn.Module, head: LMHead) -> str | None:
    """The name of the embedding whose weight an output layer shares."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    if id(head.proj.weight) not in tables:
        return None
    return next(name for name, value, _ in owned(model) if value is head.proj.weight)


def norm_before(model: nn.Module, path: str) -> list[str]:
    """The names of the gain and the bias of the norm before an output layer. Raises ValueError if there is none."""
    stem = path.removesuffix("head")
    stacks = [f"{stem}{side}blocks" for side in ("", "decoder.")]
    modules = dict(model.named_modules())
    if isinstance(modules[path], MaskedLMHead):
        norm = f"{path}.norm"
    else:
        place = next((name for name in stacks if isinstance(modules.get(name), Stack)), "")
        stack = modules.get(place)
        norm = f"{place}.norm"
        if isinstance(stack, Stack) and stack.norm is None and stack[-1].order == "post":
            norm = f"{place}.{len(stack) - 1}.norm2"
    if modules.get(norm) is None:
        raise ValueError(f"mup=true: {path} shares the word embeddings, and no norm stands before it that could take "
                         "its factor; set tie_word_embeddings=false")  # fmt: skip
    return [f"{norm}.{name}" for name, _ in modules[norm].named_parameters(recurse=False)]
