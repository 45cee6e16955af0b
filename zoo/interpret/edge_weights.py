"""Attention weights of the edges of a graph, for `zoo.capture`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.interpret.selected_maps import compute_maps
from zoo.nn.core import Core
from zoo.nn.graphs.graph_core import EdgeCore
from zoo.nn.graphs.graph_mask import GraphMask
from zoo.nn.masks import MaskView, as_mask


class EdgeWeights(NamedTuple):
    """Attention weights of the edges of a graph, as torch_geometric's `return_attention_weights=True` gives them.

        edge_index, weights = maps["blocks.0.mixer"]

    edge_index: int64 [2, E], the sources and targets of the edges, sorted by target, then by source; each edge once,
    with the self-loops that the model adds. Target i attends to source j, so a map of all pairs has the weight at
    [i, j]. weights: [E, H], or what `reduce` of `zoo.capture` makes of them. Those of the edges to a node sum to 1.
    """

    edge_index: Tensor
    weights: Any

    def read(self, maps: Tensor) -> "EdgeWeights":
        """These edges with the weights that they have in a map of all pairs [1, H, N, N]."""
        source, target = self.edge_index
        return self._replace(weights=maps[0][:, target, source].T.contiguous())


def graph_in(mask: Any, q: Tensor, k: Tensor) -> GraphMask | None:
    """The graph of all queries and keys among the parts of a mask; None if there is none."""
    if isinstance(mask, MaskView) and mask.depends_on_batch:
        return None
    found = next((part for part in as_mask(mask).parts() if isinstance(part, GraphMask)), None)
    return found if found is not None and q.shape[2] == k.shape[2] == found.nodes else None


def the_row(rows: list[int] | None, count: int, name: str) -> int:
    """The one row of a batch that is chosen. Raises ValueError for several."""
    chosen = list(range(count)) if rows is None else rows
    if len(chosen) != 1:
        raise ValueError(f"{name} attends along the edges of a graph in {len(chosen)} rows: choose one with rows=")
    return chosen[0]


def compute_edge_weights(
    core: Core,
    q: Tensor,
    k: Tensor,
    mask: Any,
    bias: Any,
    row: int,
    heads: list[int] | None,
    extra: Mapping[str, Any],
    graph: GraphMask,
) -> EdgeWeights:
    """The weights [E, H] of the edges of `graph` in one row, of all heads or some: q [B, H, N, P], k [B, G, N, P].

    Kinds that compute edges alone do so, in memory O(E); of others it is the matrix of all pairs, read at the edges.
    """
    found = EdgeWeights(graph.edge_index, None)
    inputs = extra.get("edge_inputs")
    others = extra.keys() - {"edge_inputs"}
    if others or not isinstance(core, EdgeCore) or core.graph_alone(mask, q, k) is not graph:
        return found.read(compute_maps(core, q, k, mask, bias, [row], heads, extra))
    with torch.no_grad():
        keys = None if inputs is None else inputs.keys
        weights = core.weights_of_edges(q[row : row + 1], k[row : row + 1], graph, bias, keys).to(q.dtype)
    return found._replace(weights=weights if heads is None else weights[:, heads])
