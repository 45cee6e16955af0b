"""Attention in an alignment: within its rows, with the pairs of residues as a bias, and within its columns."""

from typing import Any

from torch import Tensor, nn

from zoo.models.evoformer.chunks import Chunks, at
from zoo.models.evoformer.gated_attention import GatedAttention, attend_within_rows
from zoo.models.evoformer.part import Part
from zoo.nn.core import CoreSpec


class MSARowAttention(Part):
    """MSARowAttentionWithPairBias (Jumper et al. 2021, supplement, algorithm 7): each sequence attends to its residues.

    forward(msa [B, S, N, D], pair [B, N, N, C], keep [B, S, N] or None) -> [B, S, N, D].
    """

    def __init__(
        self, width: int, pair_width: int, spec: CoreSpec, attention: Any = "softmax", *, eps: float, dropout: float
    ) -> None:
        super().__init__(dropout)
        self.norm = nn.LayerNorm(width, eps)
        self.pair_norm = nn.LayerNorm(pair_width, eps)
        self.pair_bias = nn.Linear(pair_width, spec.heads, bias=False)
        self.attention = GatedAttention(width, spec, attention)

    def prepare(self, x: Tensor, *inputs: Any, chunks: Chunks) -> Any:
        pair, keep = inputs
        bias = chunks.map(lambda part, _: self.pair_bias(self.pair_norm(part)), pair, 1)  # B N N H
        return bias.permute(0, 3, 1, 2), keep

    def update(self, x: Tensor, where: slice, shared: Any) -> Tensor:
        bias, keep = shared
        return attend_within_rows(self.attention, self.norm(x), None if keep is None else at(keep, where, 1), bias)


class MSAColumnAttention(Part):
    """MSAColumnAttention (algorithm 8): each residue attends to those of the other sequences at its place.

    forward(msa [B, S, N, D], keep [B, S, N] or None) -> [B, S, N, D].
    """

    dim = 2

    def __init__(self, width: int, spec: CoreSpec, attention: Any = "softmax", *, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps)
        self.attention = GatedAttention(width, spec, attention)

    def update(self, x: Tensor, where: slice, shared: Any) -> Tensor:
        (keep,) = shared
        keep = None if keep is None else at(keep, where, 2).transpose(1, 2)
        return attend_within_rows(self.attention, self.norm(x).transpose(1, 2), keep, None).transpose(1, 2)
