"""Causal mixers in models that see both directions, such as ViT and BERT."""

from collections.abc import Callable

import torch
from torch import Tensor


def both_directions(mix: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The mean of `mix` over a row [B, N, D] and over the reversed row, with the same parameters in both directions."""
    forwards, backwards = mix(torch.cat([x, x.flip(1)])).chunk(2)
    return (forwards + backwards.flip(1)) / 2
