"""From hidden states to answers."""

from typing import Literal

import torch
from torch import Tensor, nn

Pooling = Literal["cls", "mean", "cls_mean"]


class Pool(nn.Module):
    """Hidden states [B, N, D] -> features [B, F].

    how: "cls", the first token; "mean", over the tokens behind the prefix; "cls_mean", both side by side (F = 2 D).
    norm: a norm that stands after pooling instead of in the stack.
    """

    def __init__(self, how: Pooling, prefix: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.how, self.prefix, self.norm = how, prefix, norm

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "cls":
            x = x[:, 0]
        elif self.how == "mean":
            x = x[:, self.prefix :].mean(1)
        else:
            x = torch.cat([x[:, 0], x[:, self.prefix :].mean(1)], -1)
        return x if self.norm is None else self.norm(x)

    def extra_repr(self) -> str:
        return f"{self.how!r}"


class Classify(Pool):
    """Class scores [B, C] from pooled features."""

    def __init__(self, how: Pooling, prefix: int, features: int, classes: int, norm: nn.Module | None = None) -> None:
        super().__init__(how, prefix, norm)
        self.proj = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(super().forward(x))


class ClassifyDistilled(nn.Module):
    """DeiT's two heads, on the class and the distillation token; their mean answers (Touvron et al. 2021)."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.proj = nn.Linear(features, classes)
        self.proj_dist = nn.Linear(features, classes)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the class head and of the distillation head, each [B, C], for a distillation loss."""
        return self.proj(x[:, 0]), self.proj_dist(x[:, 1])

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.both(x)
        return (first + second) / 2


class PoolDistilled(nn.Module):
    """Features [B, D] of a distilled model: the mean of its two tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, 0] + x[:, 1]) / 2
