"""The point transformer (Zhao et al. 2021, https://arxiv.org/abs/2012.09164): attention among the nearest points.

In stages, as figure 3 of the paper: blocks of vector attention among the nearest neighbors, then fewer points of more
channels; for an output at each point, a decoder back to all points. Norms are layer norms instead of batch norms, so
that a cloud gives the same output in any batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from zoo.models.family import Family
from zoo.models.point_cloud import PointCloudConfig, PointCloudModel, check_no_mixer, check_unordered
from zoo.models.point_transformer.attention import VectorAttentionLayer
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.core import CoreSpec
from zoo.nn.frontends.points import PointEmbedding
from zoo.nn.graphs.neighbors import NeighborMask, farthest_points, interpolate, nearest_neighbors, take
from zoo.nn.heads import TextClassificationHead, TextPooling, TokenClassificationHead
from zoo.nn.lengths import AnyLengths
from zoo.nn.masks import TensorMask
from zoo.nn.mlp import activation
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
    decoder_depth: int = 1
    stride: int = 4
    neighbors: int = 16
    pair_dim: int | None = None
    qkv_bias: bool = False
    attention: Any = None
    may_be_zero: ClassVar[tuple[str, ...]] = ("mlp_dim",)
    added_later: ClassVar[Mapping[str, Any]] = {"decoder_depth": 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride < 2:
            raise ValueError(f"stride={self.stride}: expected at least 2")
        if self.decoder_depth < 1:
            raise ValueError(f"decoder_depth={self.decoder_depth}: expected at least 1")
        if any(blocks < 1 for blocks in self.stages):
            raise ValueError(f"stages={self.stages}: expected at least one block in each stage")
        if self.width % 2 ** len(self.stages):
            raise ValueError(
                f"width={self.width} is halved {len(self.stages)} times, once for each of stages={self.stages}: "
                f"expected a multiple of {2 ** len(self.stages)}"
            )

    @property
    def has_decoder(self) -> bool:
        """Whether the output is for each of the points, of which the last stage has some only."""
        return self.head == "token" and bool(self.stages)

    def width_of(self, stage: int) -> int:
        """The width of a stage; that of number len(stages) is the last."""
        return self.width // 2 ** (len(self.stages) - stage)


class TransitionDown(nn.Module):
    """Fewer points of more channels: each point of a sample has the maximum of its nearest neighbors in each channel of
    act(norm(proj(x))); the sample is that of `farthest_points`, a fraction 1 / stride of the real points of a cloud."""

    fixed_length_graph = True  # as of a loop over the points

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


@dataclass(frozen=True)
class Points:
    """The points of a stage: places [B, N, 3], keep [B, N], True at real points or None, and their neighbors."""

    places: Tensor
    keep: Tensor | None
    context: Context


class TransitionUp(nn.Module):
    """More points of fewer channels (section 3.4): act(norm(proj(x))) of the sample, interpolated at the points before
    it, plus act(norm(proj(skip))) of what the encoder has made of these points."""

    def __init__(self, width: int, out_width: int, config: PointTransformerConfig) -> None:
        super().__init__()
        self.act = activation(config.act)
        self.proj, self.norm = nn.Linear(width, out_width), nn.LayerNorm(out_width, config.norm_eps)
        self.skip_proj, self.skip_norm = nn.Linear(out_width, out_width), nn.LayerNorm(out_width, config.norm_eps)

    def forward(self, x: Tensor, sample: Points, skip: Tensor, points: Points) -> Tensor:
        """x [B, M, D] of a sample, skip [B, N, D / 2] of all points -> [B, N, D / 2]."""
        y = interpolate(self.act(self.norm(self.proj(x))), sample.places, points.places, sample.keep)
        return y + self.act(self.skip_norm(self.skip_proj(skip)))


class Stage(nn.Module):
    """A stage before the last: blocks, then fewer points."""

    def __init__(self, config: PointTransformerConfig, number: int, first: int) -> None:
        super().__init__()
        width = config.width_of(number)
        self.blocks = make_stack(config, width, first, config.stages[number])
        self.down = TransitionDown(width, 2 * width, config)


class DecoderStage(nn.Module):
    """A stage of the decoder: more points, then blocks."""

    def __init__(self, config: PointTransformerConfig, number: int, first: int) -> None:
        super().__init__()
        width = config.width_of(number)
        self.up = TransitionUp(2 * width, width, config)
        self.blocks = make_stack(config, width, first, config.decoder_depth)


class SegmentationHead(nn.Module):
    """Scores of all points [B, N, C], by a decoder that is symmetric to the encoder (section 3.4).

    act(norm(bottom(x))) and blocks at the last stage, then a stage for each one of the encoder, the last of them first,
    and an MLP for each point.
    """

    def __init__(self, config: PointTransformerConfig) -> None:
        super().__init__()
        c, first = config, sum(config.stages) + config.depth
        self.act = activation(c.act)
        self.bottom, self.norm = nn.Linear(c.width, c.width), nn.LayerNorm(c.width, c.norm_eps)
        self.blocks = make_stack(c, c.width, first, c.decoder_depth)
        numbers = list(reversed(range(len(c.stages))))
        firsts = [first + (i + 1) * c.decoder_depth for i in range(len(numbers))]
        self.stages = nn.ModuleList(DecoderStage(c, *each) for each in zip(numbers, firsts))
        self.dense, self.dropout = nn.Linear(c.width_of(0), c.width_of(0)), nn.Dropout(c.dropout)
        self.proj = nn.Linear(c.width_of(0), c.num_classes)

    def forward(self, x: Tensor, skips: Sequence[Tensor], points: Sequence[Points]) -> Tensor:
        """x [B, M, D] of the last stage. skips: what the stages before it have made of their points; points: those of
        all stages."""
        x = self.blocks(self.act(self.norm(self.bottom(x))), points[-1].context, drop_padding=False)
        stage: Any
        for stage, skip, sample, more in zip(self.stages, skips[::-1], points[:0:-1], points[-2::-1]):
            x = stage.blocks(stage.up(x, sample, skip, more), more.context, drop_padding=False)
        return self.proj(self.dropout(self.act(self.dense(x))))


def make_stack(config: PointTransformerConfig, width: int, first: int, depth: int) -> Stack:
    """Blocks number `first` to `first + depth - 1` of the model."""
    c, total = config, sum(config.stages) + config.depth
    total += (len(c.stages) + 1) * c.decoder_depth if c.has_decoder else 0
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
    head="token" leads back from there to all points, see `SegmentationHead`.
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
        if c.has_decoder:
            return SegmentationHead(c)
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

    def places(self, points: Tensor) -> dict[str, Tensor]:
        last, places = len(self.stages), points[..., :3]
        found = {}
        for stage in range(last + 1):
            found["" if stage == last else f"stages.{stage}"] = places[0]
            if self.config.has_decoder:
                found["head" if stage == last else f"head.stages.{last - 1 - stage}"] = places[0]
            places = take(places, farthest_points(places, -(-places.shape[1] // self.config.stride)))
        return found

    def run_stages(
        self,
        points: Tensor,
        attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> tuple[Any, list[Tensor], list[Points]]:
        """(what `encode` returns, the outputs of the stages before the last, the points of all stages)."""
        mask, _ = self.masks(points, attention_mask, lengths)
        x = self.embed(points)
        keep = None if mask is None else mask.bool()
        places = points[..., :3]
        places = places if places.dtype == torch.float64 else places.float()  # half precision has few places
        skips, made = [], [Points(places, keep, self.context(places, keep))]
        stage: Any
        for stage in self.stages:
            skips.append(stage.blocks(x, made[-1].context, drop_padding=False))
            x, places, keep = stage.down(skips[-1], places, keep)
            made.append(Points(places, keep, self.context(places, keep)))
        y = self.blocks(x, made[-1].context, layers=layers, drop_padding=False)
        if keep is None:
            return y, skips, made
        real = keep[..., None]
        return (y * real if layers is None else (y[0] * real, [each * real for each in y[1]])), skips, made

    def encode_points(
        self,
        points: Tensor,
        attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> tuple[Any, Tensor | None]:
        y, _, made = self.run_stages(points, attention_mask, lengths, layers=layers)
        return y, made[-1].keep

    def outputs(self, points: Tensor, attention_mask: Tensor | None, lengths: AnyLengths | None) -> Tensor:
        if not self.config.has_decoder:
            return super().outputs(points, attention_mask, lengths)
        head = cast(SegmentationHead, self.head)
        y: Tensor = head(*self.run_stages(points, attention_mask, lengths))
        return y


VARIANTS: dict[str, dict[str, Any]] = {
    "point_transformer_tiny": dict(width=64, depth=1, stages=(1, 1), neighbors=8),
    "point_transformer_small": dict(width=128, depth=2, stages=(1, 1, 2)),
    # the classification network of the paper
    "point_transformer_base": {},
}

FAMILY = Family("point_transformer", PointTransformer, PointTransformerConfig, "point_cloud", VARIANTS)
