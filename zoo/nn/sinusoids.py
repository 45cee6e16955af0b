"""Sinusoidal position embeddings (Vaswani et al. 2017) for sequences and grids."""

from typing import Literal

import torch
from torch import Tensor

Layout = Literal["interleaved", "halves", "halves_minus_one"]


def sinusoids(length: int, width: int, layout: Layout = "interleaved", base: float = 10000.0) -> Tensor:
    """The fixed position embeddings [N, D] of Vaswani et al. 2017 (section 3.5), in the three published layouts.

    interleaved: sin, cos, sin, cos ... (the paper, DistilBERT). halves: all sines, then all cosines (Marian).
    halves_minus_one: the same with exponents i / (D/2 - 1) (tensor2tensor, FSMT, Whisper).
    """
    if width % 2:
        raise ValueError(f"width={width}: sinusoidal positions need an even width")
    half = width // 2
    last = half - 1 if layout == "halves_minus_one" else half
    angle = torch.arange(length).double()[:, None] * base ** (-torch.arange(half).double() / max(last, 1))
    if layout == "interleaved":
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(1).float()
    return torch.cat([angle.sin(), angle.cos()], -1).float()


def sinusoids_2d(grid: tuple[int, int], width: int, base: float = 10000.0) -> Tensor:
    """2D sinusoids [rows * columns, D]: half of the channels encode the column, half the row (MoCo v3, MAE)."""
    if width % 4:
        raise ValueError(f"width={width}: 2D sinusoidal positions need a multiple of 4")
    rows, columns = (sinusoids(n, width // 2, "halves", base) for n in grid)
    rows = rows[:, None].expand(*grid, -1)
    return torch.cat([columns[None].expand(*grid, -1), rows], -1).flatten(0, 1)
