"""`zoo.to_gqa`: turn multi-head attention into grouped-query attention by averaging heads."""

import copy
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoints.save import checked_state
from zoo.models.base import Model
from zoo.models.load_report import LoadReport
from zoo.models.mapping.tensors import tie, tied_names
from zoo.models.registry import build, family
from zoo.nn.attention import Attention
from zoo.nn.block import Block


def to_gqa(model: Model, kv_heads: int) -> Model:
    """A copy of a model whose query heads share `kv_heads` key and value heads, averaged over those of each group.

        small = zoo.to_gqa(model, kv_heads=2)

    The cache of a decoder shrinks by heads / kv_heads; the outputs change, so fine-tune the copy for a part (the paper:
    5 %) of the training. With the number of heads that the model has, the outputs are equal. A model that has groups
    already gets larger ones. All other weights, labels, temperature and preprocessing are those of the model; its
    `load_report` lists the averaged tensors as resampled. Source: Ainslie et al. 2023, https://arxiv.org/abs/2305.13245.

    Raises: ValueError for a family without `kv_heads` in its config, several towers, cross-attention, layers without
        attention only, a number that does not divide that of the heads, adapters, and models after `zoo.optimize`.
    """
    state = checked_state(model)  # before anything else: adapters and optimized models have other tensors
    check_family(model)
    config: Any = model.config
    old = config.kv_heads or config.heads
    if isinstance(kv_heads, bool) or not isinstance(kv_heads, int) or kv_heads < 1 or old % kv_heads:
        raise ValueError(f"kv_heads={kv_heads!r}: the model has {old} key and value heads, which are averaged in equal "
                         f"groups; expected a divisor of {old}")  # fmt: skip
    new = build(family(model.family), config.replace(kv_heads=kv_heads))
    averaged = [f"{path}.{part}.{name}" for path, module in new.named_modules() if isinstance(module, Attention)
                for part in ("k", "v") for name, _ in getattr(module, part).named_parameters()]  # fmt: skip
    sizes = {name: tensor.shape for name, tensor in new.state_dict().items()}
    tensors = {name: average(tensor, kv_heads, old) if name in averaged else tensor.clone()
               for name, tensor in state.items()}  # fmt: skip
    if odd := [name for name, tensor in tensors.items() if tensor.shape != sizes[name]]:
        raise ValueError(
            f"{odd[0]} has the shape {list(tensors[odd[0]].shape)} for {old} key and value heads and "
            f"{list(sizes[odd[0]])} for {kv_heads}: only the projections of keys and values can be averaged, so the "
            f"model needs another attention kind, such as softmax"
        )
    tied = tied_names(new)
    new.load_state_dict(tensors | {name: tensors[other] for name, other in tied.items()}, assign=True)
    tie(new, tied)
    copy_attributes(model, new)
    new.load_report = report_of(model, [] if kv_heads == old else averaged, tensors, old, kv_heads)
    return new


def average(tensor: Tensor, groups: int, heads: int) -> Tensor:
    """Weight [heads * P, D] or bias [heads * P] -> [groups * P, ...]: the mean of the heads of each group."""
    if groups == heads:
        return tensor.clone()
    exact = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return exact.unflatten(0, (groups, heads // groups, -1)).mean(1).flatten(0, 1).to(tensor.dtype)


def check_family(model: Model) -> None:
    """Raise ValueError for a model whose key and value heads cannot be averaged."""
    if model.config.pruned_heads:
        raise ValueError("heads were removed from this model (pruned_heads), so its layers have different numbers of "
                         "them: convert the whole model, and remove heads after that")  # fmt: skip
    if model.config.parts:
        raise ValueError(f"a {model.family} model has several towers ({', '.join(model.config.parts)}): convert a "
                         f"model of one tower, and combine it with others by zoo.contrast")  # fmt: skip
    if "kv_heads" not in model.config.names():
        raise ValueError(f"{model.family} has no kv_heads in its config, so its query heads cannot share keys and "
                         f"values")  # fmt: skip
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if any(block.cross is not None for block in blocks):
        raise ValueError(f"this {model.family} model has cross-attention, whose heads are not converted: expected an "
                         f"encoder or a decoder alone, such as bert or llama")  # fmt: skip
    if not any(isinstance(block.mixer, Attention) for block in blocks):
        raise ValueError(f"this {model.family} model has no attention layers, only mixers, which have no key and value "
                         f"heads to average")  # fmt: skip


def copy_attributes(model: Model, new: Model) -> None:
    """Give `new` what `model` has besides weights: labels, preprocessing, mode, and which parameters are frozen."""
    for name in ("variant", "extra_files", "other_files", "drop_padding"):
        setattr(new, name, getattr(model, name))
    new.labels, new.temperature, new.preprocess = model.labels, model.temperature, copy.copy(model.preprocess)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(name not in frozen)
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in new.named_modules():
        module.training = modes[name]


def report_of(model: Model, averaged: list[str], tensors: dict[str, Tensor], old: int, kv_heads: int) -> LoadReport:
    """What became of each tensor."""
    names = [name for name in averaged if name in tensors]
    source = getattr(model.load_report, "source", "") or model.variant or model.family
    report = LoadReport(source, mapped=[name for name in tensors if name not in names], resampled=names)
    if names:
        report.notes.append(f"{old} key and value heads were averaged to {kv_heads} in "
                            f"{len({name.rsplit('.', 2)[0] for name in names})} layers")  # fmt: skip
    return report
