"""The MLP of an alignment, or of its pairs."""

from typing import Any

from torch import Tensor, nn

from zoo.models.evoformer.part import Part, ZeroLinear
from zoo.nn.mlp import MLP


class Transition(Part):
    """MSATransition and PairTransition (Jumper et al. 2021, supplement, algorithms 9 and 15): a norm and an MLP.

    forward(x [B, R, N, D]) -> [B, R, N, D].
    """

    def __init__(self, width: int, mlp_dim: int, *, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, mlp_dim, "relu")
        self.mlp.down = ZeroLinear(mlp_dim, width)

    def update(self, x: Tensor, where: slice, shared: Any) -> Tensor:
        return self.mlp(self.norm(x))
