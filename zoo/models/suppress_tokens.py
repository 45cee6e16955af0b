"""A processor of scores that families share: (tokens so far [rows, T], scores [rows, V]) -> scores."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SuppressTokens:
    """Tokens that are never written; at: only not as the token at this place."""

    tokens: tuple[int, ...]
    at: int | None = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        if self.at is not None and ids.shape[1] != self.at:
            return scores
        return scores.index_fill(1, torch.tensor(self.tokens, device=scores.device), -torch.inf)
