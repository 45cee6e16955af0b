"""Causal mixers in models that see both directions, such as ViT and BERT."""

from collections.abc import Callable

import torch
from torch import Tensor


def both_directions(mix: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The mean of `mix` over a row [B, N, D] and over the reversed row, with the same parameters in both directions."""
    y = mix(torch.cat([x, x.flip(1)]))
    forwards, backwards = (
        y[: x.shape[0]],
        y[x.shape[0] :],
    )  # not by `chunk`, which ONNX has for a known number of rows only
    return (forwards + backwards.flip(1)) / 2
