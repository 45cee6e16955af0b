"""Causal mixers in models that see both directions, such as ViT and BERT."""

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.nn.padding import places_real_first


def both_directions(mix: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The mean of `mix` over a row [B, N, D] and over the reversed row, with the same parameters in both directions."""
    y = mix(torch.cat([x, x.flip(1)]))
    # not by `chunk`, which ONNX has for a known number of rows only
    return (y[: x.shape[0]] + y[x.shape[0] :].flip(1)) / 2


def both_directions_of_real(mix: Callable[[Tensor], Tensor], x: Tensor, keep: Tensor) -> Tensor:
    """`both_directions` of rows whose tokens are real where keep [B, N] is True: padding stands behind them in either
    direction, so that they do not see it."""
    index = torch.cat([places_real_first(keep), places_real_first(keep.flip(1)).flip(1)])[..., None]
    both = torch.cat([x, x])
    y = mix(torch.zeros_like(both).scatter(1, index.expand_as(both), both))
    y = y.gather(1, index.expand(-1, -1, y.shape[-1]))
    return (y[: x.shape[0]] + y[x.shape[0] :]) / 2


def padding_behind(mix: Callable[[Tensor], Tensor], x: Tensor, keep: Tensor) -> Tensor:
    """`mix`, which looks at tokens around each one, for rows x [B, N, D] that are real where keep [B, N] is True: their
    padding is moved behind the real tokens, and zero."""
    index = places_real_first(keep)[..., None].expand_as(x)
    return mix(torch.zeros_like(x).scatter(1, index, x * keep[..., None])).gather(1, index)
