"""The update of pairs from an alignment: the mean over all sequences of the outer products of two residues."""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.evoformer.chunks import Chunks, at
from zoo.models.evoformer.part import Part, ZeroLinear

EPS = 1e-3  # of the number of sequences that have both residues


class OuterProductMean(Part):
    """OuterProductMean (Jumper et al. 2021, supplement, algorithm 10), as in AlphaFold's code: the sum over the
    sequences goes through the output layer, bias included, and is divided by their number + 0.001.

    forward(pair [B, N, N, C], msa [B, S, N, D], keep [B, S, N] or None) -> [B, N, N, C].
    """

    def __init__(self, width: int, pair_width: int, hidden: int, *, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps)
        self.left = nn.Linear(width, hidden)
        self.right = nn.Linear(width, hidden)
        self.out = ZeroLinear(hidden * hidden, pair_width)

    def prepare(self, x: Tensor, *inputs: Any, chunks: Chunks) -> Any:
        msa, keep = inputs

        def project(linear: nn.Module) -> Tensor:
            def of_rows(part: Tensor, where: slice) -> Tensor:
                y = linear(self.norm(part))
                return y if keep is None else y * at(keep, where, 1)[..., None]

            return chunks.map(of_rows, msa, 1)  # B S N E

        return project(self.left), project(self.right), keep

    def update(self, x: Tensor, where: slice, shared: Any) -> Tensor:
        left, right, keep = shared
        left = at(left, where, 2)
        products = left.flatten(2).mT @ right.flatten(2)  # B nE NE
        products = products.unflatten(1, left.shape[2:]).unflatten(3, right.shape[2:])  # B n E N E
        y = self.out(products.transpose(2, 3).flatten(3))
        if keep is None:
            return y / (left.shape[1] + EPS)
        real = keep.to(y.dtype)
        count = torch.einsum("bsi,bsj->bij", at(real, where, 2), real)
        return y / (count[..., None] + EPS)
