"""Embedding of a sequence of text tokens and the tokens of an image after them (DALL-E, MaskGIT)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.init import STD, Initializer, trunc_normal_


class TextAndImageEmbedding(nn.Module):
    """ids [B, N] -> [B, N, D]: token embeddings plus positions, learned for the text, axial for the image.

    The ids of image tokens follow those of text tokens. An image token at (row, column) of the grid has the sum of the
    embeddings of its row and of its column (Ho et al. 2019).
    text_tokens, image_tokens: sizes of the vocabularies. text_length: positions before the image. grid: rows and
    columns of the image.
    """

    def __init__(
        self, text_tokens: int, image_tokens: int, text_length: int, grid: tuple[int, int], width: int, dropout: float
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(text_tokens, width)
        self.image = nn.Embedding(image_tokens, width)
        self.positions = nn.Parameter(torch.empty(text_length, width))
        self.rows = nn.Parameter(torch.empty(grid[0], width))
        self.columns = nn.Parameter(torch.empty(grid[1], width))
        self.dropout = dropout

    def initialize(self, generator_for: Initializer) -> None:
        for name in ("positions", "rows", "columns"):
            trunc_normal_(getattr(self, name), STD, generator_for(name))

    def forward(
        self, ids: Tensor, positions: Tensor, types: Tensor | None = None, words: Tensor | None = None
    ) -> Tensor:
        """positions [N] or [B, N]: position of each token in its row. types: None; these tokens have none. words [B, N,
        D]: token embeddings, instead of those of the ids."""
        first, length = self.word.num_embeddings, len(self.positions)
        if words is None:
            is_image = (ids >= first)[..., None]
            words = torch.where(is_image, self.image((ids - first).clamp(min=0)), self.word(ids.clamp(max=first - 1)))
        place = (positions - length).clamp(min=0)
        width = len(self.columns)
        row, column = torch.div(place, width, rounding_mode="floor"), place % width
        of_image = F.embedding(row, self.rows) + F.embedding(column, self.columns)
        of_text = F.embedding(positions.clamp(max=length - 1), self.positions)
        x = words + torch.where((positions >= length)[..., None], of_image, of_text)
        return F.dropout(x, self.dropout) if self.training and self.dropout else x
