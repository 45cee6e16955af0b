"""The first representations of an alignment and of the pairs of its residues."""

import torch
from torch import Tensor, nn

from zoo.nn.init import Initializer, normal_


class ResidueEmbedding(nn.Embedding):
    """A vector for each kind, as a linear layer of one-hot vectors has it: with a variance of 1 / number of kinds."""

    def initialize(self, generator_for: Initializer) -> None:
        normal_(self.weight, self.num_embeddings**-0.5, generator_for("weight"))


class AlignmentEmbedding(nn.Module):
    """InputEmbedder and relpos (Jumper et al. 2021, supplement, algorithms 3 and 4), of residues instead of features.

    A residue of the alignment is its own embedding and that of the query at its place. A pair is the sum of embeddings
    of both residues of the query and of their distance along the chain, at most `max_distance` either way.

    forward(msa [B, S, N], keep [B, N] or None) -> (msa [B, S, N, D], pair [B, N, N, C]). Positions count real residues.
    """

    def __init__(self, vocab_size: int, width: int, pair_width: int, max_distance: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.residue = ResidueEmbedding(vocab_size, width)
        self.query = ResidueEmbedding(vocab_size, width)
        self.left = ResidueEmbedding(vocab_size, pair_width)
        self.right = ResidueEmbedding(vocab_size, pair_width)
        self.distance = ResidueEmbedding(2 * max_distance + 1, pair_width)

    def forward(self, msa: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        query = msa[:, 0]
        if keep is None:
            positions = torch.arange(msa.shape[2], device=msa.device)[None]
        else:
            positions = keep.long().cumsum(1) - 1
        most = self.max_distance
        distance = (positions[:, :, None] - positions[:, None, :]).clamp(-most, most) + most
        pair = self.left(query)[:, :, None] + self.right(query)[:, None, :] + self.distance(distance)
        return self.residue(msa) + self.query(query)[:, None], pair
