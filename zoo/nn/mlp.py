"""The MLP (position-wise feed-forward network) of a block, and activation functions."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.utils.errors import did_you_mean


def quick_gelu(x: Tensor) -> Tensor:
    """Sigmoid approximation of GELU, used by CLIP."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "elu": F.elu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation function of a name. Raises ValueError for an unknown name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"act={name!r} is unknown{did_you_mean(name, ACTIVATIONS)}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class MLP(nn.Module):
    """down(act(up(x))), or gated: down(act(gate(x)) * up(x)) (GLU variants, Shazeer 2020)."""

    def __init__(self, width: int, hidden: int, act: str = "gelu", gated: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.act_name = act
        self.act = activation(act)
        self.gate = nn.Linear(width, hidden, bias) if gated else None
        self.up = nn.Linear(width, hidden, bias)
        self.down = nn.Linear(hidden, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            return self.down(self.act(self.gate(x)) * self.up(x))
        return self.down(self.act(self.up(x)))

    def extra_repr(self) -> str:
        return f"act={self.act_name!r}"
