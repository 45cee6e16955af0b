"""The set transformer (Lee et al. 2019, https://arxiv.org/abs/1810.00825): attention among the points of a set.

An encoder of SABs or, with induced points, ISABs; a decoder that pools by attention (PMA); see `blocks.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from zoo.models.family import Family
from zoo.models.point_cloud import PointCloudConfig, PointCloudModel, check_no_mixer
from zoo.models.set_transformer.blocks import SeedPooling, encoder_block
from zoo.models.set_transformer.mapping import TORCH_GEOMETRIC
from zoo.nn.frontends.points import PointEmbedding
from zoo.nn.heads import TokenClassificationHead
from zoo.nn.lengths import AnyLengths
from zoo.nn.stack import Stack


@dataclass(frozen=True, kw_only=True)
class SetTransformerConfig(PointCloudConfig):
    """induced_points: M, learned points of each block through which the points attend to each other in O(N M); None:
    directly, in O(N^2). seeds: learned queries that pool the points. decoder_depth: blocks of attention among what the
    seeds found. pool: whether these are joined or averaged. mlp_dim: hidden width of a block's MLP; None: one linear
    layer, as the authors have it. layer_norm: whether blocks have norms. attention: the kind of the encoder; seeds have
    softmax. See PointCloudConfig for the other fields."""

    induced_points: int | None = 32
    seeds: int = 1
    decoder_depth: int = 0
    pool: Literal["concat", "mean"] = "concat"
    layer_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_depth < 0:
            raise ValueError(f"decoder_depth={self.decoder_depth}: expected at least 0")


class SetTransformer(PointCloudModel):
    """forward(points [B, N, F], attention_mask [B, N]) -> output of the head; see PointCloudModel."""

    def __init__(self, config: SetTransformerConfig) -> None:
        super().__init__(config)
        check_no_mixer(config)
        self.points = PointEmbedding(config.in_features, config.width)
        self.blocks = Stack(encoder_block(config, layer) for layer in range(config.depth))
        self.head = self.make_head()

    @property
    def num_features(self) -> int:
        """Width of the pooled features: that of all seeds with pool="concat"."""
        return self.config.width * (self.config.seeds if self.config.pool == "concat" else 1)

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head == "token":
            return TokenClassificationHead(c.width, c.num_classes, c.dropout)
        if c.head is None:
            return None
        return SeedPooling(c, c.num_classes if c.head == "classify" else None)

    def encode_points(
        self,
        points: Tensor,
        attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> tuple[Any, Tensor | None]:
        keep, lengths = self.masks(points, attention_mask, lengths)
        drop = self.drop_padding and self.config.induced_points is None
        return self.blocks(self.embed(points), keep=keep, lengths=lengths, layers=layers, drop_padding=drop), keep


# "small" has the sizes of the authors' code for point clouds; no weights are published.
VARIANTS: dict[str, dict[str, Any]] = {
    "set_transformer_tiny": dict(width=64, induced_points=16),
    "set_transformer_small": {},
    "set_transformer_base": dict(width=256, depth=4, heads=8, seeds=4, decoder_depth=1),
}

FAMILY = Family(
    "set_transformer",
    SetTransformer,
    SetTransformerConfig,
    "point_cloud",
    VARIANTS,
    {},
    {"torch_geometric": TORCH_GEOMETRIC},
)
