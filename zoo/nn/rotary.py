"""Rotary position embeddings of q and k. (For positions that are added to the scores see position_biases.py.)"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from zoo.nn.init import Initializer


@dataclass(frozen=True, eq=False)
class Rotary:
    """Rotary embedding (Su et al. 2021) for one forward: float32 tables cos, sin [N, R] or [B, 1, N, R].

    The first R channels of q and k are rotated, the others stay unchanged (partial rotary). Channel pairs are
    (i, i + R/2), as in LLaMA, or with `interleaved` (2i, 2i + 1), as in RoFormer and GPT-J.
    """

    cos: Tensor
    sin: Tensor
    interleaved: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate x [B, H, N, P]; the result has the dtype of x."""
        width = self.cos.shape[-1]
        rotated = x if width == x.shape[-1] else x[..., :width]
        y = (rotated * self.cos + self.rotate_half(rotated) * self.sin).to(x.dtype)
        return y if rotated is x else torch.cat([y, x[..., width:]], -1)

    def rotate_half(self, x: Tensor) -> Tensor:
        """Each pair (a, b) -> (-b, a)."""
        if self.interleaved:
            return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        a, b = x.chunk(2, -1)
        return torch.cat([-b, a], -1)

    def at_positions(self, positions: Tensor, queries: int) -> "Rotary":
        """Tables for padded rows. positions [B, M]: of all tokens so far, the last `queries` of which are new."""
        if self.cos.ndim > 2:
            return self  # there is a table per row already
        if positions.shape[1] != queries:
            raise ValueError("decoding padded rows needs one rotary table per row: rotary(positions [B, N], ...)")
        return Rotary(self.cos[positions][:, None], self.sin[positions][:, None], self.interleaved)

    def rows(self, index: Tensor) -> "Rotary":
        """Tables for packed tokens. index [T]: into N, or into B * N for tables with a batch dimension."""
        cos, sin = (t.flatten(0, -2)[index] for t in (self.cos, self.sin))
        return Rotary(cos, sin, self.interleaved)


def rotary(
    positions: Tensor,
    width: int,
    base: float = 10000.0,
    *,
    interleaved: bool = False,
    frequencies: Tensor | None = None,
) -> Rotary:
    """Rotary tables for integer `positions` [N] or [B, N], or float coordinates [N, A] or [B, N, A] of A axes.

    width: number of rotated channels R, divided evenly among the axes.
    frequencies: [R/2], replaces base ** (-2i / R) (for scaled variants).
    """
    if not positions.is_floating_point():
        positions = positions[..., None]
    axes = positions.shape[-1]
    if width % (2 * axes):
        raise ValueError(f"width={width}: rotary positions over {axes} axes need a multiple of {2 * axes}")
    if frequencies is None:
        frequencies = rotary_frequencies(width // axes, base, positions.device)
    angle = (positions.float()[..., None] * frequencies.to(positions.device)).flatten(-2)  # [..., N, R/2]
    angle = torch.stack([angle, angle], -1).flatten(-2) if interleaved else torch.cat([angle, angle], -1)
    if angle.ndim == 3:
        angle = angle[:, None]  # B 1 N R
    return Rotary(angle.cos(), angle.sin(), interleaved)


def rotary_frequencies(width: int, base: float, device: torch.device | None = None) -> Tensor:
    """base ** (-2i / R) [R/2] in float32, in the order of operations of the published models."""
    exponent = torch.arange(0, width, 2, device=device).float() / width
    return 1.0 / base**exponent


class RotaryFrequencies(nn.Module):
    """Frequencies of rotary embeddings that stand in a checkpoint: a buffer `inv_freq` [R/2], at first those of `base`.

    Published ones may be rounded: those of ESM-2 have passed through float16. They stay float32 where a model is
    converted to half precision, as later positions would be at other angles.
    """

    inv_freq: Tensor

    def __init__(self, width: int, base: float) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"head_dim={width}: rotary positions need an even number of channels")
        self.width, self.base = width, base
        self.register_buffer("inv_freq", torch.empty(width // 2))

    def initialize(self, generator_for: Initializer) -> None:
        self.inv_freq.copy_(rotary_frequencies(self.width, self.base))

    def forward(self, positions: Tensor) -> Rotary:
        """The tables for integer positions [N] or [B, N]."""
        return rotary(positions, self.width, frequencies=self.inv_freq)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        kept = self.inv_freq
        super()._apply(fn, recurse)
        if self.inv_freq.dtype != kept.dtype and self.inv_freq.dtype in (torch.float16, torch.bfloat16):
            self.inv_freq = kept.to(self.inv_freq.device)
        return self
