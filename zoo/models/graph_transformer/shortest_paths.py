"""Shortest paths between the nodes of each graph of a batch."""

import torch
from torch import Tensor

from zoo.models.graph import numbers_of_graphs

MAX_PAIRS = 1 << 24  # of nodes of the same graph in a batch


def all_pairs(edge_index: Tensor, sizes: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """(pairs int64 [2, P], distances int64 [P]) of the nodes of the same graph, sorted by target, then source.

    The distance is the number of edges of the shortest path from the source to the target, at most `longest`; longer
    ones, and those between nodes that no path joins, are longest + 1.

    Args:
        edge_index: Edges int64 [2, E], sources and targets.
        sizes: Nodes of each graph int64 [G], on the device of the edges.
        longest: At least 1.

    Raises: ValueError for more than 16,777,216 pairs.
    """
    largest, nodes = int(sizes.max()), int(sizes.sum())
    if len(sizes) * largest * largest > MAX_PAIRS:
        raise ValueError(f"shortest paths between all pairs of {len(sizes)} graphs with up to {largest:,} nodes: "
                         f"expected at most {MAX_PAIRS:,} pairs in a batch. Give fewer graphs at once, or use "
                         "structure='edges'")  # fmt: skip
    graph = numbers_of_graphs(sizes, nodes)
    place = torch.arange(nodes, device=sizes.device) - (sizes.cumsum(0) - sizes)[graph]
    steps = torch.zeros(len(sizes), largest, largest, device=sizes.device)  # [target, source]
    steps[graph[edge_index[1]], place[edge_index[1]], place[edge_index[0]]] = 1
    reached = torch.eye(largest, device=sizes.device).expand_as(steps)
    distances = torch.where(reached > 0, 0, longest + 1)
    for distance in range(1, longest + 1):
        reached = (steps @ reached > 0).float()
        new = (reached > 0) & (distances > distance)
        if not new.any():
            break
        distances[new] = distance
    real = torch.arange(largest, device=sizes.device) < sizes[:, None]
    which, target, source = (real[:, :, None] & real[:, None]).nonzero(as_tuple=True)
    first = (sizes.cumsum(0) - sizes)[which]
    return torch.stack([first + source, first + target]), distances[which, target, source]
