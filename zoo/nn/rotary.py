"""Positions enter in three places only: added to x, rotating q and k, or added to the scores (position_biases.py)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Layout = Literal["interleaved", "halves", "halves_minus_one"]


@dataclass(frozen=True, eq=False)
class Rotary:
    """Rotary positions (Su et al. 2021) of one forward: float32 tables cos, sin [N, R] or [B, 1, N, R].

    The first R channels of q and k are rotated, the rest passes through (partial rotary). Pairs are (i, i + R/2), as
    in LLaMA's published weights, or with `interleaved` (2i, 2i + 1), as in RoFormer and GPT-J.
    """

    cos: Tensor
    sin: Tensor
    interleaved: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, H, N, P] -> the same, rotated, in the dtype of x."""
        width = self.cos.shape[-1]
        turned = x if width == x.shape[-1] else x[..., :width]
        y = (turned * self.cos + self.quarter(turned) * self.sin).to(x.dtype)
        return y if turned is x else torch.cat([y, x[..., width:]], -1)

    def quarter(self, x: Tensor) -> Tensor:
        """Each pair (a, b) -> (-b, a)."""
        if self.interleaved:
            return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        a, b = x.chunk(2, -1)
        return torch.cat([-b, a], -1)

    def placed(self, positions: Tensor, queries: int) -> "Rotary":
        """The tables of padded rows, where the tokens so far stand at `positions` [B, M]; `queries` of them are new."""
        if self.cos.ndim > 2:
            return self  # of each row already
        if positions.shape[1] != queries:
            raise ValueError("decoding padded rows needs rotary tables of each row: rotary(positions [B, N], ...)")
        return Rotary(self.cos[positions][:, None], self.sin[positions][:, None], self.interleaved)

    def rows(self, index: Tensor) -> "Rotary":
        """The tables of packed tokens: index [T] into N, or into B * N where the tables have a batch dimension."""
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
    """Tables for `positions` [N] or [B, N], or, for several axes, [N, A] / [B, N, A] with `axes` channels each.

    A trailing axis of size A > 1 is told from tokens by `positions.is_floating_point()`: give coordinates as floats.
    frequencies: [R/2] in place of base ** (-2i / R) (scaled variants).
    """
    if not positions.is_floating_point():
        positions = positions[..., None]
    axes = positions.shape[-1]
    if width % (2 * axes):
        raise ValueError(f"rotary positions over {axes} axes need a width divisible by {2 * axes}, given {width}")
    if frequencies is None:
        part = width // axes
        exponent = torch.arange(0, part, 2, device=positions.device).float() / part
        frequencies = 1.0 / base**exponent  # the order of operations of the published models
    angle = (positions.float()[..., None] * frequencies.to(positions.device)).flatten(-2)  # [..., N, R/2]
    angle = torch.stack([angle, angle], -1).flatten(-2) if interleaved else torch.cat([angle, angle], -1)
    if angle.ndim == 3:
        angle = angle[:, None]  # B 1 N R
    return Rotary(angle.cos(), angle.sin(), interleaved)
