"""Loading straight into shards: each process reads its part of the weights, and none holds them all."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.models.base import Model
from zoo.models.load_report import LoadReport
from zoo.models.mapping.tensor_values import cast, is_cast, not_finite, usual_float_type
from zoo.models.mapping.tensors import tie, tied_names
from zoo.models.registry import build, family
from zoo.nn.init import has_rule, initialize
from zoo.parallel.shards import fill, together
from zoo.utils.errors import LoadError


def assign_shards(model: Model, tensors: Mapping[str, Tensor], report: LoadReport, dtype: torch.dtype | None,
                  device: torch.device, shard: Callable[[Model], Any]) -> None:  # fmt: skip
    """Shard a model that is on the meta device, and fill the part of this process; every process calls this.

    tensors: whole tensors, views of a memory-mapped file, of which only the pages of the part are read. The tensors
    that the report lists as initialized are computed as `zoo.load` computes them.
    """
    with together():
        usual, _, notes = usual_float_type(tensors)
        report.notes += [] if dtype else notes
        floats = dtype or usual or torch.get_default_dtype()
        tied, state = tied_names(model), model.state_dict()
        fresh = initial_values(model, set(report.initialized), floats)
        given = {**tensors, **fresh}
        blank = {
            name: torch.empty(state[name].shape, dtype=floats if is_cast(name, x) else x.dtype, device="meta")
            for name, x in given.items()
        }
        model.load_state_dict(blank | {name: blank[other] for name, other in tied.items()}, assign=True)
        tie(model, tied)
        check_buffers(model)
    shard(model)
    model.to_empty(device=device)
    if tied_names(model) != tied:  # only FSDP2 keeps ties, in its own way
        tie(model, tied)
    with together():
        for name, own in model.state_dict().items():
            if name in given:
                values = fill(own, lambda part, whole=given[name]: read_part(whole, part))  # type: ignore[misc]
                if values.is_floating_point() and (found := not_finite(values)):
                    raise LoadError(f"{report.source} does not fit the model: not usable {name} ({found})")


def read_part(tensor: Tensor, part: tuple[slice, ...]) -> Tensor:
    """A part of a tensor of the file: the only place where values are read."""
    return tensor[part] if tensor.ndim else tensor


def initial_values(model: Model, names: Collection[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """The initial values of tensors that a file does not have, on the CPU; no other tensor of the model is made."""
    if not names:
        return {}
    blank = with_custom_values(build(family(model.family), model.config), names)
    state = blank.state_dict()
    made = {name: torch.empty(x.shape, dtype=x.dtype) if x.is_meta else x for name, x in state.items() if name in names}
    blank.load_state_dict(made, strict=False, assign=True)
    initialize(blank, 0, only=set(names))
    state = blank.state_dict()
    return {name: cast(name, state[name], dtype) for name in names}


def with_custom_values(model: Model, names: Collection[str]) -> Model:
    """The model, or one built on the CPU if some of the names are of custom modules, which their constructors
    initialize."""
    if all(has_rule(model.get_submodule(name.rpartition(".")[0])) for name in names):
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(family(model.family), model.config, "cpu")


def check_buffers(model: Model) -> None:
    """Raise ValueError for a buffer on the meta device that no file has, because it is not in the state dict."""
    state = model.state_dict()
    if lost := [name for name, buffer in model.named_buffers() if buffer.is_meta and name not in state]:
        raise ValueError(
            f"the buffer {lost[0]} is not part of the state dict, so it cannot be loaded: register it as persistent"
        )
