"""TST, a transformer for time series (Zerveas et al. 2021), over patches as in PatchTST (Nie et al. 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from zoo.models.base import Model
from zoo.models.config import Config, ProblemType
from zoo.models.family import Family
from zoo.nn.block_config import BlockConfig
from zoo.nn.frontends.time_series import TimeSeriesEmbedding
from zoo.nn.heads import ClassificationHead, PoolingHead
from zoo.preprocessing.time_series import TimeSeriesProcessor


@dataclass(frozen=True, kw_only=True)
class TSTConfig(Config):
    """max_length: time steps; channels: of each; patch_size: steps per token. See ViTConfig for the other fields."""

    head: str | None = "classify"
    max_length: int = 512
    channels: int = 1
    patch_size: int = 8
    num_classes: int = 2
    problem_type: ProblemType | None = None
    width: int = 128
    depth: int = 3
    heads: int = 16
    kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    act: str = "gelu"
    gated_mlp: bool = False
    norm_eps: float = 1e-5
    qkv_bias: bool = True
    layer_scale: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    attention: Any = "softmax"
    mixer: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head not in (None, "classify", "pool"):
            raise ValueError(f"head={self.head!r}: TST has the heads 'classify', 'pool' and None (hidden states)")
        if self.max_length % self.patch_size:
            raise ValueError(f"max_length={self.max_length} is not a multiple of patch_size={self.patch_size}")


class TST(Model):
    """forward(past_values [B, T, C]) -> class scores [B, num_classes]."""

    inputs = ("past_values",)
    family = "tst"

    def __init__(self, config: TSTConfig) -> None:
        super().__init__(config)
        c = config
        self.patches = TimeSeriesEmbedding(c.max_length, c.channels, c.patch_size, c.width)
        self.blocks = BlockConfig.of(c).stack(c.depth)
        self.head = self.make_head()

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head == "classify":
            return ClassificationHead("mean", 0, c.width, c.num_classes)
        return None if c.head is None else PoolingHead("mean", 0)

    def default_preprocess(self) -> TimeSeriesProcessor:
        c = self.config
        return TimeSeriesProcessor(length=c.max_length, mean=(0.0,) * c.channels, std=(1.0,) * c.channels)

    def embed(self, past_values: Tensor) -> Tensor:
        """[B, T, C] -> [B, N, D]."""
        return self.patches(past_values)

    def encode(self, past_values: Tensor, layers: Sequence[int] | None = None) -> Any:
        return self.blocks(self.embed(past_values), layers=layers)


VARIANTS: dict[str, dict[str, Any]] = {"tst_tiny": dict(max_length=64, width=32, heads=4, depth=2), "tst_small": {}}

FAMILY = Family("tst", TST, TSTConfig, "time_series", VARIANTS)
