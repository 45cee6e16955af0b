"""Cross-entropy of an output layer's scores that never stores all scores [T, V], only those of some tokens at a time.

The gradients of the hidden states and of the layer are computed in the forward pass, from the scores while they are
there: three matrix products, as many as autograd needs, instead of four. Liger does so, too (Hsu et al. 2024,
https://arxiv.org/abs/2410.10989).
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.nn.fused import Fused
from zoo.nn.losses.products import HALF, add_product, product_dtype

Reduction = Literal["mean", "sum", "none"]
IGNORED = -100  # label of tokens that are not predicted
_ENTRIES = 1 << 24  # scores per chunk: 64 MB in float32
_ENTRIES_GPU = 1 << 27
_LEAST_ROWS = 256  # smaller products would mostly read the weight
_ALIGNMENT = 64  # rows of scores on a GPU: its products are several times slower for a vocabulary such as 50,257


def linear_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None, *,
                         chunk: int | None = None, ignore_index: int = IGNORED,
                         reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """`F.cross_entropy(F.linear(hidden, weight, bias), labels)` in the memory of a chunk of scores.

    Under autocast the products are in its dtype; softmax, sums over tokens and the loss are in float32, or in float64
    for inputs in float64.

    Args:
        hidden: [T, D], inputs of the output layer.
        weight: [V, D], its weight.
        labels: [T], integers; `ignore_index` for tokens that are not predicted.
        bias: [V].
        chunk: Number of tokens whose scores are computed at a time; None chooses it by device and vocabulary, and takes
            the plain form where all scores are few.
        ignore_index: Label of tokens whose loss is zero.
        reduction: "mean" over the labels that are not ignored (nan if all are), "sum", or "none": the loss of each
            token [T]. With "none" and gradients all scores are stored.

    Raises: ValueError for shapes that do not match.
    """
    _check(hidden, weight, labels, bias, chunk, reduction)
    inputs = [hidden, weight] + ([] if bias is None else [bias])
    needed = tuple(x.requires_grad and torch.is_grad_enabled() for x in inputs)
    small = chunk is None and len(hidden) * len(weight) <= _ENTRIES
    if small or (reduction == "none" and any(needed)):
        scores = F.linear(hidden, weight, bias)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return F.cross_entropy(scores, labels, ignore_index=ignore_index, reduction=reduction)
    dtype = product_dtype(hidden, weight)
    keep = labels != ignore_index
    targets = labels.masked_fill(~keep, 0)
    rows = chunk or _chunk_size(len(hidden), weight)
    with torch.autocast(hidden.device.type, enabled=False):
        if any(needed):
            total = _Sum.apply(hidden, weight, bias, targets, keep, rows, dtype)
        else:
            losses = torch.cat([x for x, *_ in _in_chunks(hidden, weight, bias, targets, keep, rows, dtype)])
            if reduction == "none":
                return losses
            total = losses.sum()
    return total if reduction == "sum" else total / keep.sum()


def _check(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, chunk: int | None, how: str) -> None:
    shapes = f"hidden {list(hidden.shape)}, weight {list(weight.shape)}, labels {list(labels.shape)}"
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1] or labels.shape != hidden.shape[:1]:
        raise ValueError(f"{shapes}: expected hidden [T, D], weight [V, D] and labels [T]")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias {list(bias.shape)}: expected [{len(weight)}], a number for each row of the weight")
    if labels.dtype != torch.long:
        raise ValueError(f"labels are {labels.dtype}: expected torch.int64")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk={chunk}: expected at least 1 token")
    if how not in ("mean", "sum", "none"):
        raise ValueError(f"reduction={how!r}: expected mean, sum or none")


def _chunk_size(tokens: int, weight: Tensor) -> int:
    """Tokens per chunk: as many chunks as the limit of scores needs, of about equal size."""
    limit = (_ENTRIES_GPU if weight.is_cuda else _ENTRIES) // len(weight)
    limit = max(_LEAST_ROWS, limit // _LEAST_ROWS * _LEAST_ROWS)
    chunks = max(1, -(-tokens // limit))
    return max(1, min(tokens, -(-tokens // chunks // 64) * 64) if chunks > 1 else tokens)


def _padding(weight: Tensor, dtype: torch.dtype) -> int:
    """Rows to add to the weight, for aligned rows of scores."""
    return -len(weight) % _ALIGNMENT if weight.is_cuda and dtype in HALF else 0


def _in_chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, keep: Tensor, chunk: int, dtype: torch.dtype
) -> Iterator[tuple[Tensor, slice, Tensor, Tensor, Tensor]]:
    """For each chunk of tokens: losses [c], its slice, inputs [c, D] of the product, derivatives of the losses by the
    scores [c, V'] and the weight [V', D] of the product, whose rows may be more than V."""
    vocabulary, w = len(weight), weight.to(dtype)
    if padding := _padding(weight, dtype):
        w = F.pad(w, (0, 0, 0, padding))
    b = None if bias is None else F.pad(bias.to(dtype), (0, padding))
    for start in range(0, max(1, len(hidden)), chunk):  # an empty chunk of no tokens
        rows = slice(start, min(start + chunk, len(hidden)))
        x = hidden[rows].to(dtype)
        scores = F.linear(x, w, b)
        if padding:
            scores[:, vocabulary:] = -torch.inf  # a probability of zero
        losses, slope = _losses_and_slope(scores, targets[rows], keep[rows])
        yield losses, rows, x, slope, w
        del scores, slope


def losses_and_slope(scores: Tensor, targets: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """(losses [c], zero where `keep` is False; softmax minus one-hot [c, V] in the dtype of the scores)."""
    if torch.compiler.is_compiling():  # without storing anything in float32, as the scatter would
        wide, at = scores.to(torch.promote_types(scores.dtype, torch.float32)), targets[:, None]
        log_sum = wide.logsumexp(1, keepdim=True)
        hit = torch.arange(scores.shape[1], device=scores.device) == at
        slope = (wide - log_sum).exp() - hit.to(wide.dtype)
        return (log_sum - wide.gather(1, at))[:, 0] * keep, slope.to(scores.dtype)
    log_p = scores.log_softmax(1, dtype=torch.promote_types(scores.dtype, torch.float32))
    at = targets[:, None]
    losses = -log_p.gather(1, at)[:, 0] * keep
    slope = log_p.exp_().scatter_add_(1, at, log_p.new_full((), -1.0).expand(at.shape))
    return losses, slope.to(scores.dtype)


_losses_and_slope = Fused(losses_and_slope)


class _Sum(torch.autograd.Function):
    """(hidden, weight, bias) -> sum of the losses, with the gradients computed at once."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, keep: Tensor,
                chunk: int, dtype: torch.dtype) -> Tensor:  # fmt: skip
        of_hidden, of_weight, of_bias = ctx.needs_input_grad[:3]
        wide = torch.promote_types(dtype, torch.float32)
        d_hidden = hidden.new_empty(hidden.shape, dtype=dtype) if of_hidden else None
        d_weight = weight.new_zeros(weight.shape, dtype=wide) if of_weight else None
        d_bias = None if bias is None or not of_bias else bias.new_zeros(bias.shape, dtype=wide)
        total = hidden.new_zeros((), dtype=wide)
        for losses, rows, x, slope, w in _in_chunks(hidden, weight, bias, targets, keep, chunk, dtype):
            total = total + losses.sum()  # not in place: compiled by torch 2.11, its gradient would be zero
            kept = keep[rows, None].to(dtype)
            if d_hidden is not None:
                d_hidden[rows] = (slope @ w).mul_(kept)
            slope = slope[:, : len(weight)]
            if d_weight is not None:
                add_product(d_weight, slope.T, x * kept)
            if d_bias is not None:
                d_bias += (slope * kept).sum(0, dtype=wide)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = (None if g is None else (g * grad).to(d) for g, d in zip(ctx.saved_tensors, ctx.dtypes, strict=True))
        return *grads, None, None, None, None
