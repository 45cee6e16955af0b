"""Exchanges between the processes that divide a model, each with the gradient that belongs to it.

Where processes hold the same value, the gradient of it that each of them computes is either the same, or its own part
of a sum; the names say which of both goes in and comes out.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

_ops = torch.ops._c10d_functional  # those that torch.compile traces, and that `CommDebugMode` counts


def all_reduce(x: Tensor, group: dist.ProcessGroup, op: str = "sum") -> Tensor:
    """The sum (or "max") of x over the processes, without a gradient."""
    return _ops.wait_tensor(_ops.all_reduce(x.contiguous(), op, group.group_name))


def all_gather(x: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
    """The equally large parts x of all processes, one behind the other along `dim`, without a gradient."""
    size = group.size()
    parts = _ops.wait_tensor(_ops.all_gather_into_tensor(x.contiguous(), size, group.group_name))  # along dimension 0
    return parts if dim == 0 else torch.cat(parts.chunk(size), dim)


def reduce_scatter(x: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
    """This process's part, along `dim`, of the sum of x over the processes, without a gradient."""
    size = group.size()
    parts = x if dim == 0 else torch.cat(x.chunk(size, dim))
    return _ops.wait_tensor(_ops.reduce_scatter_tensor(parts.contiguous(), "sum", size, group.group_name))


def own_part(x: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
    """This process's equal part of x along `dim`."""
    return x.chunk(group.size(), dim)[group.rank()]


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return all_reduce(grad, ctx.group), None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        return all_reduce(x, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, dim: int, summed: bool) -> Tensor:
        ctx.group, ctx.dim, ctx.summed = group, dim, summed
        return all_gather(x, group, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        own = reduce_scatter if ctx.summed else own_part
        return own(grad, ctx.group, ctx.dim), None, None, None


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, dim: int, summed: bool) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return (reduce_scatter if summed else own_part)(x, group, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return all_gather(grad, ctx.group, ctx.dim), None, None, None


def enter(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """x, the same in all processes, for a computation that they divide: its gradients are summed."""
    return _Enter.apply(x, group)


def leave(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum of the parts x of a result, the same in all processes, whose gradients are the same, too."""
    return _Leave.apply(x, group)


def join(x: Tensor, group: dist.ProcessGroup, dim: int = 1) -> Tensor:
    """All parts x of a value along `dim`, for what all processes compute alike."""
    return _Join.apply(x, group, dim, False)


def split(x: Tensor, group: dist.ProcessGroup, dim: int = 1) -> Tensor:
    """This process's part along `dim` of x, which all processes have computed alike."""
    return _Split.apply(x, group, dim, False)


def join_and_enter(x: Tensor, group: dist.ProcessGroup, dim: int = 1) -> Tensor:
    """All parts x of a value along `dim`, for a computation that the processes divide: its gradients are summed."""
    return _Join.apply(x, group, dim, True)


def leave_and_split(x: Tensor, group: dist.ProcessGroup, dim: int = 1) -> Tensor:
    """This process's part along `dim` of the sum of the parts x of a result."""
    return _Split.apply(x, group, dim, True)


def pad_tokens(x: Tensor, tokens: int) -> Tensor:
    """[B, N, D] -> [B, tokens, D], with zeros behind."""
    return x if x.shape[1] == tokens else F.pad(x, (0, 0, 0, tokens - x.shape[1]))
