"""Differentiable all-gather of a batch that is split over processes; gradients are summed over processes."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from zoo.utils.distributed import in_group

Group = dist.ProcessGroup | Literal["local"] | None


@dataclass(frozen=True)
class BatchShard:
    """The rows of the global batch that this process holds: `sizes[rank]` rows from `start` on."""

    sizes: tuple[int, ...]
    rank: int
    group: dist.ProcessGroup | None

    @property
    def total(self) -> int:
        """Number of rows of all processes."""
        return sum(self.sizes)

    @property
    def start(self) -> int:
        """Number of rows of the processes before this one."""
        return sum(self.sizes[: self.rank])

    @property
    def is_single(self) -> bool:
        return len(self.sizes) == 1

    def reduce(self, x: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """All-reduce `x` over the processes: the sum, or another operation `op`."""
        if self.is_single:
            return x
        x = x.clone()
        dist.all_reduce(x, op, group=self.group)
        return x


def batch_shard(rows: int, device: torch.device, group: Group) -> BatchShard:
    """Exchange the number of rows of each process of the group.

    Args:
        group: None for all processes when torch.distributed is initialized; "local" for this process alone.
    """
    if group == "local" or not in_group():
        return BatchShard((rows,), 0, None)
    assert not isinstance(group, str)
    world = dist.get_world_size(group)
    if world == 1:
        return BatchShard((rows,), 0, None)
    sizes = [torch.empty(1, dtype=torch.int64, device=device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([rows], device=device), group=group)
    return BatchShard(tuple(torch.cat(sizes).tolist()), dist.get_rank(group), group)


def gather(x: Tensor, shard: BatchShard) -> Tensor:
    """Gather rows [B, ...] of each process to rows [N, ...] of all, in order of rank.

    The gradient of a row is the sum of its gradients in all processes.
    """
    return x if shard.is_single else _Gather.apply(x, shard)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shard: BatchShard) -> Tensor:
        ctx.shard = shard
        longest = max(shard.sizes)
        padded = x.new_zeros(longest, *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in shard.sizes]
        dist.all_gather(parts, padded, group=shard.group)
        return torch.cat([part[:size] for part, size in zip(parts, shard.sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        shard: BatchShard = ctx.shard
        longest = max(shard.sizes)
        sent = grad.new_zeros(len(shard.sizes), longest, *grad.shape[1:])
        for rank, part in enumerate(grad.split(shard.sizes)):
            sent[rank, : len(part)] = part
        own = grad.new_empty(longest, *grad.shape[1:])
        dist.reduce_scatter_tensor(own, sent.flatten(0, 1), group=shard.group)
        return own[: shard.sizes[shard.rank]], None
