"""A model whose blocks are in several processes, the stages of a pipeline: the whole of it, and who has what."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from zoo.models.base import Model
from zoo.models.registry import build, family

COPIED = ("variant", "preprocess", "labels", "temperature", "load_report", "extra_files", "other_files")


def whole_model(part: Model, device: str = "meta") -> Model:
    """The whole model of a stage, or of a sharded one: without values, with what it has beside its weights."""
    whole = build(family(part.family), part.config, device)
    for name in COPIED:
        setattr(whole, name, getattr(part, name))
    return whole


def with_others(own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """(tensors of all processes, those of others without values, by name; the first process that has each of them).

    own: of this process. All processes call this.
    """
    described: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(described, {name: (tuple(x.shape), x.dtype) for name, x in own.items()})
    tensors, holders = dict[str, Tensor](), dict[str, int]()
    for rank, found in enumerate(described):
        for name, (shape, dtype) in found.items():
            holders.setdefault(name, rank)
            tensors[name] = own[name] if name in own else torch.empty(shape, dtype=dtype, device="meta")
    return tensors, holders
