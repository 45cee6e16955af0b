"""What turns the features of an encoder into tokens of a text decoder."""

from typing import Any

from torch import Tensor, nn

from zoo.nn.mlp import activation


class Projector(nn.Module):
    """[I, T, W] -> [I, T, D]: a linear layer, or two with an activation function between them (Liu et al. 2023).

    norm: "layer" or "rms" before them, or None.
    """

    def __init__(
        self, width: int, out: int, *, kind: str = "mlp", act: str = "gelu", bias: bool = True, norm: str | None = None
    ) -> None:
        super().__init__()
        norms: dict[Any, Any] = {"layer": nn.LayerNorm, "rms": nn.RMSNorm, None: lambda width, eps: None}
        self.norm: nn.Module | None = norms[norm](width, eps=1e-6)
        self.up = nn.Linear(width, out, bias)
        self.act = activation(act)
        self.down = nn.Linear(out, out, bias) if kind == "mlp" else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x if self.norm is None else self.norm(x))
        return x if self.down is None else self.down(self.act(x))


def make_connector(config: Any, width: int, out: int) -> nn.Module:
    """The connector of a `BridgeConfig`, from features of `width` to the width `out` of the text tower."""
    c = config
    return Projector(width, out, kind=c.projector, act=c.projector_act, bias=c.projector_bias, norm=c.projector_norm)
