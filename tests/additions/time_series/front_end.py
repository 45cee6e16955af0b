"""Patch embedding of time series."""

import torch
from torch import Tensor, nn

from zoo.nn.init import STD, Initializer, trunc_normal_


class TimeSeriesEmbedding(nn.Module):
    """Time series [B, T, C] -> tokens [B, T / patch_size, D]: patches of all channels, plus position embeddings."""

    def __init__(self, length: int, channels: int, patch_size: int, width: int) -> None:
        super().__init__()
        self.shape, self.patch_size = (length, channels), patch_size
        self.proj = nn.Linear(patch_size * channels, width)
        self.positions = nn.Parameter(torch.empty(length // patch_size, width))

    def initialize(self, generator_for: Initializer) -> None:
        trunc_normal_(self.positions, STD, generator_for("positions"))

    def forward(self, series: Tensor) -> Tensor:
        if tuple(series.shape[1:]) != self.shape:
            raise ValueError(f"expected time series [B, {self.shape[0]}, {self.shape[1]}], got {tuple(series.shape)}")
        return self.proj(series.unflatten(1, (-1, self.patch_size)).flatten(2)) + self.positions
