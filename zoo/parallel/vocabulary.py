"""Embeddings and output layers whose vocabulary the processes divide, and the cross-entropy over its parts."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from zoo.nn.losses.cross_entropy import IGNORED, Reduction
from zoo.nn.losses.products import add_product, product_dtype
from zoo.parallel.collectives import all_gather, all_reduce, enter, leave


class VocabularyEmbedding(nn.Embedding):
    """Each process holds the rows of its part of the vocabulary."""

    tensor_group: dist.ProcessGroup
    divisions: dict[str, Any]

    def forward(self, ids: Tensor) -> Tensor:
        part = self.divisions["weight"]
        if ids.device.type == "cpu" and ids.numel() and (ids.min() < 0 or ids.max() >= self.num_embeddings):
            raise IndexError("index out of range")  # as of the whole table
        other = (ids < part.start) | (ids >= part.start + part.size)
        own = None if self.padding_idx is None else self.padding_idx - part.start
        own = None if own is None or not 0 <= own < part.size else own
        rows = F.embedding((ids - part.start).masked_fill(other, 0), self.weight, own)
        return leave(rows.masked_fill(other[..., None], 0.0), self.tensor_group)


class VocabularyLinear(nn.Linear):
    """Each process computes the scores of its part of the vocabulary; `forward` gathers those of all.

    `cross_entropy` does not gather them.
    """

    tensor_group: dist.ProcessGroup
    divisions: dict[str, Any]

    def forward(self, x: Tensor) -> Tensor:
        scores = F.linear(enter(x, self.tensor_group), self.weight, self.own_bias())
        return _GatherScores.apply(scores, self.out_features, self.divisions["weight"], self.tensor_group)

    def own_bias(self) -> Tensor | None:
        """The bias of this part of the vocabulary."""
        part = self.divisions["weight"]
        bias = self.bias
        return bias if bias is None or "bias" in self._parameters else bias[part.start : part.start + part.size]

    def cross_entropy(self, x: Tensor, labels: Tensor, reduction: Reduction = "mean", *,
                      label_smoothing: float = 0.0, ignore_index: int = IGNORED) -> Tensor:  # fmt: skip
        """As `F.cross_entropy(self(x), labels)` for x [T, D] and labels [T], with the scores of a chunk of tokens and
        this part of the vocabulary at a time; 0 for no labels with reduction "sum"."""
        group, keep, weight, bias = self.tensor_group, labels != ignore_index, self.weight, self.own_bias()
        targets = labels.masked_fill(~keep, 0) - self.divisions["weight"].start
        dtype = product_dtype(x, weight)
        goal = _Goal(targets, keep, group, self.out_features, label_smoothing, reduction, dtype)
        with torch.autocast(x.device.type, enabled=False):
            found: Tensor = _Losses.apply(enter(x, group), weight, bias, goal)
        return found / keep.sum() if reduction == "mean" else found


class _GatherScores(torch.autograd.Function):
    """Scores [..., v] of each process -> those of all [..., V]; their gradients are the same in all processes."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, total: int, part: Any, group: dist.ProcessGroup) -> Tensor:
        ctx.part = part
        most = -(-total // group.size())
        padded = F.pad(scores, (0, most - scores.shape[-1]))
        return all_gather(padded, group, padded.ndim - 1)[..., :total]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad.narrow(-1, ctx.part.start, ctx.part.size).contiguous(), None, None, None


@dataclass(frozen=True, eq=False)
class _Goal:
    """What tokens are to be predicted, of a vocabulary of `total` tokens that the processes of a group divide.

    targets [T]: the right tokens, counted from the first of this process. keep [T]: False for tokens that are not
    predicted. smoothing: the fraction of the target that is spread evenly over all tokens. dtype: of the products.
    entries: scores of a process that are computed at a time.
    """

    targets: Tensor
    keep: Tensor
    group: dist.ProcessGroup
    total: int
    smoothing: float
    reduction: Reduction
    dtype: torch.dtype
    entries: int = 1 << 24

    def losses_and_slope(self, scores: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """(losses [c], zero where `keep` is False; their derivatives by the scores [c, v]) of a chunk of tokens."""
        size, targets, keep = scores.shape[1], self.targets[part], self.keep[part]
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        maximum = scores.max(1).values if size else scores.new_full((len(scores),), -torch.inf)
        scores = scores - all_reduce(maximum, self.group, "max")[:, None]
        own = (targets >= 0) & (targets < size)
        at = targets.masked_fill(~own, 0)[:, None]
        exponentials = scores.exp()
        target = scores.gather(1, at)[:, 0].masked_fill(~own, 0.0)
        total, target, mean = all_reduce(
            torch.stack([exponentials.sum(1), target, scores.sum(1) / self.total]), self.group
        )
        goal = target + self.smoothing * (mean - target) if self.smoothing else target
        losses = (total.log() - goal) * keep
        slope = exponentials.div_(total[:, None])
        slope.scatter_add_(1, at, (own.to(slope.dtype) * (self.smoothing - 1.0))[:, None])
        if self.smoothing:
            slope -= self.smoothing / self.total
        return losses, slope * keep[:, None]


class _Losses(torch.autograd.Function):
    """(hidden [T, D], part of the weight [v, D] and of the bias [v]) -> losses [T], or their sum.

    The gradient of a loss by the scores is the same in all processes, that of the hidden states is a part of a sum. For
    the sum the gradients are computed at once, from the scores of a chunk of tokens while they are there.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, goal: "_Goal") -> Tensor:
        ctx.inputs, ctx.goal = (hidden, weight, bias), goal
        gradients = _Gradients(ctx.inputs, goal.dtype) if any(ctx.needs_input_grad) else None
        each = goal.reduction == "none"
        rows = len(hidden) if each else max(1, goal.entries // max(1, len(weight)))
        losses = []
        for start in range(0, max(1, len(hidden)), max(1, rows)):
            part = slice(start, start + rows)
            x = hidden[part].to(goal.dtype)
            scores = F.linear(x, weight.to(goal.dtype), None if bias is None else bias.to(goal.dtype))
            found, slope = goal.losses_and_slope(scores, part)
            losses.append(found)
            if gradients is not None and not each:
                gradients.add(part, x, slope)
            ctx.slope = slope if each else None
        ctx.gradients = gradients
        return torch.cat(losses) if each else torch.cat(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients
        if ctx.slope is not None:
            everything = slice(0, len(ctx.slope))
            gradients.add(everything, ctx.inputs[0].to(ctx.goal.dtype), ctx.slope * grad[:, None])
            grad = grad.new_ones(())
        found = [None if g is None else (g * grad).to(x.dtype) for g, x in zip(gradients.sums, ctx.inputs, strict=True)]
        return *found, None


class _Gradients:
    """The gradients of the inputs of `_Losses`, summed over chunks of tokens."""

    def __init__(self, inputs: tuple[Tensor, Tensor, Tensor | None], dtype: torch.dtype) -> None:
        wide = torch.promote_types(dtype, torch.float32)
        self.weight, self.dtype = inputs[1].to(dtype), dtype
        self.sums = [None if x is None else torch.zeros_like(x, dtype=wide) for x in inputs]

    def add(self, part: slice, x: Tensor, slope: Tensor) -> None:
        """Those of a chunk of tokens: its inputs x [c, D] and the derivatives of its losses by the scores [c, v]."""
        of_hidden, of_weight, of_bias = self.sums
        narrow = slope.to(self.dtype)
        assert of_hidden is not None and of_weight is not None
        of_hidden[part] = (narrow @ self.weight).to(of_hidden.dtype)
        add_product(of_weight, narrow.T, x)
        if of_bias is not None:
            of_bias += slope.sum(0)
