"""Graphs as attention masks and biases: the mask of the edges, and values of edges that are added to the scores."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from zoo.nn.exporting import is_exporting
from zoo.nn.graphs.edges import Edges
from zoo.nn.index_functions import Index
from zoo.nn.masks import Mask
from zoo.nn.position_biases import Bias

# Attention takes the edges alone where there are at least so many nodes, and at most one edge for so many pairs.
SPARSE_NODES, SPARSE_PAIRS = 64, 8
DENSE_ENTRIES = 1 << 26  # of the matrix of all pairs, at most: 8,192 nodes


class GraphMask(Mask):
    """A graph of `nodes`: query `edges[1, e]` attends to key `edges[0, e]` (source, target, as in torch_geometric).

    edges: int64 [2, E], in any order. They are a set: an edge or a self-loop that is there twice counts once.
    self_loops: whether each node also attends to itself. A node without edges attends to nothing, and the attention of
    it is zero.
    sparse: whether attention kinds that can compute the edges alone, in O(E), do so instead of reading a matrix of all
    pairs; None: where there are at least 64 nodes and at most an eighth of the pairs are edges. Other kinds read the
    matrix, and refuse graphs of more than 8,192 nodes.
    features: of the edges [E, D], for layers that read them; the attribute has them in the order of `edge_index`.

    Raises ValueError for edges of another shape or type, and for nodes that are not there.
    """

    def __init__(
        self,
        edges: Tensor,
        nodes: int,
        self_loops: bool = True,
        sparse: bool | None = None,
        features: Tensor | None = None,
    ) -> None:
        if edges.ndim != 2 or edges.shape[0] != 2:
            raise ValueError(f"edges: expected shape [2, E], got {tuple(edges.shape)} (nodes={nodes})")
        if edges.numel() and (edges.is_floating_point() or edges.is_complex() or edges.dtype == torch.bool):
            raise ValueError(f"edges: expected integers, the numbers of nodes, got {edges.dtype} (nodes={nodes})")
        edges = edges.long()
        if edges.numel() and not 0 <= int(edges.min()) <= int(edges.max()) < nodes:
            raise ValueError(
                f"edges: expected node numbers 0 to {nodes - 1} (nodes={nodes}), got {int(edges.min())} to "
                f"{int(edges.max())}"
            )
        loops = torch.arange(nodes, device=edges.device) if self_loops else edges.new_empty(0)
        source, target = torch.cat([edges[0], loops]), torch.cat([edges[1], loops])
        self.nodes, self.self_loops, self.given = nodes, self_loops, edges
        self.codes = torch.unique(target * nodes + source)  # sorted, for binary search instead of an N x N matrix
        few = nodes >= SPARSE_NODES and len(self.codes) * SPARSE_PAIRS <= nodes * nodes
        self.sparse = few if sparse is None else sparse
        self.features = None if features is None else self.align(features)

    def __repr__(self) -> str:
        return f"GraphMask(nodes={self.nodes}, edges={self.given.shape[1]}, self_loops={self.self_loops})"

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        code = q * self.nodes + k
        if len(self.codes) == 0:
            return code < 0
        index = torch.searchsorted(self.codes, code.contiguous()).clamp(max=len(self.codes) - 1)
        return self.codes[index] == code

    @cached_property
    def edges(self) -> Edges:
        """The edges, sorted by target and source, each once."""
        nodes = max(self.nodes, 1)
        return Edges(self.codes % nodes, self.codes.div(nodes, rounding_mode="floor"), self.nodes)

    @property
    def edge_index(self) -> Tensor:
        """The edges [2, E], sources and targets, in the order of all values of edges: each once, with self-loops."""
        return torch.stack([self.edges.source, self.edges.target])

    def align(self, values: Tensor) -> Tensor:
        """Values [E, ...] of the edges as they were given, in the order of `edge_index`.

        An edge that was given several times has the mean of its values. With self_loops=True, a self-loop has the mean
        of the other edges of its node (zeros without others), as in torch_geometric, also if it was given.
        """
        if len(values) != self.given.shape[1]:
            raise ValueError(f"{len(values)} values for {self.given.shape[1]} edges: expected one row for each edge")
        source, target = self.given
        if self.self_loops:
            kept = source != target
            source, target, values = source[kept], target[kept], values[kept]
        place = torch.searchsorted(self.codes, target * self.nodes + source)
        aligned = mean_by_place(values, place, len(self.codes))
        if self.self_loops:
            nodes = torch.arange(self.nodes, device=values.device)
            loops = torch.searchsorted(self.codes, nodes * (self.nodes + 1))
            aligned = aligned.index_copy(0, loops, mean_by_place(values, target, self.nodes))
        return aligned

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        self.check_dense()
        if (queries, keys) != (self.nodes, self.nodes):
            return super().dense(queries, keys, device)
        pairs = torch.zeros(self.nodes * self.nodes, dtype=torch.bool, device=self.codes.device)
        return pairs.index_fill_(0, self.codes, True).view(1, 1, self.nodes, self.nodes)

    @property
    def is_large(self) -> bool:
        """Whether there is no matrix of all pairs, because it would be too large."""
        return self.nodes * self.nodes > DENSE_ENTRIES

    def check_dense(self) -> None:
        """Raise ValueError for a graph whose matrix of all pairs would be too large."""
        if self.is_large:
            limit = int(DENSE_ENTRIES**0.5)
            raise ValueError(
                f"the graph has {self.nodes:,} nodes, and the attention over its edges would need a matrix of all "
                f"pairs (limit: {limit:,} nodes): use attention='softmax', 'gat' or 'gatv2', which compute the edges "
                "alone, with no other mask than the graph"
            )


class TracedGraph(GraphMask):
    """The graph in a traced model, for any number of nodes and edges: its values of edges are those of all pairs of
    nodes, as many as a trace can know, of which `pairs` [nodes, nodes], by target and source, has the edges."""

    is_large = False

    def __init__(self, edges: Tensor, nodes: int, self_loops: bool = True, features: Tensor | None = None) -> None:
        self.nodes, self.self_loops, self.given, self.sparse = nodes, self_loops, edges, False
        self.codes = torch.arange(nodes * nodes, device=edges.device)
        self.loops = torch.arange(nodes, device=edges.device) * (nodes + 1)
        counts = torch.zeros(nodes * nodes, device=edges.device).index_add(0, edges[1] * nodes + edges[0], ones(edges))
        if self_loops:
            counts = counts.index_add(0, self.loops, torch.ones(nodes, device=edges.device))
        self.pairs = counts.view(nodes, nodes) > 0
        self.features = None if features is None else self.align(features)

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.pairs[q, k]

    @cached_property
    def edges(self) -> Edges:
        """All pairs of nodes."""
        numbers = torch.arange(self.nodes, device=self.codes.device)
        grid = numbers.expand(self.nodes, -1)
        return Edges(grid.flatten(), grid.mT.flatten(), self.nodes)

    def align(self, values: Tensor) -> Tensor:
        source, target = self.given
        counted = (source != target).to(values.dtype) if self.self_loops else ones(self.given).to(values.dtype)
        aligned = mean_by_place(values, target * self.nodes + source, self.nodes * self.nodes, counted)
        if self.self_loops:
            aligned = aligned.index_copy(0, self.loops, mean_by_place(values, target, self.nodes, counted))
        return aligned

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        return self.pairs[None, None]


def ones(edges: Tensor) -> Tensor:
    """A one for each of the edges [2, E]."""
    return torch.ones(edges.shape[1], device=edges.device)


def graph_mask(edges: Tensor, nodes: int, self_loops: bool, features: Tensor | None) -> GraphMask:
    """The mask of a graph; in a traced model one whose operations ONNX has."""
    if is_exporting():
        return TracedGraph(edges, nodes, self_loops, features)
    return GraphMask(edges, nodes, self_loops, features=features)


@dataclass(frozen=True, eq=False)
class EdgeInputs:
    """What the edges of a graph add to attention: keys [E, H, P] to the keys of their sources, and values [E, H, P] to
    the values (None: nothing), in the order of `graph.edge_index`."""

    graph: GraphMask
    keys: Tensor
    values: Tensor | None = None

    def select(self, rows: list[int]) -> "EdgeInputs":
        """Those of some rows of a batch: the same, as a graph is one for all rows."""
        return self


def mean_by_place(values: Tensor, place: Tensor, places: int, counted: Tensor | None = None) -> Tensor:
    """The mean of the rows of values [E, ...] with the same place, [places, ...]; zeros where there are none.

    counted: how often each row counts, once if omitted."""
    counts = values.new_zeros(places).index_add_(0, place, values.new_ones(len(place)) if counted is None else counted)
    values = values if counted is None else values * counted.view(-1, *[1] * (values.ndim - 1))
    sums = values.new_zeros(places, *values.shape[1:]).index_add(0, place, values)
    return sums / counts.clamp_(min=1).view(-1, *[1] * (values.ndim - 1))


@dataclass(frozen=True, eq=False)
class EdgeBias(Bias):
    """A bias of the edges of a graph: values [E, H], one for each edge and head in the order of `graph.edge_index`, and
    0 for all other pairs. They may be learned."""

    graph: GraphMask
    values: Tensor = field(repr=False)

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.values.shape[1]

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        codes, code = self.graph.codes, q * self.graph.nodes + k
        if isinstance(self.graph, TracedGraph):
            return self.values[code, h]
        if len(codes) == 0:
            return self.values.new_zeros(()).expand(torch.broadcast_shapes(code.shape, h.shape))
        index = torch.searchsorted(codes, code.contiguous()).clamp(max=len(codes) - 1)
        return self.values[index, h].masked_fill(codes[index] != code, 0.0)

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        nodes = self.graph.nodes
        if (queries, keys) != (nodes, nodes):
            return super().dense(queries, keys, device)
        self.graph.check_dense()
        pairs = self.values.new_zeros(nodes * nodes, self.heads).index_copy(0, self.graph.codes, self.values)
        return pairs.T.reshape(1, self.heads, nodes, nodes)
