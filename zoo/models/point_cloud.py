"""Base classes of models of point clouds: inputs, padding and heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zoo.models.base import Model
from zoo.models.config import Config, ProblemType
from zoo.nn.frontends.points import PointEmbedding
from zoo.nn.lengths import AnyLengths, Lengths
from zoo.nn.masks import NO_MASK
from zoo.nn.mixers.base import MIXERS
from zoo.nn.registry import for_layer, resolve
from zoo.nn.stack import Stack
from zoo.preprocessing.point_cloud import PointCloudProcessor

HEADS = ("classify", "token", "pool", None)


@dataclass(frozen=True, kw_only=True)
class PointCloudConfig(Config):
    """Base config of families of point clouds.

    in_features: numbers of a point, its coordinates x, y, z and its features. num_classes: of head="classify" for a
    cloud, and of head="token" for each point. problem_type: of head="classify", see `ProblemType`.
    """

    head: str | None = "classify"
    in_features: int = 3
    num_classes: int = 40
    problem_type: ProblemType | None = None
    width: int = 128
    depth: int = 2
    heads: int = 4
    kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    act: str = "relu"
    norm_eps: float = 1e-5
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    attention: Any = "softmax"
    mixer: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.allow_heads(*HEADS)
        if self.in_features < 3:
            raise ValueError(f"in_features={self.in_features}: expected at least 3, the coordinates of a point")


class PointCloudModel(Model):
    """forward(points [B, N, F], attention_mask [B, N]) -> output of the head: classify [B, C], token [B, N, C], ...

    points: x, y, z and features of each point, in any order: the outputs of the points permute with them, and the
    output for a cloud stays the same. attention_mask is 1 for real points; padding may be at any place and does not
    affect the output. lengths: see `Model.check_lengths`.
    """

    inputs = ("points", "attention_mask", "lengths")
    points: PointEmbedding
    blocks: Stack

    def default_preprocess(self) -> PointCloudProcessor:
        return PointCloudProcessor(in_features=self.config.in_features)

    def places(self, points: Tensor) -> dict[str, Tensor]:
        """The places [N, 3] of the points that each stack computes of one cloud [1, N, F], by what stands before
        `blocks` in its name: "" of a model with one stack."""
        return {"": points[0, :, :3]}

    def embed(self, points: Tensor) -> Tensor:
        """[B, N, F] -> [B, N, D]."""
        return self.points(points)

    def masks(
        self, points: Tensor, attention_mask: Tensor | None, lengths: AnyLengths | None
    ) -> tuple[Tensor | None, Lengths | None]:
        """(mask of real points [B, N], their number in each row on the host), of checked inputs.

        Both are None if all points are real, the last also if the host does not know them.
        """
        self.points.check(points, attention_mask)
        return self.check_lengths(lengths, attention_mask, points)

    def encode_points(
        self,
        points: Tensor,
        attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> tuple[Any, Tensor | None]:
        """(what `encode` returns, the mask of the real ones among its hidden states or None)."""
        raise NotImplementedError

    def encode(
        self,
        points: Tensor,
        attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> Any:
        return self.encode_points(points, attention_mask, lengths, layers=layers)[0]

    def forward(
        self,
        points: Tensor | None = None,
        attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
        **unknown: Any,
    ) -> Tensor:
        if type(unknown) is not dict or unknown or points is None:
            points = self.check_inputs(unknown, points)
        return self.outputs(points, attention_mask, lengths)

    def outputs(self, points: Tensor, attention_mask: Tensor | None, lengths: AnyLengths | None) -> Tensor:
        """What `forward` returns, of checked inputs."""
        x, keep = self.encode_points(points, attention_mask, lengths)
        y: Tensor = x if self.head is None else self.head(x, keep)
        return y


def check_unordered(attention: Any, kind: Any) -> None:
    """Raise ValueError for an attention kind whose outputs depend on the order of the points."""
    if attention.gate is not None or attention.core.pattern != NO_MASK:
        raise ValueError(
            f"attention={kind!r} depends on the order of its tokens, and points of a set have none: choose 'softmax', "
            "'additive', 'linear', 'performer' or another kind without a pattern or gates"
        )


def check_no_mixer(config: Any) -> None:
    """Raise ValueError for a mixer: unknown ones by their names, others as they read tokens in their order."""
    for layer in range(config.depth):
        kind = for_layer(config.mixer, layer, config.depth)
        if kind is not None and kind != "attention":
            resolve(kind, MIXERS)
            raise ValueError(
                f"mixer={kind!r} reads tokens in their order, and points of a set have none: omit mixer=, and choose "
                "among the kinds of attention="
            )
