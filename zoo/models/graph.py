"""Base classes of models of graphs: inputs, the mask of the edges, and heads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.base import Model
from zoo.models.config import Config, ProblemType
from zoo.nn.context import Context
from zoo.nn.exporting import is_exporting
from zoo.nn.graphs.graph_mask import GraphMask, graph_mask
from zoo.nn.stack import Stack
from zoo.preprocessing.graph import GraphProcessor

HEADS = ("token", "classify", "pool", None)
GraphPoolingMode = Literal["mean", "sum"]


@dataclass(frozen=True, kw_only=True)
class GraphConfig(Config):
    """Base config of families of graphs.

    in_features, edge_dim: numbers of a node, and of an edge (None: edges have none). add_self_loops: whether a node
    attends to itself, too, by an edge whose features are the mean of those of the others that lead to it. num_classes:
    of head="token" for each node, and of head="classify" for a graph. problem_type: of head="classify", see
    `ProblemType`. pool: how the nodes of a graph become its features.
    """

    head: str | None = "token"
    in_features: int = 64
    edge_dim: int | None = None
    add_self_loops: bool = True
    num_classes: int = 7
    problem_type: ProblemType | None = None
    width: int = 64
    depth: int = 2
    heads: int = 4
    head_dim: int | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    attention: Any = "softmax"
    pool: GraphPoolingMode = "mean"
    added_later: ClassVar[Mapping[str, Any]] = {"add_self_loops": True}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.allow_heads(*HEADS)


class GraphModel(Model):
    """forward(node_features [N, F], edge_index [2, E], edge_features [E, D], graph_sizes [G]) -> output of the head:
    token [N, C] for each node, classify [G, C] and pool [G, width] for each graph, None: hidden states [N, width].

    The nodes of all graphs of a batch stand one after another, and edges are between their numbers in the batch, from
    sources to targets; graph_sizes has the nodes of each graph, in order (None: one graph). A graph has the same
    outputs in any batch, and nodes in another order have their outputs in that order. Edges are a set: one that is
    there several times counts once. Without any edges, edge_features may be missing.
    """

    inputs = ("node_features", "edge_index", "edge_features", "graph_sizes")
    reads_values = True
    blocks: Stack

    @property
    def hops(self) -> int | None:
        """Edges between a node and the farthest one that its output depends on; None: there is no limit."""
        return len(self.blocks)

    def default_preprocess(self) -> GraphProcessor:
        return GraphProcessor(in_features=self.config.in_features, edge_dim=self.config.edge_dim)

    def complete_example(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Two graphs of eight nodes: a ring, and a ring with chords."""
        nodes = torch.arange(8)
        ring = torch.stack([nodes, (nodes + 1) % 8])
        chords = torch.stack([nodes, (nodes + 3) % 8])
        edges = torch.cat([ring, ring.flip(0), 8 + ring, 8 + chords], 1)
        batch |= {"edge_index": edges, "graph_sizes": torch.tensor([8, 8])}
        if self.config.edge_dim:
            count = edges.shape[1] * self.config.edge_dim
            batch["edge_features"] = torch.linspace(-1, 1, count).view(-1, self.config.edge_dim)
        return batch

    def rows_like(self, batch: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
        nodes, edges = int(batch["graph_sizes"][0]), batch["edge_index"]
        inside = (edges < nodes).all(0)
        found = {
            "node_features": batch["node_features"][:nodes].repeat(rows, 1),
            "edge_index": torch.cat([edges[:, inside] + nodes * row for row in range(rows)], 1),
            "graph_sizes": batch["graph_sizes"][:1].repeat(rows),
        }
        if "edge_features" in batch:
            found["edge_features"] = batch["edge_features"][inside].repeat(rows, 1)
        return found

    def embed(self, node_features: Tensor, graph: GraphMask) -> Tensor:
        """Node features [N, F] -> the input of the blocks [N, D]."""
        raise NotImplementedError

    def context(self, graph: GraphMask, graph_sizes: Tensor | None) -> Context:
        """What nodes attend to."""
        return Context(mask=graph)

    def encode(
        self,
        node_features: Tensor | None = None,
        edge_index: Tensor | None = None,
        edge_features: Tensor | None = None,
        graph_sizes: Tensor | None = None,
        *,
        layers: Sequence[int] | None = None,
        graph: GraphMask | None = None,
        **unknown: Any,
    ) -> Any:
        """Hidden states [N, D] of the nodes. layers: see `Model.encode`. graph: `graph_of` these edges, where it is
        there already."""
        x = self.check_inputs(unknown, node_features)
        graph = self.graph_of(x, edge_index, edge_features) if graph is None else graph
        check_sizes(graph_sizes, x.shape[0], edge_index)
        hidden = self.blocks(self.embed(x, graph)[None], self.context(graph, graph_sizes), layers=layers)
        if layers is None:
            return hidden[0]
        return hidden[0][0], [each[0] for each in hidden[1]]

    def forward(
        self,
        node_features: Tensor | None = None,
        edge_index: Tensor | None = None,
        edge_features: Tensor | None = None,
        graph_sizes: Tensor | None = None,
        **unknown: Any,
    ) -> Tensor:
        graph = self.graph_of(self.check_inputs(unknown, node_features), edge_index, edge_features)
        x = self.encode(node_features, edge_index, edge_features, graph_sizes, graph=graph)
        if self.head is None:
            return x
        return self.classify_nodes(x, graph) if self.config.head == "token" else self.head(x, graph_sizes)

    def classify_nodes(self, x: Tensor, graph: GraphMask) -> Tensor:
        """Scores [N, C] of the nodes from their hidden states [N, D]."""
        assert self.head is not None
        return self.head(x)

    @torch.compiler.disable(reason="the edges of a graph are sorted and each is counted once: call the model without "
                                   "fullgraph=True")  # fmt: skip
    def graph_of(self, x: Tensor, edge_index: Tensor | None, edge_features: Tensor | None) -> GraphMask:
        """The mask of the edges, with their features. Raises ValueError for node features and edges of other shapes,
        and edges to nodes that are not there."""
        if x.ndim != 2 or x.shape[1] != self.config.in_features:
            raise ValueError(f"node_features is {list(x.shape)}: expected [N, {self.config.in_features}], the nodes of "
                             "all graphs of the batch")  # fmt: skip
        if edge_index is None:
            edge_index = torch.empty(2, 0, dtype=torch.long, device=x.device)
        features = self.features_of(edge_index, edge_features, x)
        return graph_mask(edge_index, x.shape[0], self.config.add_self_loops, features)

    def features_of(self, edge_index: Tensor, edge_features: Tensor | None, x: Tensor) -> Tensor | None:
        """The features of the edges, empty ones if there are no edges. Raises ValueError for none or others than
        `config.edge_dim`."""
        expected = self.config.edge_dim
        if expected is None:
            if edge_features is not None:
                raise ValueError(f"edge_features is given, and {type(self).__name__} was made without: set edge_dim="
                                 f"{edge_features.shape[-1]}")  # fmt: skip
            return None
        if edge_features is None and not edge_index.numel():
            return x.new_zeros(0, expected)
        if edge_features is None or edge_features.ndim != 2 or edge_features.shape[1] != expected:
            found = "missing" if edge_features is None else str(list(edge_features.shape))
            raise ValueError(f"edge_features is {found}: expected [E, {expected}], a row for each edge")
        return edge_features


class GraphPooling(nn.Module):
    """Hidden states [N, D] of the nodes of all graphs -> features [G, D], or with `classes` scores [G, C].

    mode: "mean" or "sum" over the nodes of each graph.
    """

    def __init__(self, mode: GraphPoolingMode, width: int, classes: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.mode, self.dropout = mode, dropout
        self.proj = None if classes is None else nn.Linear(width, classes)

    def forward(self, x: Tensor, graph_sizes: Tensor | None = None) -> Tensor:
        """graph_sizes: nodes of each graph [G]."""
        y = pool_graphs(x, graph_sizes, self.mode)
        return y if self.proj is None else self.proj(F.dropout(y, self.dropout, self.training))

    def extra_repr(self) -> str:
        return f"{self.mode!r}"


def pool_graphs(x: Tensor, sizes: Tensor | None, mode: GraphPoolingMode) -> Tensor:
    """Sums or means [G, D] of x [N, D] over the nodes of each graph; a graph without nodes has zeros."""
    if sizes is None:
        return x.sum(0, keepdim=True) if mode == "sum" else x.mean(0, keepdim=True)
    graph = numbers_of_graphs(sizes.to(x.device), x.shape[0])
    sums = x.new_zeros(sizes.shape[0], x.shape[1]).index_add(0, graph, x)
    return sums if mode == "sum" else sums / sizes.to(x).clamp(min=1)[:, None]


def numbers_of_graphs(sizes: Tensor, nodes: int) -> Tensor:
    """The number of the graph of each node [N], from the nodes of each graph [G]."""
    if is_exporting():
        return (torch.arange(nodes, device=sizes.device)[:, None] >= sizes.cumsum(0)).sum(1)
    return torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes, output_size=nodes)


def check_sizes(sizes: Tensor | None, nodes: int, edge_index: Tensor | None) -> None:
    """Raise ValueError unless graph_sizes are integers whose sum is the number of nodes, and each edge is within a
    graph. On a GPU, which would have to be waited for, only their type is checked."""
    if sizes is None:
        return
    if sizes.ndim != 1 or sizes.is_floating_point():
        raise ValueError(f"graph_sizes is {list(sizes.shape)} of {sizes.dtype}: expected integers [G]")
    if sizes.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if int(sizes.sum()) != nodes or bool((sizes < 0).any()):
        raise ValueError(f"graph_sizes={sizes.tolist()}: expected integers [G] whose sum is {nodes}, the nodes of all "
                         "graphs")  # fmt: skip
    if edge_index is None or not edge_index.numel() or len(sizes) < 2:
        return
    ends = numbers_of_graphs(sizes, nodes)[edge_index]
    if (apart := ends[0] != ends[1]).any():
        edge = int(apart.nonzero()[0])
        raise ValueError(f"edge {edge} goes from node {int(edge_index[0, edge])} of graph {int(ends[0, edge])} to node "
                         f"{int(edge_index[1, edge])} of graph {int(ends[1, edge])}: an edge is within a graph, and "
                         "nodes have their numbers in the whole batch")  # fmt: skip
