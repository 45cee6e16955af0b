"""What a text model costs at a length with each attention kind and mixer: FLOPs, activations, cache for decoding."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.inference.cost import (
    PeakMemory,
    ScalarsAreTrue,
    counted_flops,
    empty_batch,
    fused,
    state_bytes,
    without_gradients,
)
from zoo.models.base import Model
from zoo.models.bridge.model import Bridge
from zoo.models.config import Config
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.family import Family
from zoo.models.registry import build, family, find_variant, with_overrides
from zoo.nn.registry import CORES, MIXERS


@dataclass(frozen=True)
class KindCost:
    """The cost of a model with one attention kind or mixer in all layers, at one batch size and length.

    argument: of a model, "attention" or "mixer". flops: of the products in one forward pass; a multiply-add counts as
    two. inference_bytes: peak of the activations of a forward pass without gradients. saved_bytes: activations that a
    training step keeps for its backward pass. cache_bytes: the cache for decoding after all tokens; None for a model
    that does not generate. Weights count nowhere. refused: why the model does not run with this kind; the rest is 0.
    """

    name: str
    argument: str
    flops: int = 0
    inference_bytes: int = 0
    saved_bytes: int = 0
    cache_bytes: int | None = None
    refused: str = ""


def cost_by_kind(
    model: Model | str, length: int, batch: int = 1, *, names: Sequence[str] | None = None, **overrides: Any
) -> list[KindCost]:
    """The cost of a text model with each attention kind and mixer, from shapes alone: no weights are created.

    model: a name with `overrides` of its config, or a model. length: tokens of each row; the maximum length of the
    config is raised to it. names: of kinds and mixers; default is all that are registered. Raises ValueError for an
    unknown name, and for a model that takes no text.
    """
    if isinstance(model, str):
        found = find_variant(model)
        config = with_overrides(found, found.config(**found.variants[model]), overrides)
    elif overrides:
        raise ValueError(f"{', '.join(overrides)}: a model has its config already: pass its name instead")
    else:
        found, config = family(model.family), model.config
    if length < 1 or batch < 1:
        raise ValueError(f"length={length}, batch={batch}: expected at least 1")
    config = long_enough(config, length)
    empty_batch(build(found, config, "meta"), batch, length)  # raises ValueError for a model without texts
    for name in names or ():
        if name not in CORES and name not in MIXERS:
            raise ValueError(f"unknown kind {name!r}: expected one of {', '.join([*CORES, *MIXERS])}")
    return [kind_cost(found, config, name, batch, length) for name in names or [*CORES, *MIXERS]]


def long_enough(config: Config, length: int) -> Config:
    """The config with a maximum length of `length` tokens, if its own is smaller."""
    short = "max_length" in config.names() and config.max_length < length
    return config.replace(max_length=length) if short else config


def fitting(model: Model, length: int) -> Model:
    """The model, or if it takes fewer than `length` tokens one of its config that takes them, on the meta device."""
    config = long_enough(model.config, length)
    return model if config is model.config else build(family(model.family), config, "meta")


def kind_cost(found: Family, config: Config, name: str, batch: int, length: int) -> KindCost:
    """The cost with one kind in all layers."""
    argument = "attention" if name in CORES else "mixer"
    try:
        own = config.replace(**{"mixer": None, argument: name})
        depth = getattr(own, "depth", 0)
        if depth <= 3 or own.pruned_heads:
            return KindCost(name, argument, *count(build(found, own, "meta"), batch, length))
        # all layers are alike, unless heads were removed: what the third adds, each further one adds
        two, three = (count(build(found, own.replace(depth=layers), "meta"), batch, length) for layers in (2, 3))
    except ValueError as error:
        return KindCost(name, argument, refused=str(error))
    parts = (None if a is None or b is None else a + (depth - 2) * (b - a) for a, b in zip(two, three, strict=True))
    return KindCost(name, argument, *parts)  # type: ignore[arg-type]


def count(model: Model, batch: int, length: int) -> tuple[int, int, int, int | None]:
    """(flops, inference_bytes, saved_bytes, cache_bytes) of a model on the meta device."""
    inputs = empty_batch(model, batch, length)
    existing = [*model.parameters(), *model.buffers(), *inputs.values()]
    model.eval()
    with without_gradients(model), fused(), counted_flops() as flops, PeakMemory(existing) as inference:
        model(**inputs)
    saved = SavedTensors(existing)
    with ScalarsAreTrue(), fused(), saved:
        output = model.train()(**inputs)
    del output
    return flops[0], inference.peak, saved.bytes, cache_bytes(model.eval(), inputs)


def cache_bytes(model: Any, inputs: dict[str, Tensor]) -> int | None:
    """The memory of the cache for decoding after all tokens of `inputs`; None for a model that does not generate."""
    if getattr(model.config, "head", None) != "lm" or not hasattr(model, "decode"):
        return None
    ids = inputs["input_ids"]
    with torch.no_grad(), ScalarsAreTrue(), fused():
        if isinstance(model, EncoderDecoder):
            state: Any = model.start_decoding(inputs, ids.shape[1])
            model.decode(inputs.get("decoder_input_ids", ids), state)
        elif isinstance(model, Bridge):
            state = model.start_decoding(model.encoder_inputs(inputs), *ids.shape)
            model.decode(ids, state)
        else:
            state = model.new_state(*ids.shape)
            model.decode(ids, state)
    return state_bytes(state)


class SavedTensors(torch.autograd.graph.saved_tensors_hooks):
    """Context that sums the memory of what the backward pass of its operations will read, in bytes.

    existing: tensors that do not count, such as weights.
    """

    def __init__(self, existing: Iterable[Tensor]) -> None:
        self.known = {t.untyped_storage()._cdata for t in existing}
        self.kept: list[torch.UntypedStorage] = []  # so that no other storage gets the address of one
        self.bytes = 0
        super().__init__(self.pack, lambda t: t)

    def pack(self, t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.kept.append(storage)
            self.bytes += storage.nbytes()
        return t
