"""The base class of the nine parts of an Evoformer block, and the layers that they share."""

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.evoformer.chunks import WHOLE, Chunks
from zoo.nn.init import Initializer


class Part(nn.Module):
    """A residual update: forward(x, ...) -> x + dropout(update). x is the alignment [B, S, N, D] or the pairs
    [B, N, N, C].

    dim: the dimension of x along which the update can be computed in chunks. dropout: probability that a channel is
    dropped; shares: for all rows (1) or all columns (2) of x at once, as DropoutRowwise and DropoutColumnwise of the
    supplement, section 1.11.6.
    """

    dim = 1

    def __init__(self, dropout: float = 0.0, shares: int = 1) -> None:
        super().__init__()
        self.dropout, self.shares = dropout, shares

    def forward(self, x: Tensor, *inputs: Any, chunks: Chunks = WHOLE) -> Tensor:
        factor = None
        if self.training and self.dropout:
            shape = list(x.shape)
            shape[self.shares] = 1
            factor = F.dropout(x.new_ones(shape), self.dropout)
        return chunks.add(x, partial(self.update, shared=self.prepare(x, *inputs, chunks=chunks)), self.dim, factor)

    def prepare(self, x: Tensor, *inputs: Any, chunks: Chunks) -> Any:
        """What the updates of all chunks need."""
        return inputs

    def update(self, x: Tensor, where: slice, shared: Any) -> Tensor:
        """The update of a chunk x, which is at `where` along `dim`; shared: from `prepare`."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}, shares={self.shares}" if self.dropout else ""


class ZeroLinear(nn.Linear):
    """The last layer of a part: zeros at the start, so that a new block changes nothing (supplement, 1.11.4)."""

    def initialize(self, generator_for: Initializer) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Gate(nn.Linear):
    """The layer before a sigmoid gate, which is almost open at the start: weights of zero and biases of one
    (supplement, 1.11.4)."""

    def initialize(self, generator_for: Initializer) -> None:
        nn.init.zeros_(self.weight)
        nn.init.ones_(self.bias)
