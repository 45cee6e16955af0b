"""What turns the features of an encoder into tokens of a text decoder."""

from typing import Any

from torch import Tensor, nn

from zoo.nn.frontends.perceiver_resampler import PerceiverResampler
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


class ResampledProjector(Projector):
    """The features of each image as a fixed number of tokens: a perceiver resampler, and then a projector."""

    def __init__(self, resampler: PerceiverResampler, width: int, out: int, **options: Any) -> None:
        super().__init__(width, out, **options)
        self.resampler = resampler

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """keep [I, T]: True at real features, None for all."""
        return super().forward(self.resampler(x, keep))


def make_connector(config: Any, width: int, out: int) -> nn.Module:
    """The connector of a `BridgeConfig`, from features of `width` to the width `out` of the text tower; by="cross":
    the resampler, or nothing."""
    c = config
    resampler = None if c.resampler_tokens is None or c.by == "projector" else make_resampler(c, width)
    if c.by == "cross":
        return nn.Identity() if resampler is None else resampler
    options = dict(kind=c.projector, act=c.projector_act, bias=c.projector_bias, norm=c.projector_norm)
    return (
        Projector(width, out, **options) if resampler is None else ResampledProjector(resampler, width, out, **options)
    )


def make_resampler(c: Any, width: int) -> PerceiverResampler:
    """The perceiver resampler of a `BridgeConfig`, of the width of the features."""
    return PerceiverResampler(
        width,
        latents=c.resampler_tokens,
        depth=c.resampler_depth,
        heads=c.resampler_heads,
        head_dim=c.resampler_head_dim,
        act=c.resampler_act,
        qk_norm=c.resampler_qk_norm,
        attention=c.resampler_attention,
    )
