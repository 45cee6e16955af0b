"""Config of a resampler, and of the gated cross-attention between a decoder's blocks."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from zoo.models.tower_config import TowersConfig
from zoo.nn.core import check_positive

# How the towers are joined -> how the fields begin that this has no use for.
UNUSED = {
    "projector": ("resampler_", "cross_", "gate", "sees"),
    "resampler": ("cross_", "gate", "sees"),
    "cross": ("projector",),
}


@dataclass(frozen=True, kw_only=True)
class ConnectorConfig(TowersConfig):
    """Fields of a resampler and of gated cross-attention; those of other ways to join the towers are refused.

    resampler_tokens: the number of tokens that a perceiver resampler makes of the features of one image; None: no
    resampler. resampler_depth, resampler_heads, resampler_head_dim, resampler_act, resampler_qk_norm,
    resampler_attention: of its blocks.
    cross_interval: a gated cross-attention block stands before every so many blocks of the text tower, from the first
    on. cross_attention: its kind of attention. cross_heads, cross_head_dim: None, those of the text tower.
    cross_qk_norm: norms of q and k. gate: "scalar", one gate for each branch, or "channel", one for each channel.
    gate_value, gate_std: mean and standard deviation of the gates at first; at 0 the text tower is as it was.
    sees: the images that a token attends to, "last", the last one before it, or "all" before it.
    """

    resampler_tokens: int | None = None
    resampler_depth: int = 6
    resampler_heads: int = 8
    resampler_head_dim: int | None = 64
    resampler_act: str = "gelu"
    resampler_qk_norm: bool = False
    resampler_attention: Any = "softmax"
    cross_interval: int = 1
    cross_attention: Any = "softmax"
    cross_heads: int | None = None
    cross_head_dim: int | None = None
    cross_qk_norm: bool = False
    gate: Literal["scalar", "channel"] = "scalar"
    gate_value: float = 0.0
    gate_std: float = 0.0
    sees: Literal["last", "all"] = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(cross_interval=self.cross_interval)
        if self.gate_std < 0:
            raise ValueError(f"gate_std={self.gate_std}: expected a standard deviation of at least 0")

    def check_unused(self, by: str) -> None:
        """Raise ValueError for a field that towers joined `by` this have no use for."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if field.name.startswith(UNUSED[by]):
                uses = " or ".join(f"by={other!r}" for other in UNUSED if not field.name.startswith(UNUSED[other]))
                raise ValueError(f"{field.name}={value!r} has no effect with by={by!r}: it is for {uses}; omit it")

    def check_resampler(self, by: str) -> None:
        """Raise ValueError for a resampler without a number of tokens."""
        if by == "resampler" and self.resampler_tokens is None:
            raise ValueError("by='resampler' needs resampler_tokens, the number of tokens of an image, such as 64")
        for field in fields(self):
            value = getattr(self, field.name)
            if self.resampler_tokens is None and field.name.startswith("resampler_") and value != field.default:
                raise ValueError(f"{field.name}={value!r} has no effect without a resampler: set resampler_tokens, the "
                                 f"number of tokens of an image, or omit {field.name}")  # fmt: skip
