"""Rows that several processes hold, each a part of: gathered forwards, their gradients summed backwards."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

Group = dist.ProcessGroup | Literal["local"] | None


@dataclass(frozen=True)
class Place:
    """Which rows of the whole batch are this process's: `sizes[rank]` of them from `start` on."""

    sizes: tuple[int, ...]
    rank: int
    group: dist.ProcessGroup | None

    @property
    def total(self) -> int:
        """Rows of all processes."""
        return sum(self.sizes)

    @property
    def start(self) -> int:
        """Rows of the processes before this one."""
        return sum(self.sizes[: self.rank])

    @property
    def alone(self) -> bool:
        return len(self.sizes) == 1

    def reduce(self, x: Tensor, how: Any = dist.ReduceOp.SUM) -> Tensor:
        """`x` summed, or whatever `how` says, over the processes."""
        if self.alone:
            return x
        x = x.clone()
        dist.all_reduce(x, how, group=self.group)
        return x


def place(rows: int, device: torch.device, group: Group) -> Place:
    """Ask all processes of the group for their number of rows.

    Args:
        group: None takes all processes when torch.distributed runs; "local" takes this one alone.
    """
    if group == "local" or not (dist.is_available() and dist.is_initialized()):
        return Place((rows,), 0, None)
    assert not isinstance(group, str)
    world = dist.get_world_size(group)
    if world == 1:
        return Place((rows,), 0, None)
    sizes = [torch.empty(1, dtype=torch.int64, device=device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([rows], device=device), group=group)
    return Place(tuple(torch.cat(sizes).tolist()), dist.get_rank(group), group)


def gather(x: Tensor, where: Place) -> Tensor:
    """Rows [B, ...] of each process -> rows [N, ...] of all, in the order of their ranks.

    The gradient of a row is the sum of the gradients that it gets in all processes.
    """
    return x if where.alone else _Gather.apply(x, where)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, where: Place) -> Tensor:
        ctx.where = where
        most = max(where.sizes)
        padded = x.new_zeros(most, *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in where.sizes]
        dist.all_gather(parts, padded, group=where.group)
        return torch.cat([part[:size] for part, size in zip(parts, where.sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        where: Place = ctx.where
        most = max(where.sizes)
        sent = grad.new_zeros(len(where.sizes), most, *grad.shape[1:])
        for rank, part in enumerate(grad.split(where.sizes)):
            sent[rank, : len(part)] = part
        own = grad.new_empty(most, *grad.shape[1:])
        dist.reduce_scatter_tensor(own, sent.flatten(0, 1), group=where.group)
        return own[: where.sizes[where.rank]], None
