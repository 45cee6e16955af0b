"""Statistics of attention maps [B, H, N, M], as `zoo.capture` returns them: rollout, entropy, distance."""

import re
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zoo.interpret.activations import Activations
from zoo.interpret.edge_weights import EdgeWeights


class AttentionMaps(Activations):
    """Maps by the names of their layers: [B, H, N, M] (or `EdgeWeights`, see `zoo.capture`), or a list of them for a
    layer that runs several times.

    missing: {name: class} of the selected layers that have no attention weights.
    """

    def note(self) -> str:
        """What is missing, in one sentence."""
        names = [f"{name} ({kind})" for name, kind in self.missing.items()]
        more = [f"and {len(names) - 3} more"] if len(names) > 3 else []
        return f"these layers have no attention weights, and so no map: {', '.join(names[:3] + more)}"


def rollout(maps: Mapping[str, Tensor] | Sequence[Tensor], residual: float = 0.5) -> Tensor:
    """Attention rollout: how much each output token depends on each input token, over all layers. [B, N, N].

    Abnar and Zuidema 2020 (https://arxiv.org/abs/2005.00928): maps are averaged over heads, mixed with the identity for
    the residual connection, and multiplied. maps: self-attention maps of one stack, [B, H, N, N] each, first layer
    first; rows without attention (padding) stay zero. residual: weight of the identity. Raises ValueError for maps of
    several stacks, by their names, and for those of cross-attention. Warns if layers between them mix tokens without
    attention weights, which a rollout cannot follow.
    """
    check_one_stack(maps)
    if isinstance(maps, AttentionMaps) and maps.missing:
        warnings.warn(f"the rollout follows the attention layers alone: {maps.note()}", stacklevel=2)
    layers = list(maps.values()) if isinstance(maps, Mapping) else list(maps)
    if not layers:
        raise ValueError("no maps given: rollout needs the maps of all layers")
    if not 0 <= residual < 1:
        raise ValueError(f"residual={residual}: expected a fraction of at least 0 and less than 1")
    if any(isinstance(w, EdgeWeights) for w in layers):
        raise ValueError("rollout multiplies maps of all pairs, given weights of edges: expected those of "
                         "zoo.capture(model, edges=False), of a graph of up to 8,192 nodes")  # fmt: skip
    square = all(isinstance(w, Tensor) and w.ndim == 4 and w.shape[2] == w.shape[3] for w in layers)
    if not square or len({(w.shape[0], w.shape[2]) for w in layers}) > 1:
        raise ValueError(
            "rollout needs self-attention maps [B, H, N, N] of one stack, one map per layer; select them "
            "with zoo.capture(model, layers=...)"
        )
    rolled: Tensor | None = None
    for weights in layers:
        mixed = weights.mean(1)
        attends = (mixed != 0).any(-1, keepdim=True)
        identity = torch.eye(mixed.shape[-1], dtype=mixed.dtype, device=mixed.device)
        mixed = ((1 - residual) * mixed + residual * identity) * attends
        mixed = mixed / mixed.sum(-1, keepdim=True).masked_fill(~attends, 1.0)
        rolled = mixed if rolled is None else mixed @ rolled
    assert rolled is not None
    return rolled


def check_one_stack(maps: Mapping[str, Tensor] | Sequence[Tensor]) -> None:
    """Raises ValueError for maps whose names are of several stacks: the maps of two sides may have the same size."""
    names = list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in maps)) if isinstance(maps, Mapping) else []
    if crossed := [name for name in names if name.endswith(".cross")]:
        raise ValueError(
            f"rollout needs self-attention maps, given those of {crossed[0]}: select those of one stack, as in "
            "zoo.capture(model, layers='encoder.blocks.*.mixer')"
        )
    if len(stacks := list(dict.fromkeys(name.partition(".*.")[0] for name in names if ".*." in name))) > 1:
        raise ValueError(
            f"rollout needs the maps of one stack, given those of {' and '.join(stacks)}: select one, as in "
            f"zoo.capture(model, layers='{stacks[0]}.*.mixer')"
        )


def entropy(weights: Tensor | EdgeWeights) -> Tensor:
    """Entropy in nats of each head's attention, [B, H, N, M] -> [B, H]: 0 for one key, log M for uniform weights.

    Mean over queries, without those that attend to nothing (padding). Of the weights of edges [E, H] it is [1, H].
    """
    if isinstance(weights, EdgeWeights):
        target = weights.edge_index[1]
        return torch.special.entr(weights.weights).sum(0)[None] / max(1, len(target.unique()))
    if (weights < 0).any():
        raise ValueError("some weights are negative (random features can estimate such): they have no entropy")
    return mean_over_queries(torch.special.entr(weights).sum(-1), weights)


def distance(weights: Tensor, grid: tuple[int, int] | None = None, prefix: int = 0) -> Tensor:
    """Mean attention distance of each head, [B, H, N, M] -> [B, H]: from query to key, weighted by attention.

    grid: (rows, columns) of patches, for Euclidean distances in patches (Dosovitskiy et al. 2021, figure 7); None for
    distances in a sequence, in tokens. prefix: number of tokens before the patches (class token, registers), which are
    excluded as queries and keys.
    """
    weights = weights[:, :, prefix:, prefix:]
    queries, keys = weights.shape[2:]
    if queries != keys or (grid is not None and grid[0] * grid[1] != queries):
        raise ValueError(
            f"the map has {queries} queries and {keys} keys after prefix={prefix}; expected equal numbers"
            + ("" if grid is None else f", {grid[0]} x {grid[1]}")
        )
    columns = queries if grid is None else grid[1]
    line = torch.arange(queries, device=weights.device)
    positions = torch.stack([line // columns, line % columns], 1).to(torch.promote_types(weights.dtype, torch.float32))
    distances = torch.cdist(positions, positions)
    total = weights.sum(-1)
    return mean_over_queries((weights * distances).sum(-1) / total.masked_fill(total == 0, 1.0), weights)


def mean_over_queries(values: Tensor, weights: Tensor) -> Tensor:
    """values [B, H, N] -> [B, H]: mean over the queries that attend to something."""
    attends = (weights != 0).any(-1)
    return (values * attends).sum(-1) / attends.sum(-1).clamp(min=1)
