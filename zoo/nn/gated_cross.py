"""Gated cross-attention (Flamingo, Alayrac et al. 2022): blocks that let a trained decoder of texts read images.

They stand before blocks of the decoder. Their gates are zero at first: then they change nothing.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.attention import Attention
from zoo.nn.context import Context
from zoo.nn.init import Initializer, normal_
from zoo.nn.kv_cache import LayerState

Sees = Literal["last", "all"]


class TanhGate(nn.Module):
    """x * tanh(alpha): the gate of a residual branch, one number, or one for each of `width` channels.

    value: of alpha at first; std: initial values are normal with this standard deviation around it.
    """

    def __init__(self, width: int | None = None, value: float = 0.0, std: float = 0.0) -> None:
        super().__init__()
        self.value, self.std = value, std
        self.alpha = nn.Parameter(torch.empty(width or 1))

    def initialize(self, generator_for: Initializer) -> None:
        if self.std:
            normal_(self.alpha, self.std, generator_for("alpha"))
            self.alpha.add_(self.value)
        else:
            nn.init.constant_(self.alpha, self.value)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.alpha.tanh()


class GatedCrossAttention(nn.Module):
    """x + gate1(cross(norm1(x), memory)), and then x + gate2(mlp(norm2(x))) (Alayrac et al. 2022, figure 4).

    The memory and its mask are those of the context. A token whose mask hides all of it, and every token without a
    memory, gets exactly 0 from the cross-attention, whose output projection therefore has no bias. dropout: on the
    output of each branch.
    """

    def __init__(
        self,
        cross: Attention,
        mlp: nn.Module,
        norm: Callable[[], nn.Module],
        gate: Callable[[], nn.Module] = TanhGate,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if getattr(cross.out, "bias", None) is not None:
            raise ValueError(
                "the output projection of gated cross-attention has a bias, which a token without an image would get: "
                "build it with bias=False"
            )
        self.norm1, self.cross, self.gate1 = norm(), cross, gate()
        self.norm2, self.mlp, self.gate2 = norm(), mlp, gate()
        self.dropout = dropout

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """x [B, N, D] -> [B, N, D]; context.memory: [B, M, D'] or None. state: keeps its keys and values."""
        if context.memory is not None:
            x = x + self.gate1(self.drop(self.cross(self.norm1(x), context, state, context.memory)))
        return x + self.gate2(self.drop(self.mlp(self.norm2(x))))

    def drop(self, y: Tensor) -> Tensor:
        return F.dropout(y, self.dropout) if self.training and self.dropout else y


def images_seen(markers: Tensor, images: int, sees: Sees = "last") -> Tensor:
    """Which images each token sees [B, N, I]: the last one before it or at its place, or all of these.

    markers [B, N]: True where an image stands in the text, in the order of the images of the row. images: I, the
    greatest number of images of a row. Tokens before the first image see none.
    """
    if sees not in ("last", "all"):
        raise ValueError(f"sees={sees!r}: expected 'last' (the last image before a token) or 'all' (all before it)")
    before = markers.long().cumsum(1)[..., None]  # B N 1
    numbers = torch.arange(1, images + 1, device=markers.device)
    return before == numbers if sees == "last" else before >= numbers
