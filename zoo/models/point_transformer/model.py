"""The point transformer (Zhao et al. 2021, https://arxiv.org/abs/2012.09164): attention among the nearest points.

In stages, as figure 3 of the paper: blocks of vector attention among the nearest neighbors, then fewer points of more
channels. Norms are layer norms instead of batch norms, so that a cloud gives the same output in any batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.models.family import Family
from zoo.models.point_cloud import PointCloudConfig, PointCloudModel, check_no_mixer, check_unordered
from zoo.models.point_transformer.attention import VectorAttentionLayer
from zoo.models.point_transformer.mapping import TORCH_GEOMETRIC
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.core import CoreSpec
from zoo.nn.frontends.points import PointEmbedding
from zoo.nn.heads import TextClassificationHead, TextPooling, TokenClassificationHead
from zoo.nn.lengths import AnyLengths
from zoo.nn.masks import TensorMask
from zoo.nn.mlp import activation
from zoo.nn.neighbors import NeighborMask, farthest_points, nearest_neighbors, take
from zoo.nn.stack import Stack


@dataclass(frozen=True, kw_only=True)
class PointTransformerConfig(PointCloudConfig):
    """attention: None for the published vector attention, which has a weight for each channel; another kind, with its
    `heads`, replaces it in all layers, among the same neighbors. neighbors: K, the nearest points that a point attends
    to, itself among them.

    depth, width: of the last stage. stages: blocks of the stages before, each of which ends with a transition to 1 /
    stride of the points, of double width. mlp_dim: 0 for the published blocks, which have no MLP. pair_dim: hidden
    width of the MLPs of pairs of points; None: that of the stage. qkv_bias: whether q, k and v have a bias. See
    PointCloudConfig for the other fields."""

    width: int = 512
    mlp_dim: int | None = 0
    stages: tuple[int, ...] = (1, 2, 3, 5)
    stride: int = 4
    neighbors: int = 16
    pair_dim: int | None = None
    qkv_bias: bool = False
    attention: Any = None
    may_be_zero: ClassVar[tuple[str, ...]] = ("mlp_dim",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride < 2:
            raise ValueError(f"stride={self.stride}: expected at least 2")
        if any(blocks < 1 for blocks in self.stages):
            raise ValueError(f"stages={self.stages}: expected at least one block in each stage")
        if self.width % 2 ** len(self.stages):
            raise ValueError(
                f"width={self.width} is halved {len(self.stages)} times, once for each of stages={self.stages}: "
                f"expected a multiple of {2 ** len(self.stages)}"
            )
        if self.head == "token" and self.stages:
            raise ValueError(
                "head='token' is for each of the points, of which later stages have some only: set stages=()"
            )

    def width_of(self, stage: int) -> int:
        """The width of a stage; that of number len(stages) is the last."""
        return self.width // 2 ** (len(self.stages) - stage)


class TransitionDown(nn.Module):
    """Fewer points of more channels: each point of a sample has the maximum of its nearest neighbors in each channel of
    act(norm(proj(x))); the sample is that of `farthest_points`, a fraction 1 / stride of the real points of a cloud."""

    def __init__(self, width: int, out_width: int, config: PointTransformerConfig) -> None:
        super().__init__()
        self.stride, self.neighbors, self.act = config.stride, config.neighbors, activation(config.act)
        self.proj, self.norm = nn.Linear(width, out_width), nn.LayerNorm(out_width, config.norm_eps)

    def forward(self, x: Tensor, places: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """x [B, N, D], places [B, N, 3], keep [B, N] -> those of the sample, [B, M, 2D], [B, M, 3] and [B, M]."""
        count = -(-x.shape[1] // self.stride)
        sample = farthest_points(places, count, keep)
        chosen = take(places, sample)
        index = nearest_neighbors(chosen, places, self.neighbors, keep)
        y = take(self.act(self.norm(self.proj(x))), index)  # B M K D
        if keep is None:
            return y.amax(2), chosen, None
        real = take(keep[..., None], index)
        counts = (keep.sum(1, keepdim=True) + self.stride - 1) // self.stride
        new = torch.arange(count, device=x.device) < counts
        y = y.masked_fill(~real, torch.finfo(y.dtype).min).amax(2)
        return y.masked_fill(~new[..., None], 0.0), chosen, new


class Stage(nn.Module):
    """A stage before the last: blocks, then fewer points."""

    def __init__(self, config: PointTransformerConfig, number: int, first: int) -> None:
        super().__init__()
        width = config.width_of(number)
        self.blocks = make_stack(config, width, first, config.stages[number])
        self.down = TransitionDown(width, 2 * width, config)


def make_stack(config: PointTransformerConfig, width: int, first: int, depth: int) -> Stack:
    """Blocks number `first` to `first + depth - 1` of the model."""
    c, total = config, sum(config.stages) + config.depth
    kind = "softmax" if c.attention is None else c.attention
    spec = BlockConfig.of(c, width=width, attention=kind, order="pre")
    blocks = [spec.block(layer, total) for layer in range(first, first + depth)]
    for block in blocks:
        check_unordered(block.mixer, kind)
        if c.attention is None:
            vector = CoreSpec(width, width, 1, dropout=c.attention_dropout)
            block.mixer = VectorAttentionLayer(width, vector, hidden=c.pair_dim or width, act=c.act, bias=c.qkv_bias)
    return Stack(blocks, spec.make_norm())


class PointTransformer(PointCloudModel):
    """forward(points [B, N, F], attention_mask [B, N]) -> output of the head; see PointCloudModel.

    The first three numbers of a point are its place. Of points at equal distances that cannot all be neighbors, and of
    equally far points in a sample, which one is chosen may depend on their order. The hidden states of `encode`, and
    its `layers`, are those of the last stage, [B, M, D], and have zeros behind the sample of a smaller cloud.
    """

    def __init__(self, config: PointTransformerConfig) -> None:
        super().__init__(config)
        c = config
        check_no_mixer(c)
        self.points = PointEmbedding(c.in_features, c.width_of(0))
        starts = [sum(c.stages[:i]) for i in range(len(c.stages))]
        self.stages = nn.ModuleList(Stage(c, i, first) for i, first in enumerate(starts))
        self.blocks = make_stack(c, c.width, sum(c.stages), c.depth)
        self.head = self.make_head()

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head == "token":
            return TokenClassificationHead(c.width, c.num_classes, c.dropout)
        if c.head == "classify":
            return TextClassificationHead("mean", c.width, c.num_classes, dense=c.act, dropout=c.dropout)
        return TextPooling("mean", c.width) if c.head == "pool" else None

    def context(self, places: Tensor, keep: Tensor | None) -> Context:
        """The neighbors of the points at places [B, N, 3], for the blocks of one stage."""
        neighbors = NeighborMask.of(places, self.config.neighbors, keep)
        if self.config.attention is None:
            return Context(mask=neighbors)
        return Context(mask=TensorMask(neighbors.dense(places.shape[1], places.shape[1])))

    def encode_points(
        self,
        points: Tensor,
        attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> tuple[Any, Tensor | None]:
        mask, _ = self.masks(points, attention_mask, lengths)
        x = self.embed(points)
        keep = None if mask is None else mask.bool()
        places = points[..., :3]
        places = places if places.dtype == torch.float64 else places.float()  # half precision has few places
        stage: Any
        for stage in self.stages:
            x = stage.blocks(x, self.context(places, keep), drop_padding=False)
            x, places, keep = stage.down(x, places, keep)
        y = self.blocks(x, self.context(places, keep), layers=layers, drop_padding=False)
        if keep is None:
            return y, None
        real = keep[..., None]
        return (y * real if layers is None else (y[0] * real, [each * real for each in y[1]])), keep


VARIANTS: dict[str, dict[str, Any]] = {
    "point_transformer_tiny": dict(width=64, depth=1, stages=(1, 1), neighbors=8),
    "point_transformer_small": dict(width=128, depth=2, stages=(1, 1, 2)),
    # the classification network of the paper
    "point_transformer_base": {},
}

FAMILY = Family(
    "point_transformer",
    PointTransformer,
    PointTransformerConfig,
    "point_cloud",
    VARIANTS,
    {},
    {"torch_geometric": TORCH_GEOMETRIC},
)
