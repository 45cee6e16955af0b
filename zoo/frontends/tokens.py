"""Token ids to vectors: word, position and type embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.init import STD, Draw, trunc_normal_


class Tokens(nn.Module):
    """ids [B, N] -> [B, N, D]: word embeddings, plus learned positions and types where there are any.

    max_length: rows of the position table (None: positions enter elsewhere); types: rows of the type table (0: none);
    norm: applied to the sum; dropout: behind it.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        *,
        max_length: int | None = None,
        types: int = 0,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(torch.empty(max_length, width)) if max_length else None
        self.types = nn.Embedding(types, width) if types else None
        self.norm, self.dropout = norm, dropout

    def initialise(self, draw: Draw) -> None:
        if self.positions is not None:
            trunc_normal_(self.positions, STD, draw("positions"))

    def forward(self, ids: Tensor, positions: Tensor, types: Tensor | None = None) -> Tensor:
        """positions [N] or [B, N]: the place of each token among the real ones of its row; types [B, N], default 0."""
        x = self.word(self.checked(ids))
        if self.types is not None:
            x = x + (self.types.weight[0] if types is None else self.types(types))
        elif types is not None and not torch.compiler.is_compiling() and bool(types.any()):
            raise ValueError("token_type_ids other than 0: this model has no token types")
        if self.positions is not None:
            self.refuse_long(ids)
            x = x + self.positions[positions]
        if self.norm is not None:
            x = self.norm(x)
        return F.dropout(x, self.dropout, self.training)

    def refuse_long(self, ids: Tensor, start: int = 0) -> None:
        """An error that says how long a text may be."""
        assert self.positions is not None
        if start + ids.shape[1] > len(self.positions):
            raise ValueError(
                f"{start + ids.shape[1]} tokens, but the model has positions for max_length={len(self.positions)}: "
                "truncate the text (model.preprocess(..., truncate='cut')), or load with a larger max_length="
            )

    def checked(self, ids: Tensor) -> Tensor:
        if ids.ndim != 2 or ids.is_floating_point():
            raise ValueError(f"expected token ids [B, N] of integers, given {tuple(ids.shape)} of {ids.dtype}")
        return ids


def count_positions(keep: Tensor | None, length: int, start: int, device: torch.device) -> Tensor:
    """The place of the last `length` tokens among the real ones of their row: [N], or [B, N] where rows differ.

    keep [B, M] covers all tokens so far (padding 0); start: how many came before these.
    """
    if keep is None:
        return torch.arange(start, start + length, device=device)
    return (keep.long().cumsum(1) - 1).clamp(min=0)[:, -length:]
