"""Tokens of [B, H, N, ...] at positions of N: a slice, or an index of positions that do not follow each other."""

import torch
from torch import Tensor

Index = slice | Tensor


def as_index(index: Tensor) -> Index:
    """A slice if the positions follow each other: it copies nothing."""
    first, last = int(index[0]), int(index[-1])
    in_order = last - first + 1 == len(index) and bool((index.diff() == 1).all())
    return slice(first, last + 1) if in_order else index


def token_rows(x: Tensor) -> Tensor:
    """x [B, H, N, P] with the numbers of a token beside each other: of other layouts, such as a part of the output of
    one layer for q, k and v, `index_select` would copy all tokens for each tile."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def get(x: Tensor, index: Index) -> Tensor:
    """x [B, H, N, ...] at positions of N."""
    if isinstance(index, slice):
        return x[:, :, index]
    return x.transpose(1, 2).index_select(1, index).transpose(1, 2)


def put(x: Tensor, index: Index, values: Tensor) -> None:
    """Write values at positions of N into x [B, H, N, ...]."""
    if isinstance(index, slice):
        x[:, :, index] = values
    else:
        x.transpose(1, 2).index_copy_(1, index, values.transpose(1, 2).to(x.dtype))


def add(x: Tensor, index: Index, values: Tensor) -> None:
    """Add values at positions of N to x [B, H, N, ...]."""
    if isinstance(index, slice):
        x[:, :, index] += values
    else:
        x.transpose(1, 2).index_add_(1, index, values.transpose(1, 2).to(x.dtype))


def zeros_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Zeros in the shape of x [B, H, N, ...], with the heads of a token beside each other as in torch's kernel."""
    x = x.transpose(1, 2)
    return torch.zeros(x.shape, dtype=dtype or x.dtype, device=x.device).transpose(1, 2)
