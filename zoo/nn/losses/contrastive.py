"""Contrastive losses that are exact on any number of processes and never store the full matrix of scores.

Row i of `a` and row i of `b` are a positive pair; all other pairs of the batch are negatives. A process holds rows of
`a` and gathers all rows of `b`. It computes its part of the N x N scores in chunks of rows, in the forward pass for the
sums, and again in the backward pass for the gradients. That takes four matrix products instead of the six of autograd,
which computes and stores the scores of each direction separately. On GPUs, under
autocast or for features in half precision, the products are in that dtype; their sums and all else are in float32.

Several processes: each returns the loss of the global batch, and the gradient of the features that a process holds is
that of the *sum* of the losses of all processes. DDP and FSDP average gradients over processes, so parameters get the
gradient of a single process with the global batch. A parameter that all processes share, such as the scale, gets a
partial gradient on each of them, whose average is also correct.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from zoo.nn.fused import Fused
from zoo.nn.losses.all_gather import BatchShard, Group, batch_shard, gather
from zoo.nn.losses.products import HALF, add_product, product, product_dtype

_ENTRIES = 1 << 22  # scores per chunk: 16 MB in float32, about the size of a CPU cache
_ENTRIES_GPU = 1 << 25  # smaller chunks do not fill the GPU
_ALL_ENTRIES_GPU = 1 << 26  # in one chunk: half of the launches, for batches that take little memory anyway
_EXACT = 40.0  # log(1 + exp(x)) equals x from here on, even in double precision


def clip_loss(a: Tensor, b: Tensor, scale: Tensor | float, *, group: Group = None, chunk: int | None = None,
              positives: Tensor | None = None) -> Tensor:  # fmt: skip
    """CLIP's loss, symmetric InfoNCE: the mean cross-entropy of classifying b's row given a's, and a's given b's.

    With `positives` the target of a row is spread evenly over all rows with the same number, itself included. (Pairs
    with identical features do not need it: the plain loss has the same minimum.)

    Args:
        a: Features [B, D], usually L2-normalized.
        b: Features [B, D].
        scale: Factor of the scores, the inverse temperature: the exponential of CLIP's `logit_scale`.
        group: Processes whose rows form the batch; None for all processes, "local" for this one alone.
        chunk: Number of rows of scores per chunk; None chooses it by device. The result does not depend on it.
        positives: [B] integers; pairs with equal numbers are positives of each other, across processes.

    Returns: the loss of the global batch, a scalar on each process, in float32 or higher precision.
    Raises: ValueError for shapes that do not match, and for a batch of one pair.
    Source: Radford et al. 2021, figure 3, https://arxiv.org/abs/2103.00020; multiple positives as in Khosla et al.
        2020, eq. 2, https://arxiv.org/abs/2004.11362.
    """
    return _loss(_InfoNCE, a, b, scale, None, _Options(group, chunk, positives))


def siglip_loss(a: Tensor, b: Tensor, scale: Tensor | float, bias: Tensor | float | None = None, *,
                group: Group = None, chunk: int | None = None, positives: Tensor | None = None) -> Tensor:  # fmt: skip
    """SigLIP's loss: binary cross-entropy of each of the N x N pairs, positive or negative; their sum divided by N.

    Args:
        bias: Added to the scores.
        a, b, scale, group, chunk, positives: As in `clip_loss`.

    Returns: the loss of the global batch, a scalar on each process, in float32 or higher precision.
    Raises: ValueError for shapes that do not match, and for a batch of one pair.
    Source: Zhai et al. 2023, algorithm 1, https://arxiv.org/abs/2303.15343.
    """
    return _loss(_Sigmoid, a, b, scale, 0.0 if bias is None else bias, _Options(group, chunk, positives))


def products_in_half(a: Tensor) -> bool:
    """Whether products can be in half precision with their sums in float32: on GPUs; CPUs round the scores as well."""
    return a.is_cuda


@dataclass(frozen=True, eq=False)
class _Options:
    group: Group
    chunk: int | None
    positives: Tensor | None


def _loss(kind: Any, a: Tensor, b: Tensor, scale: Tensor | float, bias: Tensor | float | None, o: _Options) -> Tensor:
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"got features of shape {list(a.shape)} and {list(b.shape)}, expected [B, D] twice: equally many rows, "
            "projected to the same width"
        )
    if o.chunk is not None and o.chunk < 1:
        raise ValueError(f"chunk={o.chunk}: expected at least 1")
    if o.positives is not None and (o.positives.shape != a.shape[:1] or o.positives.is_floating_point()):
        given = f"{o.positives.dtype} {list(o.positives.shape)}"
        raise ValueError(f"positives: expected integers [{len(a)}], one per row, got {given}")
    shard = batch_shard(len(a), a.device, o.group)
    if shard.total < 2:
        raise ValueError(f"a contrastive loss needs at least 2 pairs, got a batch of {shard.total}")
    narrow = product_dtype(a, b)
    with torch.autocast(a.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
        numbers = [_number(x, dtype, a.device) for x in (scale, bias) if x is not None]
        pairs = None if o.positives is None else _PositivePairs.of(o.positives.long(), shard, dtype)
        half = narrow if products_in_half(a) and narrow in HALF else None
        scores = _Scores(shard, o.chunk or _chunk_size(len(a), shard.total, a.device.type), pairs, half)
        return kind.apply(a.to(dtype), gather(b.to(dtype), shard), *numbers, scores)


def _chunk_size(rows: int, total: int, device: str) -> int:
    """Rows of scores per chunk, of `rows` that have `total` scores each."""
    if device == "cpu":
        return max(1, _ENTRIES // total)
    return rows if rows * total <= _ALL_ENTRIES_GPU else max(1, _ENTRIES_GPU // total)


def _number(x: Tensor | float, dtype: torch.dtype, device: torch.device) -> Tensor:
    if isinstance(x, Tensor) and x.numel() != 1:
        raise ValueError(f"scale and bias must be scalars, got shape {list(x.shape)}")
    return torch.as_tensor(x, dtype=dtype, device=device).reshape(())


@dataclass(frozen=True, eq=False)
class _PositivePairs:
    """Rows with equal numbers: own [B], all [N], and the target weight of each row, 1 / (rows with its number)."""

    own: Tensor
    all: Tensor
    weight: Tensor

    @classmethod
    def of(cls, ids: Tensor, shard: BatchShard, dtype: torch.dtype) -> "_PositivePairs":
        every = gather(ids, shard)
        ordered = every.sort().values  # `unique` would wait for a GPU
        count = torch.searchsorted(ordered, ids, right=True) - torch.searchsorted(ordered, ids)
        return cls(ids, every, 1.0 / count.to(dtype))

    def mask(self, rows: slice) -> Tensor:
        """bool [rows, N], True at positives."""
        return self.own[rows, None] == self.all


@dataclass(frozen=True, eq=False)
class _Scores:
    """This process's rows of the score matrix, in chunks. half: dtype of the products, if not that of the features."""

    shard: BatchShard
    chunk: int
    pairs: _PositivePairs | None
    half: torch.dtype | None = None

    def chunks(self, rows: int) -> Iterator[slice]:
        for start in range(0, rows, self.chunk):
            yield slice(start, min(start + self.chunk, rows))

    def factor(self, x: Tensor) -> Tensor:
        """x in the dtype of the products."""
        return x if self.half is None else x.to(self.half)

    def targets(self, z: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """(numbers of the rows, of the columns, weights of the rows): equal numbers are positives."""
        if self.pairs is not None:
            return self.pairs.own[rows], self.pairs.all, self.pairs.weight[rows]
        columns = torch.arange(z.shape[1], device=z.device)
        first = self.shard.start + rows.start
        return columns[first : first + len(z)], columns, z.new_ones(len(z))

    def diagonal(self, z: Tensor, rows: slice) -> Tensor:
        """View of the positive pairs (i, i) in a chunk of scores [rows, N]."""
        return z.diagonal(self.shard.start + rows.start)

    def add_target(self, z: Tensor, rows: slice, value: float) -> Tensor:
        """z += value * target in place; the rows of the target sum to 1."""
        if self.pairs is None:
            self.diagonal(z, rows).add_(value)
            return z
        return z.addcmul_(self.pairs.mask(rows).to(z.dtype), self.pairs.weight[rows, None], value=value)

    def at_target(self, z: Tensor, rows: slice) -> Tensor:
        """Sum of the scores, weighted by the target."""
        if self.pairs is None:
            return self.diagonal(z, rows).sum()
        return (z * self.pairs.mask(rows)).sum(1) @ self.pairs.weight[rows]

    def flip_positives(self, z: Tensor, rows: slice) -> Tensor:
        """Change the sign of positive pairs, in place."""
        if self.pairs is None:
            self.diagonal(z, rows).neg_()
            return z
        return z.mul_(1 - 2 * self.pairs.mask(rows).to(z.dtype))


def _log_sums(z: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """(log of the sums of exp(z) of each row, and of each column with those so far)."""
    return z.logsumexp(1), torch.logaddexp(column, z.logsumexp(0))


def info_nce_slope(z: Tensor, row: Tensor, column: Tensor, own: Tensor, every: Tensor, weight: Tensor,
                   dtype: torch.dtype) -> Tensor:  # fmt: skip
    """Derivative of the InfoNCE loss by the scores, times 2 N."""
    target = torch.where(own[:, None] == every, weight[:, None], 0.0)
    return ((z - row[:, None]).exp() + (z - column).exp() - 2 * target).to(dtype)


def sigmoid_slope(z: Tensor, own: Tensor, every: Tensor, dtype: torch.dtype) -> Tensor:
    """Derivative of the sigmoid loss by the scores, times N."""
    sign = torch.where(own[:, None] == every, -1.0, 1.0)
    return ((z * sign).sigmoid() * sign).to(dtype)


_fused_log_sums, _info_nce_slope, _sigmoid_slope = Fused(_log_sums), Fused(info_nce_slope), Fused(sigmoid_slope)


class _InfoNCE(torch.autograd.Function):
    """(own rows a [B, D], all rows b [N, D], scale) -> loss."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, s: _Scores) -> Tensor:
        row, target = a.new_empty(len(a)), a.new_zeros(())
        column = a.new_full((len(b),), -torch.inf)
        factor = s.factor(b)
        for rows in s.chunks(len(a)):
            z = product(s.factor(a[rows] * scale), factor.T)
            row[rows], column = (_log_sums if s.half is None else _fused_log_sums)(z, column)
            target += s.at_target(z, rows)
        maximum = s.shard.reduce(column, dist.ReduceOp.MAX)
        column = maximum + s.shard.reduce((column - maximum).exp()).log()
        ctx.save_for_backward(a, b, scale, row, column)
        ctx.scores = s
        return (s.shard.reduce(row.sum() - 2 * target) + column.sum()) / (2 * len(b))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, row, column = ctx.saved_tensors
        s: _Scores = ctx.scores

        def slope(z: Tensor, rows: slice) -> Tensor:
            if s.half is not None:
                return _info_nce_slope(z, row[rows], column, *s.targets(z, rows), s.half)
            other = (z - column).exp_()
            return s.add_target(z.sub_(row[rows, None]).exp_().add_(other), rows, -2.0)

        factor = s.shard.reduce(grad) / (2 * len(b))
        grads = _gradients(a, b, scale, None, slope, s, ctx.needs_input_grad)
        return *(None if g is None else g.mul_(factor) for g in grads[:3]), None


class _Sigmoid(torch.autograd.Function):
    """(own rows a [B, D], all rows b [N, D], scale, bias) -> loss."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, s: _Scores) -> Tensor:
        total = a.new_zeros(())
        factor = s.factor(b)
        for rows in s.chunks(len(a)):
            z = product(s.factor(a[rows] * scale), factor.T, bias)
            total += F.softplus(s.flip_positives(z, rows), threshold=_EXACT).sum()
        ctx.save_for_backward(a, b, scale, bias)
        ctx.scores = s
        return s.shard.reduce(total) / len(b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, bias = ctx.saved_tensors
        s: _Scores = ctx.scores

        def slope(z: Tensor, rows: slice) -> Tensor:
            if s.half is not None:
                return _sigmoid_slope(z, *s.targets(z, rows)[:2], s.half)
            return s.flip_positives(s.flip_positives(z, rows).sigmoid_(), rows)

        factor = s.shard.reduce(grad) / len(b)
        grads = _gradients(a, b, scale, bias, slope, s, ctx.needs_input_grad)
        return *(None if g is None else g.mul_(factor) for g in grads), None


def _gradients(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor | None, slope: Any, s: _Scores,
               needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of a, b, scale, bias. slope(scores, rows): derivative of the loss by the scores; may overwrite them."""
    for_a = torch.empty_like(a) if needed[0] or needed[2] else None
    for_b = torch.zeros_like(b) if needed[1] else None
    for_bias = None if bias is None else torch.zeros_like(bias)
    with torch.autocast(a.device.type, enabled=False):
        factor = s.factor(b)
        for rows in s.chunks(len(a)):
            scaled = s.factor(a[rows] * scale)
            g = slope(product(scaled, factor.T, bias), rows)
            if for_a is not None:
                product(g, factor, out=for_a[rows])
            if for_b is not None:
                add_product(for_b, g.T, scaled)
            if for_bias is not None:
                for_bias += g.sum(dtype=for_bias.dtype)
        for_scale = None if for_a is None else torch.einsum("bd,bd->", a, for_a)
    return None if for_a is None else for_a.mul_(scale), for_b, for_scale, for_bias
