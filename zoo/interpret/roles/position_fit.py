"""How much of an attention map its positions alone explain, over inputs of different content."""

import torch
from torch import Tensor

from zoo.interpret.roles.batches import PositionBins


class PositionFit:
    """Predicts the map of each input from the maps of the others, for one layer; see `scores`."""

    def __init__(self) -> None:
        self.inputs = 0
        self.sum: Tensor | None = None  # of the maps [H, N, M]
        self.squares: Tensor | None = None  # of their weights [H]
        self.total: Tensor | None = None  # of their squared differences from uniform attention [H]
        self.by_offset: list[Tensor] = []  # sums of the weights of each input by offset [B, H, K]
        self.cells: Tensor | None = None  # pairs of each offset [K]

    def add(self, maps: Tensor, uniform: Tensor, bins: PositionBins) -> None:
        """Add maps [B, H, N, M] of inputs of one length, and uniform attention over the same keys."""
        count = bins.queries.to(maps.device)
        maps = maps.double() * count[:, None]
        difference = maps - uniform.double() * count[:, None]
        offsets = bins.offsets.to(maps.device).flatten()
        size = int(offsets.max()) + 1
        sums = maps.new_zeros(*maps.shape[:2], size).index_add_(2, offsets, maps.flatten(2))
        cells = count[:, None].expand(bins.offsets.shape).flatten().double()
        self.cells = maps.new_zeros(size).index_add_(0, offsets, cells)
        added = maps.sum(0), maps.square().sum((0, 2, 3)), difference.square().sum((0, 2, 3))
        before = self.sum, self.squares, self.total
        self.sum, self.squares, self.total = (
            new if old is None else old + new for old, new in zip(before, added, strict=True)
        )
        self.by_offset.append(sums)
        self.inputs += len(maps)

    def scores(self) -> dict[str, Tensor]:
        """{"position", "relative_position"}: how well the maps of other inputs predict the map of an input [H].

        1 - residual / total: the residual is the sum of squared differences from the mean map of the other inputs (from
        its mean over pairs of equal offset), the total that from uniform attention. 1: content has no influence; 0:
        positions explain nothing, or attention is uniform.
        """
        n = self.inputs
        assert n > 1 and self.sum is not None and self.squares is not None
        assert self.total is not None and self.cells is not None
        residual = (n / (n - 1)) ** 2 * (self.squares - self.sum.square().sum((1, 2)) / n)
        sums = torch.cat(self.by_offset)  # B H K
        predicted = (sums.sum(0) - sums) / ((n - 1) * self.cells).clamp(min=1)
        relative = self.squares + (predicted * (self.cells * predicted - 2 * sums)).sum((0, 2))
        none = self.total <= 1e-12 * self.squares
        total = self.total.masked_fill(none, 1.0)
        return {
            name: (1 - rest / total).clamp(min=0).masked_fill(none, 0.0)
            for name, rest in (("position", residual), ("relative_position", relative))
        }
