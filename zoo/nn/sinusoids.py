"""Sinusoidal position embeddings (Vaswani et al. 2017) for sequences and grids."""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Layout = Literal["interleaved", "halves", "halves_minus_one"]


def sinusoids(length: int, width: int, layout: Layout = "interleaved", base: float = 10000.0) -> Tensor:
    """The fixed position embeddings [N, D] of Vaswani et al. 2017 (section 3.5), in the three published layouts.

    interleaved: sin, cos, sin, cos ... (the paper, DistilBERT). halves: all sines, then all cosines (Marian).
    halves_minus_one: the same with exponents i / (D/2 - 1) (tensor2tensor, FSMT, Whisper).
    """
    return sinusoids_at(torch.arange(length), width, layout, base)


def sinusoids_at(positions: Tensor, width: int, layout: Layout = "interleaved", base: float = 10000.0) -> Tensor:
    """The same embeddings [..., D] of the given positions [...], in float32."""
    if width % 2:
        raise ValueError(f"width={width}: sinusoidal positions need an even width")
    half = width // 2
    last = half - 1 if layout == "halves_minus_one" else half
    exponent = torch.arange(half, device=positions.device).double() / max(last, 1)
    angle = positions.double()[..., None] * base**-exponent
    if layout == "interleaved":
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2).float()
    return torch.cat([angle.sin(), angle.cos()], -1).float()


@lru_cache(maxsize=16)
def sinusoid_table(length: int, width: int, layout: Layout, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`sinusoids`, kept for the next forward."""
    with torch.inference_mode(False):  # a later forward may record gradients
        return sinusoids_at(torch.arange(length, device="cpu"), width, layout).to(device, dtype)


def sinusoids_2d(grid: tuple[int, int], width: int, base: float = 10000.0) -> Tensor:
    """2D sinusoids [rows * columns, D]: half of the channels encode the column, half the row (MoCo v3, MAE)."""
    if width % 4:
        raise ValueError(f"width={width}: 2D sinusoidal positions need a multiple of 4")
    rows, columns = (sinusoids(n, width // 2, "halves", base) for n in grid)
    rows = rows[:, None].expand(*grid, -1)
    return torch.cat([columns[None].expand(*grid, -1), rows], -1).flatten(0, 1)
