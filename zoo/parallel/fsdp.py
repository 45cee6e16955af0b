"""FSDP2 and DDP: each block is a unit, and all other parameters form another."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from zoo.parallel.config import PlanSettings
from zoo.parallel.shards import is_sharded

_BLOCK = re.compile(r"(?:^|\.)blocks\.\d+$")
_KEEP_WHOLE: WeakSet[nn.Module] = WeakSet()
_IN_FORWARD: WeakSet[nn.Module] = WeakSet()  # models whose `forward` or `encode` runs
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def shard(model: nn.Module, mesh: DeviceMesh, plan: PlanSettings | None = None) -> nn.Module:
    """Shard a model's parameters over a mesh, in place; no effect if it is sharded already.

    Args:
        mesh: One dimension; or two, copies and the processes that share each of them (HSDP).
        plan: Its mixed precision and CPU offload are used.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if isinstance(model, FSDPModule):
        return model
    make_vectors(model)
    divided = is_sharded(model.parameters())  # by tensor parallelism
    options = {} if plan is None else fsdp_options(plan)
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh, **options | inner_policy(options))
    fully_shard(model, mesh=mesh, **options)
    if not divided:
        _KEEP_WHOLE.add(model)
    register_encode_methods(model)
    return model


def fsdp_options(plan: PlanSettings) -> dict[str, Any]:
    """Mixed precision and CPU offload of a plan, as arguments of `fully_shard`."""
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy

    options: dict[str, Any] = {}
    if plan.mixed_precision is not None:
        options["mp_policy"] = MixedPrecisionPolicy(_DTYPES[plan.mixed_precision], torch.float32)
    if plan.cpu_offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=torch.cuda.is_available())
    return options


def inner_policy(options: dict[str, Any]) -> dict[str, Any]:
    """The mixed precision of blocks: their inputs are of the right dtype, or float32 for its precision, as tables of
    rotary positions. FSDP2 would cast these in the forward pass, but not where it is recomputed."""
    policy = options.get("mp_policy")
    return {} if policy is None else {"mp_policy": replace(policy, cast_forward_inputs=False)}


def replicate(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Average gradients over a mesh of one dimension, in place (DDP); no effect if it was done already.

    Unlike `DistributedDataParallel` this takes parameters that tensor parallelism has divided, and those without a
    gradient.
    """
    from torch.distributed._composable.replicate_with_fsdp import ReplicateModule
    from torch.distributed._composable.replicate_with_fsdp import replicate as average

    if not isinstance(model, ReplicateModule):
        make_vectors(model)
        divided = is_sharded(model.parameters())  # by tensor parallelism
        for module in (*blocks_of(model), model):
            average(module, mesh=mesh)
        if not divided:
            _KEEP_WHOLE.add(model)
        register_encode_methods(model)
    return model


def keeps_whole(model: nn.Module) -> bool:
    """Whether the parameters outside of blocks are whole between `encode` and the backward pass, as FSDP2 leaves those
    of the outermost module: after `shard` and `replicate` of a model that tensor parallelism has not divided."""
    return model in _KEEP_WHOLE


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Hold what `shard` and `replicate` divide whole in every process; no effect on other models.

    Within the block a process computes without the others: they may write texts of other lengths. All of them enter it,
    after a forward of the whole model.
    """
    from torch.distributed._composable.replicate_with_fsdp import ReplicateModule
    from torch.distributed.fsdp import FSDPModule

    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    # Copies, and what does not lie in another part, stay whole after a forward anyway.
    freed = [part for part in parts if part is not model and not isinstance(part, ReplicateModule)]
    with torch.inference_mode(False):
        for part in parts:
            part.unshard()
    for part in freed:
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in freed:
            part.set_reshard_after_forward(True, recurse=False)
        for part in parts:
            part.reshard()


def make_vectors(model: nn.Module) -> None:
    """Replace scalar parameters, which FSDP2 does not take, by vectors of one element, which load from scalars."""
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            if value.ndim == 0:
                setattr(module, name, nn.Parameter(value.detach().reshape(1), value.requires_grad))


def register_encode_methods(model: nn.Module) -> None:
    """Let the `encode_methods` of a model gather its parameters first.

    Where `forward` calls one of them, it gathers nothing: the hooks of FSDP2, entered twice, would free the parameters
    outside of blocks after `forward`, and the backward pass would gather them again.
    """
    from torch.distributed.fsdp import register_fsdp_forward_method

    for name in encode_methods(model):
        plain = getattr(model, name)
        register_fsdp_forward_method(model, name)
        setattr(model, name, _outermost(model, plain, getattr(model, name)))
    model.register_forward_pre_hook(lambda module, args: _IN_FORWARD.add(module))
    model.register_forward_hook(lambda module, args, y: _IN_FORWARD.discard(module), always_call=True)


def _outermost(model: nn.Module, plain: Callable[..., Any], gathering: Callable[..., Any]) -> Callable[..., Any]:
    """A method that gathers the parameters of a model unless it is called within another one that has. Without
    gradients it always does: then `forward` has to free them, since no backward pass will."""

    @wraps(plain)
    def method(*args: Any, **options: Any) -> Any:
        if model in _IN_FORWARD:
            return (plain if torch.is_grad_enabled() else gathering)(*args, **options)
        _IN_FORWARD.add(model)
        try:
            return gathering(*args, **options)
        finally:
            _IN_FORWARD.discard(model)

    return method


def encode_methods(model: nn.Module) -> list[str]:
    """The names of the methods beside `forward` that compute with the parameters of a model."""
    return [name for name in dir(type(model)) if name == "encode" or name.startswith("encode_")]


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of all stacks, by name."""
    return [module for name, module in model.named_modules() if _BLOCK.search(name)]
