"""The Evoformer block and the stack of them."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.models.evoformer.chunks import WHOLE, Chunks
from zoo.models.evoformer.msa_attention import MSAColumnAttention, MSARowAttention
from zoo.models.evoformer.outer_product_mean import OuterProductMean
from zoo.models.evoformer.transition import Transition
from zoo.models.evoformer.triangle_attention import TriangleAttention
from zoo.models.evoformer.triangle_multiplication import TriangleMultiplication
from zoo.nn.core import CoreSpec
from zoo.nn.registry import for_layer

Masks = tuple[Tensor | None, Tensor | None]  # True for what is real: of the alignment [B, S, N], of pairs [B, N, N]


class EvoformerBlock(nn.Module):
    """One block (Jumper et al. 2021, supplement, algorithm 6): the alignment is updated, with the pairs as a bias; then
    the pairs, from the alignment and from each other.

    forward(msa [B, S, N, D], pair [B, N, N, C], masks) -> (msa, pair).
    """

    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        c, eps = config, config.norm_eps
        rows = CoreSpec(c.heads, c.heads, c.resolved_head_dim, layer, c.depth)
        pairs = CoreSpec(c.pair_heads, c.pair_heads, c.resolved_pair_head_dim, layer, c.depth)
        kind = for_layer(c.attention, layer, c.depth)
        columns = kind if c.column_attention is None else for_layer(c.column_attention, layer, c.depth)
        multiply = dict(eps=eps, dropout=c.pair_dropout)
        self.row_attention = MSARowAttention(c.width, c.pair_width, rows, kind, eps=eps, dropout=c.dropout)
        self.column_attention = MSAColumnAttention(c.width, rows, columns, eps=eps)
        self.msa_transition = Transition(c.width, c.mlp_dim or 4 * c.width, eps=eps)
        self.outer_product_mean = OuterProductMean(c.width, c.pair_width, c.outer_width, eps=eps)
        hidden = c.triangle_width or c.pair_width
        self.triangle_outgoing = TriangleMultiplication(c.pair_width, hidden, incoming=False, **multiply)
        self.triangle_incoming = TriangleMultiplication(c.pair_width, hidden, incoming=True, **multiply)
        self.triangle_starting = TriangleAttention(c.pair_width, pairs, kind, ending=False, **multiply)
        self.triangle_ending = TriangleAttention(c.pair_width, pairs, kind, ending=True, **multiply)
        self.pair_transition = Transition(c.pair_width, c.pair_mlp_dim or 4 * c.pair_width, eps=eps)

    def forward(
        self, msa: Tensor, pair: Tensor, masks: Masks = (None, None), chunks: Chunks = WHOLE
    ) -> tuple[Tensor, Tensor]:
        keep, keep_pair = masks
        own = Chunks(chunks.size, inplace=not torch.is_grad_enabled())  # for what this block has computed
        msa = self.row_attention(msa, pair, keep, chunks=chunks)
        msa = self.column_attention(msa, keep, chunks=own)
        msa = self.msa_transition(msa, chunks=own)
        pair = self.outer_product_mean(pair, msa, keep, chunks=chunks)
        pair = self.triangle_outgoing(pair, keep_pair, chunks=own)
        pair = self.triangle_incoming(pair, keep_pair, chunks=own)
        pair = self.triangle_starting(pair, keep_pair, chunks=own)
        pair = self.triangle_ending(pair, keep_pair, chunks=own)
        return msa, self.pair_transition(pair, chunks=own)


class EvoformerStack(nn.ModuleList):
    """Blocks. checkpointing: recompute activations in the backward pass instead of storing them. chunk_size: number of
    rows or columns that a part of a block computes at once, None for all."""

    def __init__(self, config: Any) -> None:
        super().__init__(EvoformerBlock(config, layer) for layer in range(config.depth))
        self.checkpointing = False
        self.chunk_size: int | None = config.chunk_size

    def forward(
        self, msa: Tensor, pair: Tensor, masks: Masks = (None, None), layers: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """(msa, pair, {number of each block in `layers`: its output for the first sequence [B, N, D]}).

        Without gradients and with a chunk_size, both inputs are overwritten.
        """
        grad, outputs = torch.is_grad_enabled(), {}
        chunks = Chunks(self.chunk_size, inplace=not grad)
        for i, block in enumerate(self):
            if self.checkpointing and grad:
                msa, pair = cast(Any, checkpoint(block, msa, pair, masks, chunks, use_reentrant=False))
            else:
                msa, pair = block(msa, pair, masks, chunks)
            if i in layers:
                outputs[i] = msa[:, 0] if grad else msa[:, 0].clone()
        return msa, pair, outputs
