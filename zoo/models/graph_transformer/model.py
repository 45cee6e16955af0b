"""A transformer whose nodes attend to their neighbors (Dwivedi and Bresson 2021, https://arxiv.org/abs/2012.09699).

Blocks are those of any transformer here, with the graph as the mask of their attention, or all nodes of the graph with
a bias of the shortest path between them (Graphormer, Ying et al. 2021, https://arxiv.org/abs/2106.05234). Edge features
add to the scores, with values for each head, and to the nodes that the edges lead to.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.models.family import Family
from zoo.models.graph import GraphConfig, GraphModel, GraphPooling
from zoo.models.graph_transformer.shortest_paths import all_pairs
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.graphs.graph_mask import EdgeBias, GraphMask
from zoo.nn.heads import TokenClassificationHead


@dataclass(frozen=True, kw_only=True)
class GraphTransformerConfig(GraphConfig):
    """structure: what a node attends to: the sources of its edges and itself (add_self_loops), or with "shortest_paths"
    all nodes of its graph, with a learned bias of each head for each distance up to `max_distance` and for what is
    further. See GraphConfig and BlockConfig for the other fields."""

    width: int = 128
    depth: int = 4
    heads: int = 8
    kv_heads: int | None = None
    mlp_dim: int | None = None
    act: str = "gelu"
    norm_eps: float = 1e-5
    drop_path: float = 0.0
    mixer: Any = None
    structure: Literal["edges", "shortest_paths"] = "edges"
    max_distance: int = 8


class GraphTransformer(GraphModel):
    """forward(node_features [N, F], edge_index [2, E], edge_features [E, D], graph_sizes [G]); see GraphModel."""

    def __init__(self, config: GraphTransformerConfig) -> None:
        super().__init__(config)
        c = config
        spec = BlockConfig.of(c)
        self.nodes = nn.Linear(c.in_features, c.width)
        self.edges = None if c.edge_dim is None else nn.Linear(c.edge_dim, c.heads)
        self.incoming = None if c.edge_dim is None else nn.Linear(c.edge_dim, c.width, bias=False)
        paths = c.structure == "shortest_paths"
        self.distances = nn.Embedding(c.max_distance + 2, c.heads) if paths else None
        self.blocks = spec.stack(c.depth)
        self.head = self.make_head()

    @property
    def hops(self) -> int | None:
        if self.distances is not None:
            return None
        return len(self.blocks) + (self.incoming is not None)  # the input of a node has the features of its edges

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head == "token":
            return TokenClassificationHead(c.width, c.num_classes, c.dropout)
        if c.head is None:
            return None
        return GraphPooling(c.pool, c.width, c.num_classes if c.head == "classify" else None, c.dropout)

    def embed(self, node_features: Tensor, graph: GraphMask) -> Tensor:
        x = self.nodes(node_features)
        return x if self.incoming is None else x.index_add(0, graph.edges.target, self.incoming(graph.features))

    def context(self, graph: GraphMask, graph_sizes: Tensor | None) -> Context:
        values = None if self.edges is None else self.edges(graph.features)
        if self.distances is None:
            return Context(mask=graph, bias=None if values is None else EdgeBias(graph, values))
        device = graph.codes.device
        sizes = torch.tensor([graph.nodes], device=device) if graph_sizes is None else graph_sizes.to(device)
        index, distances = all_pairs(graph.edge_index, sizes, self.config.max_distance)
        pairs = GraphMask(index, graph.nodes, self_loops=False)
        bias = self.distances(distances)
        if values is not None:
            bias = bias.index_add(0, torch.searchsorted(pairs.codes, graph.codes), values)
        return Context(mask=pairs, bias=EdgeBias(pairs, bias))


VARIANTS: dict[str, dict[str, Any]] = {
    "graph_transformer_tiny": dict(width=64, depth=3, heads=4),
    "graph_transformer_small": {},
    "graph_transformer_base": dict(width=256, depth=8, heads=8),
}

FAMILY = Family("graph_transformer", GraphTransformer, GraphTransformerConfig, "graph", VARIANTS)
