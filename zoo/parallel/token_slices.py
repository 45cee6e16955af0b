"""The tokens of a sequence, divided over the processes of a group: slices, and their exchange with gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from zoo.nn.losses.all_gather import BatchShard, gather
from zoo.nn.losses.cross_entropy import IGNORED


@dataclass(frozen=True, eq=False)
class TokenSlices:
    """Contiguous slices of the tokens of a sequence, one for each process of a group, in the order of their ranks.

    The lengths differ by one token at most, so that sequences of any length are divided without padding; the first
    slices are the longer ones.

    Attributes:
        group: The processes that divide a sequence.
        rank: This process in the group.
        ranks: Number of processes in the group.
    """

    group: dist.ProcessGroup
    rank: int
    ranks: int

    @classmethod
    def of(cls, group: dist.ProcessGroup) -> "TokenSlices":
        """The slices of a process group."""
        return cls(group, dist.get_rank(group), dist.get_world_size(group))

    def __deepcopy__(self, memo: Any) -> "TokenSlices":
        return self  # a copy of a model, such as its moving average, is divided over the same processes

    def sizes(self, tokens: int) -> list[int]:
        """Number of tokens of each process. Raises ValueError for fewer tokens than processes."""
        if tokens < self.ranks:
            raise ValueError(
                f"a sequence of {tokens} tokens cannot be divided over context={self.ranks} processes: each needs a "
                f"token, so choose context={tokens} or less, or longer sequences"
            )
        each, more = divmod(tokens, self.ranks)
        return [each + (rank < more) for rank in range(self.ranks)]

    def part(self, tokens: int) -> slice:
        """The tokens of this process among those of a sequence."""
        sizes = self.sizes(tokens)
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])

    def take(self, x: Tensor, dim: int = 1) -> Tensor:
        """The part of this process of a tensor with all tokens in dimension `dim`, such as labels [B, N]."""
        part = self.part(x.shape[dim])
        return x.narrow(dim, part.start, part.stop - part.start)

    def gather(self, x: Tensor, tokens: int, dim: int = 1) -> Tensor:
        """All `tokens` of a sequence from the parts of the processes. The gradient of a part is the sum of its
        gradients in all processes."""
        shard = BatchShard(tuple(self.sizes(tokens)), self.rank, self.group)
        return gather(x.movedim(dim, 0), shard).movedim(0, dim)

    def sum(self, x: Tensor) -> Tensor:
        """The sum of `x` over the processes, without a gradient."""
        x = x.detach().clone()
        dist.all_reduce(x, group=self.group)
        return x

    def mean_loss(self, total: Tensor, count: Tensor) -> Tensor:
        """The loss of this process, from the sum of the losses of its tokens and their number.

        Its average over the processes is the mean over the tokens of all processes, and so are gradients that are
        averaged over the processes, as DDP and FSDP2 do.
        """
        return total * self.ranks / self.sum(count).clamp(min=1)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the tokens of all processes, see `mean_loss`.

        Args:
            logits: Those of the tokens of this process [B, n, V].
            labels: Those of all tokens [B, N]; -100 for tokens that are not predicted.
        """
        own = self.take(labels)
        if own.shape != logits.shape[:2]:
            raise ValueError(
                f"labels {list(labels.shape)} give {own.shape[1]} tokens to this process, but its logits are "
                f"{list(logits.shape)}: pass the labels of the whole sequence, shifted before they are divided"
            )
        total = F.cross_entropy(logits.flatten(0, 1), own.flatten(), ignore_index=IGNORED, reduction="sum")
        return self.mean_loss(total, (own != IGNORED).sum())

    def to_heads(self, parts: Sequence[Tensor], tokens: int) -> list[Tensor]:
        """All tokens of some heads from some tokens of all heads, for several tensors by one all-to-all.

        Args:
            parts: [B, H, n, P] of the tokens of this process, each with its own H and P; H a multiple of `ranks`.
            tokens: N, those of the sequence.

        Returns: [B, H / ranks, N, P] for each.
        """
        sizes, rows = self.sizes(tokens), parts[0].shape[0]
        split = [x.unflatten(1, (self.ranks, -1)).movedim(1, 0).flatten(1) for x in parts]  # R BhnP
        widths = [x.shape[1] // sizes[self.rank] for x in split]  # BhP
        sent = torch.cat(split, 1)
        received = exchange(
            sent.flatten(), [sent.shape[1]] * self.ranks, [size * sum(widths) for size in sizes], self.group
        )
        pieces = [
            piece.split([size * width for width in widths])
            for size, piece in zip(sizes, received.split([size * sum(widths) for size in sizes]), strict=True)
        ]
        return [
            torch.cat([one.view(rows, -1, size, x.shape[3]) for size, one in zip(sizes, own, strict=True)], 2)
            for x, own in zip(parts, zip(*pieces, strict=True), strict=True)
        ]

    def to_tokens(self, y: Tensor) -> Tensor:
        """The inverse of `to_heads` for one tensor: y [B, H / ranks, N, P] -> [B, H, n, P]."""
        rows, heads, tokens, width = y.shape
        sizes = self.sizes(tokens)
        sent = torch.cat([piece.reshape(-1) for piece in y.split(sizes, 2)])
        own = rows * heads * sizes[self.rank] * width
        received = exchange(sent, [rows * heads * size * width for size in sizes], [own] * self.ranks, self.group)
        return received.view(self.ranks, rows, heads, -1, width).movedim(0, 1).flatten(1, 2)


def exchange(x: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    """All-to-all of x [T], of which each process gets a run of numbers in order; the gradients go back."""
    y: Tensor = _Exchange.apply(x, sent, received, group)
    return y


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return all_to_all(x, sent, received, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return all_to_all(gradient, ctx.received, ctx.sent, ctx.group), None, None, None


def all_to_all(x: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    y = x.new_empty(sum(received))
    dist.all_to_all_single(y, x.contiguous(), received, sent, group=group)
    return y
