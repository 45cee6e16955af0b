"""Token ids to vectors: word, position and type embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.init import STD, Initializer, trunc_normal_


class TextEmbedding(nn.Module):
    """ids [B, N] -> [B, N, D]: word embeddings, plus learned positions and types where there are any.

    max_length: tokens that the position table has rows for (None: positions enter elsewhere), behind `first` rows that
    no token takes; types: rows of the type table (0: none); norm: applied to the sum; dropout: behind it.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        *,
        max_length: int | None = None,
        first: int = 0,
        types: int = 0,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(torch.empty(max_length + first, width)) if max_length else None
        self.types = nn.Embedding(types, width) if types else None
        self.norm, self.dropout, self.first = norm, dropout, first
        self.looked = False

    def initialize(self, draw: Initializer) -> None:
        if self.positions is not None:
            trunc_normal_(self.positions, STD, draw("positions"))

    def forward(self, ids: Tensor, positions: Tensor, types: Tensor | None = None) -> Tensor:
        """positions [N] or [B, N]: the place of each token among the real ones of its row; types [B, N], default 0."""
        x = self.look_up(self.word, ids, "token id")
        if self.types is not None:
            x = x + (self.types.weight[0] if types is None else self.look_up(self.types, types, "token_type_id"))
        elif types is not None and not torch.compiler.is_compiling() and bool(types.any()):
            raise ValueError("token_type_ids other than 0: this model has no token types")
        if self.positions is not None:
            self.refuse_long(ids)
            x = x + F.embedding(positions + self.first, self.positions)
        if self.norm is not None:
            x = self.norm(x)
        return F.dropout(x, self.dropout, self.training)

    def refuse_long(self, ids: Tensor, start: int = 0) -> None:
        """An error that says how long a text may be."""
        assert self.positions is not None
        most = len(self.positions) - self.first
        if start + ids.shape[1] > most:
            raise ValueError(
                f"{start + ids.shape[1]} tokens, but the model has positions for max_length={most}: truncate the text "
                "(model.preprocess(..., truncate='cut')), or split it"
            )

    def look_up(self, table: nn.Module, ids: Tensor, what: str) -> Tensor:
        """Rows of a table; an id that it does not have is an error that says where it stands.

        On a CPU the look-up itself notices. Elsewhere it would end the process, so the first batch is looked at; not
        all of them, which would make each step wait for the device.
        """
        if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(f"expected {what}s [B, N] of integers, given {tuple(ids.shape)} of {ids.dtype}")
        if torch.compiler.is_compiling() or ids.is_meta:
            return table(ids)
        if ids.device.type != "cpu" and not self.looked:
            refuse_foreign(ids, table, what)
            self.looked = True
        try:
            return table(ids)
        except IndexError:
            refuse_foreign(ids, table, what)
            raise


def refuse_foreign(ids: Tensor, table: nn.Module, what: str) -> None:
    """An error for the first id that the table has no row for."""
    rows = int(getattr(table, "num_embeddings", 0))
    foreign = ((ids < 0) | (ids >= rows)).nonzero()
    if len(foreign):
        row, place = foreign[0].tolist()
        raise ValueError(
            f"{what} {int(ids[row, place])} at row {row}, position {place}: the model knows 0 to {rows - 1}; "
            "was the text made into ids by this model's own tokenizer (model.preprocess)?"
        )


def count_positions(keep: Tensor | None, length: int, start: int, device: torch.device) -> Tensor:
    """The place of the last `length` tokens among the real ones of their row: [N], or [B, N] where rows differ.

    keep [B, M] covers all tokens so far (padding 0); start: how many came before these.
    """
    if keep is None:
        return torch.arange(start, start + length, device=device)
    return (keep.long().cumsum(1) - 1).clamp(min=0)[:, -length:]
