"""FSDP2: each block is a unit, and all other parameters form another."""

import re

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

_BLOCK = re.compile(r"(?:^|\.)blocks\.\d+$")


def shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard a model's parameters over a one-dimensional mesh, in place; no effect if it is sharded already."""
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    if isinstance(model, FSDPModule):
        return model
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            if value.ndim == 0:  # scalars cannot be sharded; torch loads a vector of one element as a scalar, too
                setattr(module, name, nn.Parameter(value.detach().reshape(1), value.requires_grad))
    for name, module in list(model.named_modules()):
        if _BLOCK.search(name):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in dir(model):
        if method == "encode" or method.startswith("encode_"):
            register_fsdp_forward_method(model, method)
    return model
