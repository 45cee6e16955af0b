"""Neighbors and samples of points in space, for each cloud of a batch by itself."""

import torch
from torch import Tensor

PAIRS = 1 << 22  # distances that are computed at once


def nearest_neighbors(queries: Tensor, points: Tensor, count: int, keep: Tensor | None = None) -> Tensor:
    """The `count` nearest points of each query: queries [B, M, 3], points [B, N, 3] -> their numbers [B, M, K].

    K is the smaller of count and N; the nearest come first, and of equally near points any. keep [B, N]: True at real
    points; padding comes last, so a cloud of fewer than K real points has some at the end. Distances are computed a few
    queries at a time, so memory is O(M K).
    """
    rows, size = points.shape[:2]
    count = min(count, size)
    chunk = size_of_chunk(rows, size, queries.shape[1])
    found = []
    with torch.no_grad():
        for part in queries.split(chunk, 1):
            # exact differences: the product of matrices that is faster for many points loses half of the digits
            distances = torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist")
            if keep is not None:
                distances = distances.masked_fill(~keep[:, None], torch.inf)
            found.append(distances.topk(count, dim=-1, largest=False).indices)
    return torch.cat(found, 1)


def size_of_chunk(rows: int, size: int, queries: int) -> int:
    """Queries whose distances are computed at once; all of them in a graph, which is for any number."""
    return queries if torch.compiler.is_compiling() else max(1, PAIRS // max(rows * size, 1))


def farthest_points(points: Tensor, count: int, keep: Tensor | None = None) -> Tensor:
    """Farthest point sampling (Eldar et al. 1997): points [B, N, 3] -> numbers of a sample [B, count].

    It begins with the point that is farthest from the centroid, and each next one is the farthest from all before. So
    the sample is the same for any order of the points, up to ties, of which the first is taken. keep [B, N]: True at
    real points. A cloud with fewer than `count` real points has all of them, and then some of them again.
    """
    rows = torch.arange(len(points), device=points.device)
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
