"""Attention among the edges of triangles: of all pairs that start, or end, at the same residue."""

from typing import Any

from torch import Tensor, nn

from zoo.models.evoformer.chunks import Chunks, at
from zoo.models.evoformer.gated_attention import GatedAttention, attend_within_rows
from zoo.models.evoformer.part import Part
from zoo.nn.core import CoreSpec


class TriangleAttention(Part):
    """TriangleAttentionStartingNode, or with ending=True ...EndingNode (Jumper et al. 2021, supplement, algorithms 13
    and 14): the pair (i, j) attends to all pairs (i, k), with a bias of (j, k); ending: to (k, j), with one of (k, i).

    forward(pair [B, N, N, C], keep [B, N, N] or None) -> [B, N, N, C].
    """

    def __init__(
        self,
        width: int,
        spec: CoreSpec,
        attention: Any = "softmax",
        *,
        ending: bool,
        eps: float,
        dropout: float,
    ) -> None:
        super().__init__(dropout, shares=2 if ending else 1)
        self.ending = ending
        self.dim = 2 if ending else 1
        self.norm = nn.LayerNorm(width, eps)
        self.pair_bias = nn.Linear(width, spec.heads, bias=False)
        self.attention = GatedAttention(width, spec, attention)

    def turned(self, x: Tensor) -> Tensor:
        """x with rows and columns in each other's place if it is the end that pairs share."""
        return x.transpose(1, 2) if self.ending else x

    def prepare(self, x: Tensor, *inputs: Any, chunks: Chunks) -> Any:
        bias = chunks.map(lambda part, _: self.pair_bias(self.norm(part)), x, 1)  # B N N H
        return self.turned(bias).permute(0, 3, 1, 2), *inputs

    def update(self, x: Tensor, where: slice, shared: Any) -> Tensor:
        bias, keep = shared
        keep = None if keep is None else self.turned(at(keep, where, self.dim))
        return self.turned(attend_within_rows(self.attention, self.norm(self.turned(x)), keep, bias))
