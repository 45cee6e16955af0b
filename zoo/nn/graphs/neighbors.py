"""Neighbors and samples of points in space, for each cloud of a batch by itself."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from zoo.nn.index_functions import Index
from zoo.nn.masks import Mask

PAIRS = 1 << 22  # distances that are computed at once


def nearest_neighbors(queries: Tensor, points: Tensor, count: int, keep: Tensor | None = None) -> Tensor:
    """The `count` nearest points of each query: queries [B, M, 3], points [B, N, 3] -> their numbers [B, M, K].

    K is the smaller of count and N; the nearest come first, and of equally near points any. keep [B, N]: True at real
    points; padding comes last, so a cloud of fewer than K real points has some at the end. Distances are computed a few
    queries at a time, so memory is O(M K).
    """
    rows, size = points.shape[:2]
    count = min(count, size)
    # a graph, which is for any number of points, has no parts
    in_parts = not torch.compiler.is_compiling()
    found = []
    with torch.no_grad():
        for part in queries.split(max(1, PAIRS // max(rows * size, 1)), 1) if in_parts else (queries,):
            distances = squared_distances(part, points)
            if keep is not None:
                distances = distances.masked_fill(~keep[:, None], torch.inf)
            found.append(distances.topk(count, dim=-1, largest=False).indices)
    return torch.cat(found, 1)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """[B, M, 3], [B, N, 3] -> [B, M, N], from differences: a product of matrices would lose half of the digits."""
    x, y, z = ((a[:, :, None, i] - b[:, None, :, i]).square() for i in range(3))
    return x + y + z


def farthest_points(points: Tensor, count: int, keep: Tensor | None = None) -> Tensor:
    """Farthest point sampling (Eldar et al. 1997): points [B, N, 3] -> numbers of a sample [B, count].

    It begins with the point that is farthest from the centroid, and each next one is the farthest from all before. So
    the sample is the same for any order of the points, up to ties, of which the first is taken. keep [B, N]: True at
    real points. A cloud with fewer than `count` real points has all of them, and then some of them again.
    """
    rows = torch.arange(points.shape[0], device=points.device)
    with torch.no_grad():
        if keep is None:
            centroid = points.mean(1, keepdim=True)
        else:
            real = keep[..., None].to(points.dtype)
            centroid = (points * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
        hidden = None if keep is None else ~keep
        nearest = (points - centroid).square().sum(-1)
        chosen = []
        for number in range(count):
            # padding is below any distance
            index = (nearest if hidden is None else nearest.masked_fill(hidden, -1.0)).argmax(1)
            chosen.append(index)
            distances = (points - points[rows, index][:, None]).square().sum(-1)
            nearest = distances if number == 0 else torch.minimum(nearest, distances)
    return torch.stack(chosen, 1)


def take(x: Tensor, index: Tensor) -> Tensor:
    """The rows x[b, index[b]] of x [B, N, D], index [B, ...] -> [B, ..., D]."""
    rows, size = x.shape[:2]
    shift = torch.arange(rows, device=x.device).view(-1, *[1] * (index.ndim - 1)) * size
    return x.flatten(0, 1).index_select(0, (index + shift).flatten()).view(*index.shape, x.shape[-1])


def interpolate(x: Tensor, places: Tensor, queries: Tensor, keep: Tensor | None = None, count: int = 3) -> Tensor:
    """Features at other places: x [B, M, D] of the points at places [B, M, 3], queries [B, N, 3] -> [B, N, D].

    The mean of the `count` nearest points, weighted by the inverse of their squared distances (Qi et al. 2017,
    PointNet++, equation 2); at the place of a point, its own features. keep [B, M]: True at real points; a cloud of
    fewer than `count` has those alone.
    """
    index = nearest_neighbors(queries, places, count, keep)
    distances = (queries[:, :, None] - take(places, index)).square().sum(-1)
    weights = 1 / distances.clamp(min=1e-16)
    if keep is not None:
        weights = weights * take(keep[..., None], index)[..., 0]
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-16)
    return (take(x, index) * weights[..., None].to(x.dtype)).sum(2)


@dataclass(frozen=True, eq=False)
class NeighborMask(Mask):
    """Each point attends to its neighbors: index [B, N, K], their numbers, and real [B, N, K], True where there is one;
    None: everywhere. offsets [B, N, K, 3]: from the neighbors to the point."""

    index: Tensor = field(repr=False)
    real: Tensor | None = field(repr=False)
    offsets: Tensor = field(repr=False)

    @classmethod
    def of(cls, places: Tensor, count: int, keep: Tensor | None = None) -> "NeighborMask":
        """The `count` nearest real points of each point, itself among them; padding has none. places [B, N, 3], keep
        [B, N]: True at real points."""
        index = nearest_neighbors(places, places, count, keep)
        real = None if keep is None else take(keep[..., None], index)[..., 0] & keep[..., None]
        return cls(index, real, places[:, :, None] - take(places, index))

    @property
    def batch(self) -> int:  # type: ignore[override]
        return self.index.shape[0]

    def scatter(self, values: Tensor) -> Tensor:
        """Values of the pairs [B, ..., N, K] as a matrix [B, ..., N, N], zeros at other pairs."""
        index = self.index.view(self.index.shape[0], *[1] * (values.ndim - 3), *self.index.shape[1:]).expand_as(values)
        return values.new_zeros(*values.shape[:-1], self.index.shape[1]).scatter(-1, index, values)

    def dense(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        allowed = torch.ones_like(self.index, dtype=torch.bool) if self.real is None else self.real
        return self.scatter(allowed)[:, None, -queries:]

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.dense(self.index.shape[1], self.index.shape[1])[b, h * 0, q, k]

    def select_rows(self, rows: list[int]) -> "NeighborMask":
        """The mask of some rows of the batch."""
        return NeighborMask(self.index[rows], None if self.real is None else self.real[rows], self.offsets[rows])
