"""Contrastive losses that are exact on any number of processes and never hold their matrix of scores.

Row i of `a` belongs to row i of `b`; all other pairs of the batch are taken for strangers. A process holds rows of
`a` and asks for all rows of `b`; it walks over its part of the N x N scores in chunks of rows, forwards for the sums
and backwards, where scores are computed once more, for the gradients. That is four matrix products in place of six
with autograd, which computes the scores of either direction on their own and keeps both.

Several processes: each returns the loss of the whole batch, and the gradient of the features that a process holds is
that of the *sum* of what all processes return. DDP and FSDP average gradients over processes, so parameters get the
gradient of one process with the whole batch. A parameter that all processes share, such as the scale, gets a part on
each of them, whose average is right too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from zoo.nn.losses.all_gather import Group, Place, gather, place

_ENTRIES = 1 << 22  # of the scores that are held at a time: 16 MB in float32, about what a cache holds
_ENTRIES_GPU = 1 << 25  # with fewer its kernels are short
_EXACT = 40.0  # log(1 + exp(x)) is x from here on, in double precision too


def clip_loss(a: Tensor, b: Tensor, scale: Tensor | float, *, group: Group = None, chunk: int | None = None,
              positives: Tensor | None = None) -> Tensor:  # fmt: skip
    """Symmetric InfoNCE: the mean cross-entropy of finding b's row among all by a's, and a's by b's.

    With `positives` the target of a row is spread evenly over all rows with its number, itself among them. (Texts that
    are equal in all their features learn the same without: the plain loss, too, is least where they share.)

    Args:
        a: Features [B, D], L2-normalized as a rule.
        b: Features [B, D].
        scale: Factor of the scores, the exponential of CLIP's parameter.
        group: Processes whose rows make up the batch; None takes all there are, "local" this one alone.
        chunk: Rows of scores that are held at a time; None takes as many as suit the device. The result is the same.
        positives: [B] integers; pairs with equal numbers are positives of one another, on all processes.

    Returns: a scalar, of the whole batch on each process, in float32 at least.
    Raises: ValueError for shapes that do not fit, and for a batch of one row.
    Source: Radford et al. 2021, figure 3, https://arxiv.org/abs/2103.00020; several positives as in Khosla et al.
        2020, eq. 2, https://arxiv.org/abs/2004.11362.
    """
    return _loss(_InfoNCE, a, b, scale, None, _Options(group, chunk, positives))


def siglip_loss(a: Tensor, b: Tensor, scale: Tensor | float, bias: Tensor | float | None = None, *,
                group: Group = None, chunk: int | None = None, positives: Tensor | None = None) -> Tensor:  # fmt: skip
    """Pairwise sigmoid: each of the N x N pairs is asked whether it belongs together; their sum over N.

    Args:
        bias: Added to the scores.
        a, b, scale, group, chunk, positives: As in `clip_loss`.

    Returns: a scalar, of the whole batch on each process, in float32 at least.
    Raises: ValueError for shapes that do not fit, and for a batch of one row.
    Source: Zhai et al. 2023, algorithm 1, https://arxiv.org/abs/2303.15343.
    """
    return _loss(_Sigmoid, a, b, scale, 0.0 if bias is None else bias, _Options(group, chunk, positives))


@dataclass(frozen=True, eq=False)
class _Options:
    group: Group
    chunk: int | None
    positives: Tensor | None


def _loss(kind: Any, a: Tensor, b: Tensor, scale: Tensor | float, bias: Tensor | float | None, o: _Options) -> Tensor:
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"features of {list(a.shape)} and {list(b.shape)}: expected [B, D] twice, a row of one for "
                         f"each row of the other, from projections of one width")  # fmt: skip
    if o.chunk is not None and o.chunk < 1:
        raise ValueError(f"chunk={o.chunk}: expected at least 1 row")
    if o.positives is not None and (o.positives.shape != a.shape[:1] or o.positives.is_floating_point()):
        given = f"{o.positives.dtype} {list(o.positives.shape)}"
        raise ValueError(f"positives: expected an integer for each of {len(a)} rows, got {given}")
    where = place(len(a), a.device, o.group)
    if where.total < 2:
        raise ValueError(f"a batch of {where.total} has nothing to contrast: give at least 2 pairs")
    with torch.autocast(a.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
        numbers = [_number(x, dtype, a.device) for x in (scale, bias) if x is not None]
        twins = None if o.positives is None else _Twins.of(o.positives.long(), where, dtype)
        entries = _ENTRIES if a.device.type == "cpu" else _ENTRIES_GPU
        scores = _Scores(where, o.chunk or max(1, entries // where.total), twins)
        return kind.apply(a.to(dtype), gather(b.to(dtype), where), *numbers, scores)


def _number(x: Tensor | float, dtype: torch.dtype, device: torch.device) -> Tensor:
    if isinstance(x, Tensor) and x.numel() != 1:
        raise ValueError(f"scale and bias are one number each, got {list(x.shape)}")
    return torch.as_tensor(x, dtype=dtype, device=device).reshape(())


@dataclass(frozen=True, eq=False)
class _Twins:
    """Rows with equal numbers: own [B], all [N], and each own row's share of the target, 1 / (rows with its number)."""

    own: Tensor
    all: Tensor
    share: Tensor

    @classmethod
    def of(cls, ids: Tensor, where: Place, dtype: torch.dtype) -> "_Twins":
        every = gather(ids, where)
        _, group, count = every.unique(return_inverse=True, return_counts=True)
        own = slice(where.start, where.start + len(ids))
        return cls(ids, every, 1.0 / count[group][own].to(dtype))

    def mask(self, rows: slice) -> Tensor:
        """bool [rows, N]."""
        return self.own[rows, None] == self.all


@dataclass(frozen=True, eq=False)
class _Scores:
    """This process's rows of the scores, in chunks."""

    where: Place
    chunk: int
    twins: _Twins | None

    def chunks(self, rows: int) -> Iterator[slice]:
        for start in range(0, rows, self.chunk):
            yield slice(start, min(start + self.chunk, rows))

    def diagonal(self, z: Tensor, rows: slice) -> Tensor:
        """The view of a chunk's scores [rows, N] at which a row meets its own partner."""
        return z.diagonal(self.where.start + rows.start)

    def add_target(self, z: Tensor, rows: slice, value: float) -> Tensor:
        """z += value * the target, whose rows sum to 1; in place."""
        if self.twins is None:
            self.diagonal(z, rows).add_(value)
            return z
        return z.addcmul_(self.twins.mask(rows).to(z.dtype), self.twins.share[rows, None], value=value)

    def at_target(self, z: Tensor, rows: slice) -> Tensor:
        """Sum of the scores, weighted by the target."""
        if self.twins is None:
            return self.diagonal(z, rows).sum()
        return (z * self.twins.mask(rows)).sum(1) @ self.twins.share[rows]

    def flip_positives(self, z: Tensor, rows: slice) -> Tensor:
        """Change the sign where pairs belong together; in place."""
        if self.twins is None:
            self.diagonal(z, rows).neg_()
            return z
        return z.mul_(1 - 2 * self.twins.mask(rows).to(z.dtype))


class _InfoNCE(torch.autograd.Function):
    """(own rows a [B, D], all rows b [N, D], scale) -> loss."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, s: _Scores) -> Tensor:
        row, target = a.new_empty(len(a)), a.new_zeros(())
        column = a.new_full((len(b),), -torch.inf)
        for rows in s.chunks(len(a)):
            z = (a[rows] * scale) @ b.T
            row[rows] = z.logsumexp(1)
            column = torch.logaddexp(column, z.logsumexp(0))
            target += s.at_target(z, rows)
        most = s.where.reduce(column, dist.ReduceOp.MAX)
        column = most + s.where.reduce((column - most).exp()).log()
        ctx.save_for_backward(a, b, scale, row, column)
        ctx.scores = s
        return (s.where.reduce(row.sum() - 2 * target) + column.sum()) / (2 * len(b))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, row, column = ctx.saved_tensors
        s: _Scores = ctx.scores

        def slope(z: Tensor, rows: slice) -> Tensor:
            other = (z - column).exp_()
            return s.add_target(z.sub_(row[rows, None]).exp_().add_(other), rows, -2.0)

        factor = s.where.reduce(grad) / (2 * len(b))
        found = _gradients(a, b, scale, None, slope, s, ctx.needs_input_grad)
        return *(None if g is None else g.mul_(factor) for g in found[:3]), None


class _Sigmoid(torch.autograd.Function):
    """(own rows a [B, D], all rows b [N, D], scale, bias) -> loss."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, s: _Scores) -> Tensor:
        total = a.new_zeros(())
        for rows in s.chunks(len(a)):
            z = torch.addmm(bias, a[rows] * scale, b.T)
            total += F.softplus(s.flip_positives(z, rows), threshold=_EXACT).sum()
        ctx.save_for_backward(a, b, scale, bias)
        ctx.scores = s
        return s.where.reduce(total) / len(b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, bias = ctx.saved_tensors
        s: _Scores = ctx.scores

        def slope(z: Tensor, rows: slice) -> Tensor:
            return s.flip_positives(s.flip_positives(z, rows).sigmoid_(), rows)

        factor = s.where.reduce(grad) / len(b)
        found = _gradients(a, b, scale, bias, slope, s, ctx.needs_input_grad)
        return *(None if g is None else g.mul_(factor) for g in found), None


def _gradients(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor | None, slope: Any, s: _Scores,
               needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Of a, b, scale and bias, where slope(scores, rows) is that of the loss by its scores (and may overwrite them)."""
    for_a = torch.empty_like(a) if needed[0] or needed[2] else None
    for_b = torch.zeros_like(b) if needed[1] else None
    for_bias = None if bias is None else torch.zeros_like(bias)
    with torch.autocast(a.device.type, enabled=False):
        for rows in s.chunks(len(a)):
            scaled = a[rows] * scale
            g = slope(scaled @ b.T if bias is None else torch.addmm(bias, scaled, b.T), rows)
            if for_a is not None:
                torch.mm(g, b, out=for_a[rows])
            if for_b is not None:
                for_b.addmm_(g.T, scaled)
            if for_bias is not None:
                for_bias += g.sum()
    for_scale = None if for_a is None else torch.einsum("bd,bd->", a, for_a)
    return None if for_a is None else for_a.mul_(scale), for_b, for_scale, for_bias
