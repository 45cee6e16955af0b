"""What can be read from attention maps [B, H, N, M], as `zoo.capture` makes them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def rollout(maps: Mapping[str, Tensor] | Sequence[Tensor], residual: float = 0.5) -> Tensor:
    """How much of each input token arrives at each output token, over all layers. [B, N, N].

    Abnar and Zuidema 2020 (https://arxiv.org/abs/2005.00928): maps averaged over heads, mixed with the identity that
    stands for the residual stream, and multiplied. maps: those of one stack's self-attention, [B, H, N, N] each, first
    layer first; rows that see nobody (padding) stay zeros.
    """
    layers = list(maps.values()) if isinstance(maps, Mapping) else list(maps)
    if not layers:
        raise ValueError("no maps given: rollout needs those of every layer")
    if not 0 <= residual < 1:
        raise ValueError(f"residual={residual}: expected a share of at least 0 and less than 1")
    square = all(isinstance(w, Tensor) and w.ndim == 4 and w.shape[2] == w.shape[3] for w in layers)
    if not square or len({(w.shape[0], w.shape[2]) for w in layers}) > 1:
        raise ValueError(
            "rollout needs self-attention maps [B, H, N, N] of one stack and of one call each; choose them with layers="
        )
    rolled: Tensor | None = None
    for weights in layers:
        mixed = weights.mean(1)
        seeing = (mixed != 0).any(-1, keepdim=True)
        identity = torch.eye(mixed.shape[-1], dtype=mixed.dtype, device=mixed.device)
        mixed = ((1 - residual) * mixed + residual * identity) * seeing
        mixed = mixed / mixed.sum(-1, keepdim=True).masked_fill(~seeing, 1.0)
        rolled = mixed if rolled is None else mixed @ rolled
    assert rolled is not None
    return rolled


def entropy(weights: Tensor) -> Tensor:
    """Entropy in nats of what each head attends to, [B, H, N, M] -> [B, H]: 0 for one key, log M for all alike.

    The mean over queries, those that see nobody (padding) left out.
    """
    if (weights < 0).any():
        raise ValueError("some weights are negative (estimates by random features can be): they have no entropy")
    return over_queries(torch.special.entr(weights).sum(-1), weights)


def distance(weights: Tensor, grid: tuple[int, int] | None = None, prefix: int = 0) -> Tensor:
    """How far each head looks, [B, H, N, M] -> [B, H]: the mean distance from a query to its keys, weighted.

    grid: (rows, columns) of patches, distances are then Euclidean and in patches (Dosovitskiy et al. 2021, figure 7);
    None counts tokens along a line. The `prefix` tokens before them (class token, registers) are left out as queries
    and as keys.
    """
    weights = weights[:, :, prefix:, prefix:]
    queries, keys = weights.shape[2:]
    if queries != keys or (grid is not None and grid[0] * grid[1] != queries):
        raise ValueError(
            f"the map has {queries} queries and {keys} keys behind prefix={prefix}; expected as many of both"
            + ("" if grid is None else f", {grid[0]} x {grid[1]} of them")
        )
    columns = queries if grid is None else grid[1]
    line = torch.arange(queries, device=weights.device)
    places = torch.stack([line // columns, line % columns], 1).to(torch.promote_types(weights.dtype, torch.float32))
    far = torch.cdist(places, places)
    total = weights.sum(-1)
    return over_queries((weights * far).sum(-1) / total.masked_fill(total == 0, 1.0), weights)


def over_queries(values: Tensor, weights: Tensor) -> Tensor:
    """values [B, H, N] -> [B, H], the mean over the queries that see somebody."""
    seeing = (weights != 0).any(-1)
    return (values * seeing).sum(-1) / seeing.sum(-1).clamp(min=1)
