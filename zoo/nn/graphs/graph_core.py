"""Base class of attention kinds that can compute the edges of a graph alone."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nn.core import Core, masked_softmax
from zoo.nn.graphs.edges import Edges, EdgeSoftmax, Products, WeightedSums, sum_of_edges
from zoo.nn.graphs.graph_mask import EdgeBias, EdgeInputs, GraphMask, TracedGraph
from zoo.nn.masks import NO_MASK, AnyMask, MaskView
from zoo.nn.position_biases import AnyBias, Bias, BiasView, Sum, as_bias
from zoo.nn.sdpa import check_inputs, repeat_kv, soft_capped


class EdgeCore(Core):
    """Base class of kinds with a score for each pair of query and key, and a softmax over the keys.

    Where the mask is a `GraphMask` alone, `forward` computes its edges in time and memory O(E), or reads the matrix of
    all pairs, as `GraphMask.sparse` says; both give the same outputs. Subclasses define `edge_scores` beside `weights`.
    """

    def edge_scores(self, q: Tensor, k: Tensor, edges: Edges, edge_keys: Tensor | None = None) -> Tensor:
        """The scores [E, R] of edges for q, k [R, N, P]; R counts rows and heads. edge_keys: [E, R, P]."""
        raise NotImplementedError

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        graph = self.sparse_graph(mask, q, k)
        return super().forward(q, k, v, mask, bias) if graph is None else self.attend_edges(q, k, v, graph, bias)

    def sparse_graph(self, mask: AnyMask, q: Tensor, k: Tensor) -> GraphMask | None:
        """The graph whose edges are computed alone; None for all pairs."""
        graph = self.graph_alone(mask, q, k)
        return graph if graph is not None and graph.sparse else None

    def graph_alone(self, mask: AnyMask, q: Tensor, k: Tensor) -> GraphMask | None:
        """The graph of all queries and keys that is the only mask; None for other masks."""
        inner = mask.inner if isinstance(mask, MaskView) and not mask.depends_on_batch else mask
        if not isinstance(inner, GraphMask) or self.pattern != NO_MASK:
            return None
        return inner if q.shape[2] == k.shape[2] == inner.nodes else None

    @torch.compiler.disable(reason="attention over the edges of a graph: compile it without fullgraph=True")
    def attend_edges(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        graph: GraphMask,
        bias: AnyBias = None,
        edge_inputs: EdgeInputs | None = None,
    ) -> Tensor:
        """The outputs [B, H, N, P] from the edges alone."""
        check_inputs(q, k, v)
        rows, heads = q.shape[:2]
        if isinstance(graph, TracedGraph):
            return self.attend_pairs(q, k, v, graph, bias, edge_inputs)
        weights = self.weights_of_edges(q, k, graph, bias, None if edge_inputs is None else edge_inputs.keys)
        if self.dropout:
            weights = F.dropout(weights, self.dropout)
        values = repeat_kv(v, heads).flatten(0, 1).to(weights.dtype)
        y = WeightedSums.apply(weights, values, graph.edges)  # R N P
        if edge_inputs is not None and edge_inputs.values is not None:
            parts = weights[..., None] * of_rows(edge_inputs.values, rows).to(weights.dtype)  # E R P
            y = y + sum_of_edges(parts.flatten(1), graph.edges).unflatten(1, parts.shape[1:]).transpose(0, 1)
        return y.unflatten(0, (rows, heads)).to(v.dtype)

    def attend_pairs(
        self, q: Tensor, k: Tensor, v: Tensor, graph: TracedGraph, bias: AnyBias, edge_inputs: EdgeInputs | None
    ) -> Tensor:
        """`attend_edges` where the values of edges are those of all pairs of nodes."""
        (rows, heads), grid = q.shape[:2], (graph.nodes, graph.nodes)
        scores = self.scores_of_edges(q, k, graph, bias, None if edge_inputs is None else edge_inputs.keys)
        weights = masked_softmax(scores.T.unflatten(1, grid).masked_fill(~graph.pairs, -torch.inf))  # R N N
        y = weights @ repeat_kv(v, heads).flatten(0, 1).to(weights.dtype)
        if edge_inputs is not None and edge_inputs.values is not None:
            values = of_rows(edge_inputs.values, rows).to(weights.dtype).unflatten(0, grid)  # N N R P
            y = y + torch.einsum("rts,tsrp->rtp", weights, values)
        return y.unflatten(0, (rows, heads)).to(v.dtype)

    def weights_of_edges(
        self, q: Tensor, k: Tensor, graph: GraphMask, bias: AnyBias, edge_keys: Tensor | None
    ) -> Tensor:
        """Attention weights [E, R], in float32 at least."""
        return EdgeSoftmax.apply(self.scores_of_edges(q, k, graph, bias, edge_keys), graph.edges)

    def scores_of_edges(
        self, q: Tensor, k: Tensor, graph: GraphMask, bias: AnyBias, edge_keys: Tensor | None
    ) -> Tensor:
        """Scores [E, R] with the bias, in float32 at least."""
        rows, heads = q.shape[:2]
        dtype = torch.promote_types(q.dtype, torch.float32)
        k = repeat_kv(k, heads).flatten(0, 1).to(dtype)
        keys = None if edge_keys is None else of_rows(edge_keys, rows).to(dtype)
        scores = self.edge_scores(q.flatten(0, 1).to(dtype), k, graph.edges, keys)
        if (added := as_bias(bias)) is not None:
            scores = scores + of_rows(at_edges(added, graph), rows).to(dtype)
        return scores

    def edge_products(self, q: Tensor, k: Tensor, edges: Edges, edge_keys: Tensor | None = None) -> Tensor:
        """q . k * scale of edges [E, R], with the soft cap of the model."""
        scores = Products.apply(q * self.scale, k, edges)
        if edge_keys is not None:
            queries = q.transpose(0, 1).index_select(0, edges.target)  # E R P
            scores = scores + (queries * edge_keys).sum(-1) * self.scale
        return soft_capped(scores, self.spec.softcap)


class EdgeFeatureCore(EdgeCore):
    """Base class of the kinds that read features of the edges, which are then computed alone."""

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: AnyMask = None,
        bias: AnyBias = None,
        edge_inputs: EdgeInputs | None = None,
    ) -> Tensor:
        """`Core.forward`. Raises ValueError for edge_inputs with a mask that is not their graph alone."""
        if edge_inputs is None:
            return super().forward(q, k, v, mask, bias)
        graph = edge_inputs.graph
        if self.graph_alone(mask, q, k) is not graph:
            raise ValueError(
                f"features of edges need their own graph of {q.shape[2]} nodes as the only mask, given {mask!r:.200} "
                f"and the pattern {self.pattern!r:.100}"
            )
        return self.attend_edges(q, k, v, graph, bias, edge_inputs)

    def maps(
        self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None, edge_inputs: EdgeInputs | None = None
    ) -> Tensor:
        """`Core.maps`; with edge_inputs, the weights of the edges of their graph."""
        if edge_inputs is None:
            return super().maps(q, k, mask, bias)
        graph = edge_inputs.graph
        graph.check_dense()
        weights = self.weights_of_edges(q, k, graph, bias, edge_inputs.keys).T  # R E
        pairs = weights.new_zeros(len(weights), graph.nodes * graph.nodes).index_copy(1, graph.codes, weights)
        return pairs.view(*q.shape[:2], graph.nodes, graph.nodes).to(q.dtype)


def of_rows(values: Tensor, rows: int) -> Tensor:
    """Values of edges and heads [E, H, ...] (or of edges, heads and rows) -> [E, R, ...], repeated for each row."""
    return values if rows == 1 or values.shape[1] == 1 else values.repeat(1, rows, *[1] * (values.ndim - 2))


def at_edges(bias: Bias, graph: GraphMask) -> Tensor:
    """The values of a bias at the edges of a graph, [E, H or 1]. Raises ValueError for one that differs in rows."""
    if bias.batch != 1:
        raise ValueError(f"the bias has values for {bias.batch} rows, and a graph is one row for all: give one bias")
    if isinstance(bias, BiasView) and bias.q is None and bias.k is None:
        return at_edges(bias.inner, graph)
    if isinstance(bias, Sum):
        return at_edges(bias.left, graph) + at_edges(bias.right, graph)
    if isinstance(bias, EdgeBias) and bias.graph is graph:
        return bias.values
    edges, device = graph.edges, graph.codes.device
    heads = torch.arange(bias.heads, device=device)[None]
    row = torch.zeros(1, 1, dtype=torch.long, device=device)
    found: Any = bias(row, heads, edges.target[:, None], edges.source[:, None])
    return found.expand(len(edges), bias.heads)
