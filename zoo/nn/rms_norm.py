"""RMSNorm (Zhang and Sennrich 2019) with a gain that is stored as its difference from one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.init import Initializer


class UnitOffsetRMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * (1 + weight), computed in float32 or better (Gemma, https://arxiv.org/abs/2403.08295).

    A gain near one has few digits in bfloat16; its difference from one has all of them.
    """

    weight: nn.Parameter

    def initialize(self, generator_for: Initializer) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return unit_offset_rms_norm(x, self.weight, self.eps)


def unit_offset_rms_norm(x: Tensor, weight: Tensor, eps: float | None) -> Tensor:
    """`UnitOffsetRMSNorm` as a function: x [..., D], weight [D]."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return F.rms_norm(x.to(dtype), weight.shape, 1 + weight.to(dtype), eps).to(x.dtype)
