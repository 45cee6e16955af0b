"""Embedding of token ids: token, position and token-type embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.init import STD, Initializer, normal_, trunc_normal_
from zoo.nn.sinusoids import Layout, sinusoid_table, sinusoids_at


class WordEmbedding(nn.Embedding):
    """Token embeddings that begin with another standard deviation than usual (None: the usual one).

    padding_idx: the row that is zero at first and not trained by being read.
    """

    def __init__(self, rows: int, width: int, std: float | None = None, padding_idx: int | None = None) -> None:
        super().__init__(rows, width, padding_idx)
        self.std = std

    def initialize(self, generator_for: Initializer) -> None:
        if self.std is None:
            trunc_normal_(self.weight, STD, generator_for("weight"))
        else:
            normal_(self.weight, self.std, generator_for("weight"))
        if self.padding_idx is not None:
            self.weight[self.padding_idx].zero_()


class TextEmbedding(nn.Module):
    """ids [B, N] -> [B, N, D]: token embeddings, plus position and token-type embeddings where there are any.

    max_length: number of position embeddings (None: none are added). sinusoids: the layout of fixed ones, which are
    computed; None: they are learned. position_offset: number of unused rows before learned ones. types: number of token
    types (0: none). norm: applied to the sum. dropout: after the norm. scale: a factor of the token embeddings.
    padding_idx: the token whose embedding is not trained by being read.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        *,
        max_length: int | None = None,
        sinusoids: Layout | None = None,
        position_offset: int = 0,
        types: int = 0,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
        scale: float = 1.0,
        padding_idx: int | None = None,
    ) -> None:
        super().__init__()
        self.scale, self.max_length, self.sinusoids = scale, max_length, sinusoids
        std = None if scale == 1 else 1 / scale  # the products begin with a variance of 1
        plain = std is None and padding_idx is None
        self.word = nn.Embedding(vocab_size, width) if plain else WordEmbedding(vocab_size, width, std, padding_idx)
        rows = max_length + position_offset if max_length and sinusoids is None else 0
        self.positions = nn.Parameter(torch.empty(rows, width)) if rows else None
        self.types = nn.Embedding(types, width) if types else None
        self.norm, self.dropout, self.position_offset = norm, dropout, position_offset
        self.ids_checked = False

    def initialize(self, generator_for: Initializer) -> None:
        if self.positions is not None:
            trunc_normal_(self.positions, STD, generator_for("positions"))

    def embed_words(self, ids: Tensor) -> Tensor:
        """The token embeddings alone: ids [B, N] -> [B, N, D]."""
        x = self.lookup(self.word, ids, "token id")
        return x * self.scale if self.scale != 1 else x

    def forward(
        self, ids: Tensor, positions: Tensor, types: Tensor | None = None, words: Tensor | None = None
    ) -> Tensor:
        """positions [N] or [B, N]: position of each token among the real tokens of its row; types [B, N], default 0.
        words [B, N, D]: what stands in the place of `embed_words(ids)`, such as features of an image."""
        if words is None:
            words = self.lookup(self.word, ids, "token id") if self.scale == 1 else self.embed_words(ids)
        x = words
        if self.types is not None:
            x = x + (self.types.weight[0] if types is None else self.lookup(self.types, types, "token_type_id"))
        elif types is not None and not (torch.compiler.is_compiling() or self.ids_checked) and bool(types.any()):
            raise ValueError("token_type_ids contains values other than 0, but this model has no token types: omit it")
        if self.max_length and ids.shape[1] > self.max_length:
            raise self.length_error(ids.shape[1])
        if self.positions is not None:
            rows = positions + self.position_offset if self.position_offset else positions
            x = x + F.embedding(rows, self.positions)
        elif self.sinusoids is not None:
            x = x + self.fixed_positions(positions, x)
        if self.norm is not None:
            x = self.norm(x)
        return F.dropout(x, self.dropout) if self.training and self.dropout else x

    def fixed_positions(self, positions: Tensor, like: Tensor) -> Tensor:
        """Sinusoids of `positions` in the dtype of the embeddings `like` [B, N, D], from a table that is kept."""
        assert self.sinusoids is not None and self.max_length is not None
        width = like.shape[-1]
        if torch.compiler.is_compiling() or like.is_meta or type(like) is not Tensor:  # nothing to keep
            return sinusoids_at(positions, width, self.sinusoids).to(like.dtype)
        return F.embedding(positions, sinusoid_table(self.max_length, width, self.sinusoids, like.device, like.dtype))

    def length_error(self, tokens: int) -> ValueError:
        """The error for a text with more tokens than the model has positions."""
        return ValueError(
            f"got {tokens} tokens, but the model has max_length={self.max_length} positions: truncate the text "
            "(model.preprocess(..., truncate='cut')) or split it"
        )

    def lookup(self, table: nn.Module, ids: Tensor, name: str) -> Tensor:
        """Rows of an embedding table. Raises ValueError with the position of an id that is out of range.

        On the CPU the lookup itself raises. On a GPU an invalid id would abort the process, so the first batch is
        checked; checking each batch would synchronize with the device in every step.
        """
        if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(f"expected {name}s [B, N] of an integer dtype, got {tuple(ids.shape)} of {ids.dtype}")
        if ids.dtype not in (torch.int32, torch.int64):  # the only ones that embeddings take
            ids = ids.long()
        if torch.compiler.is_compiling() or ids.is_meta:
            return table(ids)
        if ids.device.type != "cpu" and not self.ids_checked:
            check_ids(ids, table, name)
            self.ids_checked = True
        try:
            return table(ids)
        except IndexError:
            check_ids(ids, table, name)
            raise


def check_ids(ids: Tensor, table: nn.Module, name: str) -> None:
    """Raise ValueError for the first id that is out of range."""
    rows = int(getattr(table, "num_embeddings", 0))
    out_of_range = ((ids < 0) | (ids >= rows)).nonzero()
    if len(out_of_range):
        row, column = out_of_range[0].tolist()
        raise ValueError(
            f"{name} {int(ids[row, column])} at row {row}, position {column} is out of range: expected 0 to "
            f"{rows - 1}. Was the text tokenized with this model's own tokenizer (model.preprocess)?"
        )


def count_positions(keep: Tensor | None, length: int, start: int, device: torch.device) -> Tensor:
    """Positions of the last `length` tokens among the real tokens of their row: [N], or [B, N] where rows differ.

    keep [B, M]: 1 or True for real tokens, for all tokens so far. start: number of tokens before these.
    """
    if keep is None:
        return torch.arange(start, start + length, device=device)
    return (keep.bool().cumsum(1) - 1).clamp(min=0)[:, -length:]
