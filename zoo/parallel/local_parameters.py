"""Modules whose parameters are distributed tensors, and that compute with this process's part of them.

The parameters keep their names and are DTensors, which optimizers, the clipping of gradients, FSDP2 and distributed
checkpoints know. Code that reads `module.weight` gets a plain tensor, so models need not know of the division.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from zoo.parallel.collectives import all_reduce


@dataclass(frozen=True)
class Division:
    """What a process holds of a parameter, and what it computes with.

    dim: the dimension of which a process computes with a part; None: with all. stored: whether it holds that part
    alone; else it holds all. summed: whether the gradients of the processes are parts of a sum; else they are the same.
    start, size: the part along `dim`.
    """

    dim: int | None = None
    stored: bool = False
    summed: bool = False
    start: int = 0
    size: int = 0


WHOLE, SUMMED = Division(), Division(summed=True)


def part_of(count: int, ranks: int, rank: int) -> tuple[int, int]:
    """(start, size) of the part of `count` rows that a process holds, as torch.chunk and DTensor divide them."""
    most = -(-count // ranks)
    start = min(rank * most, count)
    return start, min(most, count - start)


def distribute(value: nn.Parameter, division: Division, mesh: DeviceMesh) -> nn.Parameter:
    """A parameter, equal in all processes of a mesh of one dimension, as a DTensor with what this process holds."""
    local = value.detach()
    placement: Placement = Replicate()
    if division.stored:
        assert division.dim is not None
        local, placement = local.narrow(division.dim, division.start, division.size).clone(), Shard(division.dim)
    whole = DTensor.from_local(local, mesh, [placement], run_check=False, shape=value.shape, stride=value.stride())
    return nn.Parameter(whole, value.requires_grad)


class _Summed(torch.autograd.Function):
    """What a process computes with of a parameter that all hold, and whose gradient is a sum over the processes."""

    @staticmethod
    def forward(ctx: Any, value: DTensor, division: Division) -> Tensor:
        ctx.mesh, ctx.shape, ctx.stride, ctx.division = value.device_mesh, value.shape, value.stride(), division
        local = value._local_tensor.detach()
        return local if division.dim is None else local.narrow(division.dim, division.start, division.size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        division = ctx.division
        if division.dim is not None:
            part, grad = grad, grad.new_zeros(ctx.shape)
            grad.narrow(division.dim, division.start, division.size).copy_(part)
        grad = all_reduce(grad, ctx.mesh.get_group())
        return DTensor.from_local(
            grad, ctx.mesh, [Replicate()], run_check=False, shape=ctx.shape, stride=ctx.stride
        ), None


def local_value(module: nn.Module, name: str) -> Tensor | None:
    """This process's part of a parameter, or all of it, as a plain tensor; what FSDP2 has sharded, as it is."""
    value: Any = module._parameters[name]
    if not isinstance(value, DTensor) or value.device_mesh.ndim > 1:
        return value
    division: Division = module.divisions[name]  # type: ignore[index,assignment]
    return _Summed.apply(value, division) if division.summed else value.to_local()


def _reader(name: str) -> Any:
    return property(lambda module: local_value(module, name))


@cache
def _class_with(cls: Any, mixin: Any, names: tuple[str, ...]) -> type:
    bases = (cls,) if mixin is None else (mixin, cls)
    own = {"__module__": cls.__module__, "__qualname__": cls.__qualname__} | {name: _reader(name) for name in names}
    return type(cls.__name__, bases, own)


def convert(module: nn.Module, divisions: dict[str, Division], mixin: type | None = None, **attributes: Any) -> None:
    """Let a module compute with its part of its own parameters, and in the way of `mixin`, in place."""
    cls: Any = type(module)
    names = tuple(name for name, value in module._parameters.items() if value is not None)
    for name, value in attributes.items():
        setattr(module, name, value)
    if names or mixin is not None:
        module.divisions = divisions  # type: ignore[assignment]
        module.__class__ = _class_with(cls, mixin, names)
