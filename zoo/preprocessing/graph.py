"""Graphs: nodes with features, edges between them, and the batch of several graphs without padding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from zoo.preprocessing import graph_files
from zoo.preprocessing.file_bytes import read_bytes
from zoo.preprocessing.graph_arrays import as_edges, as_features, as_integers, as_node_mask, as_numbers
from zoo.preprocessing.processor import Processor
from zoo.utils.type_checks import check_types

if TYPE_CHECKING:
    GraphInput = Any  # a Graph, a path, or a graph of torch_geometric or networkx


@dataclass(frozen=True, eq=False)
class Graph:
    """One graph.

    Arrays are converted to tensors. An edge may be there several times, and counts once in attention; a node may have
    no edge.

    Attributes:
        node_features: float32 [N, F].
        edge_index: int64 [2, E], the nodes that each edge comes from and those that it goes to, as in torch_geometric.
            An undirected edge is there in both directions.
        edge_features: float32 [E, D], or None; numbers [E] are one feature of each edge.
        labels: int64 [N], the classes of the nodes, -1 where they are unknown; None without any. [N, 1] is converted.
        names: Of the nodes, or None.
        parts: {"train", "val" or "test": bool [N]}, the nodes of each part of a data set; or None.
        classes: Names of the classes of the nodes, or None.

    Raises:
        ValueError: Shapes that do not fit, features that are not finite, and edges of nodes that are not there, with
            the first of them.
    """

    node_features: Tensor
    edge_index: Tensor
    edge_features: Tensor | None = None
    labels: Tensor | None = None
    names: tuple[str, ...] | None = None
    parts: Mapping[str, Tensor] | None = field(default=None, repr=False)
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "node_features", as_features(self.node_features, "node_features", "[N, F], a row for each node"))
        count = len(self.node_features)
        if not count:
            raise ValueError("a graph without nodes: expected node_features [N, F] with at least one row")
        set_(self, "edge_index", as_edges(self.edge_index, count))
        edges = self.edge_index.shape[1]
        if self.edge_features is not None:
            of_edges = as_numbers(self.edge_features, "edge_features")
            of_edges = of_edges[:, None] if of_edges.ndim == 1 else of_edges
            set_(self, "edge_features", as_features(of_edges, "edge_features", "[E, D], a row for each edge"))
            if len(self.edge_features) != edges:
                raise ValueError(f"edge_features has {len(self.edge_features)} rows for {edges} edges")
        if self.labels is not None:
            labels = as_numbers(self.labels, "labels")
            labels = labels.reshape(count) if labels.shape == (count, 1) else labels
            if labels.shape != (count,):
                hint = "; if they are one-hot, labels.argmax(1)" if labels.shape[:1] == (count,) else ""
                raise ValueError(f"labels is {list(labels.shape)}: expected [{count}], one class for each node{hint}")
            set_(self, "labels", as_integers(labels, "labels"))
            if (least := int(self.labels.min())) < -1:
                raise ValueError(f"labels has the class {least}: expected 0, 1, ..., or -1 where it is unknown")
        if self.names is not None:
            set_(self, "names", tuple(map(str, self.names)))
            if len(self.names) != count:
                raise ValueError(f"names has {len(self.names)} entries for {count} nodes")
        if self.parts is not None:
            set_(self, "parts", {name: as_node_mask(part, count, name) for name, part in self.parts.items()})
        if self.classes is not None:
            set_(self, "classes", tuple(map(str, self.classes)))
            if self.labels is not None and (most := int(self.labels.max())) >= len(self.classes):
                raise ValueError(f"a node has the class {most}: expected 0 to {len(self.classes) - 1}, as there are "
                                 f"{len(self.classes)} names of classes")  # fmt: skip

    @property
    def num_nodes(self) -> int:
        return len(self.node_features)

    @property
    def num_edges(self) -> int:
        return self.edge_index.shape[1]

    def __len__(self) -> int:
        return self.num_nodes

    def node_names(self) -> tuple[str, ...]:
        """Names of the nodes: their numbers where they have none."""
        return self.names or tuple(map(str, range(self.num_nodes)))

    def save(self, path: str | Path) -> None:
        """Write an .npz file, which everything reads that takes a graph. Raises ValueError for another suffix."""
        fields = {**vars(self), **(self.parts or {})}
        graph_files.write_npz(path, {name: x for name, x in fields.items() if x is not None and name != "parts"})

    def subgraph(self, nodes: Tensor) -> "Graph":
        """The graph of some of the nodes, bool [N], and the edges between them."""
        number = torch.full((self.num_nodes,), -1)
        number[nodes] = torch.arange(int(nodes.sum()))
        inside = nodes[self.edge_index].all(0)
        return Graph(
            self.node_features[nodes],
            number[self.edge_index[:, inside]],
            None if self.edge_features is None else self.edge_features[inside],
            None if self.labels is None else self.labels[nodes],
            None if self.names is None else tuple(np.array(self.names, dtype=object)[nodes.numpy()]),
            None if self.parts is None else {name: part[nodes] for name, part in self.parts.items()},
            self.classes,
        )


@dataclass(frozen=True, kw_only=True)
class GraphProcessor(Processor):
    """Graphs -> the batch of all of them without padding, as models of graphs take it:

    node_features float32 [N, F], edge_index int64 [2, E], graph_sizes int64 [G] (the nodes of each graph) and, with
    `edge_dim`, edge_features float32 [E, D]. The numbers of nodes in `edge_index` are those of the batch.

    A graph is a `Graph`, a path (`graph_files.read`: NPZ, or a folder of CSV files), or a graph of torch_geometric or
    networkx. A list of graphs is a batch; one graph is a batch of one.

    in_features: F, numbers of a node. edge_dim: D, numbers of an edge, which a graph without edges need not have; None:
        edges have none, and what a graph has of them is refused.
    normalize_features: whether to divide the features of each node by their sum, as words in a text are weighted;
        nodes whose features are all zero keep them.
    undirected: whether to add the reverse of each edge that has none.
    """

    kind: ClassVar[str] = "graph"
    in_features: int
    edge_dim: int | None = None
    normalize_features: bool = False
    undirected: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        if self.in_features < 1:
            raise ValueError(f"in_features={self.in_features}: expected at least 1, the numbers of a node")
        if self.edge_dim is not None and self.edge_dim < 1:
            raise ValueError(f"edge_dim={self.edge_dim}: expected at least 1, or None for edges without features")

    def __call__(self, graphs: "GraphInput | Sequence[GraphInput]") -> dict[str, Tensor]:
        """graphs: one or several.

        Raises ValueError that names the graph with other features than `in_features` and `edge_dim`, or LoadError for
        files.
        """
        is_batch = isinstance(graphs, list | tuple)
        items: list[Any] = list(graphs) if is_batch else [graphs]
        if not items:
            raise ValueError("the list of graphs is empty: expected at least one graph")
        names = [f"graph {index}" if is_batch else "the graph" for index in range(len(items))]
        return batch_graphs([self.prepare(self.load(item, name), name) for item, name in zip(items, names)])

    def load(self, item: "GraphInput", name: str = "the graph") -> Graph:
        """One graph, checked. name: of it in messages."""
        if isinstance(item, Graph):
            return item
        return load_graph(item, name)

    def prepare(self, graph: Graph, name: str = "the graph") -> Graph:
        """The graph as the model takes it: normalized features, edges in both directions."""
        width = graph.node_features.shape[1]
        if width != self.in_features:
            raise ValueError(f"{name} has {width} features of each node: expected {self.in_features}, as the model "
                             "takes them")  # fmt: skip
        if self.edge_dim is not None and graph.edge_features is None and not graph.num_edges:
            graph = replace(graph, edge_features=torch.empty(0, self.edge_dim))
        edge_dim = None if graph.edge_features is None else graph.edge_features.shape[1]
        if edge_dim != self.edge_dim:
            expected = "none" if self.edge_dim is None else str(self.edge_dim)
            raise ValueError(f"{name} has {edge_dim or 'no'} features of each edge: expected {expected}, as the model "
                             "takes them")  # fmt: skip
        if self.normalize_features:
            total = graph.node_features.sum(1, keepdim=True)
            graph = replace(graph, node_features=graph.node_features / torch.where(total == 0, 1, total))
        return with_reverse_edges(graph) if self.undirected else graph

    def fitted_to(self, config: Any) -> Self:
        """A copy with the numbers of features of a model."""
        return replace(self, in_features=config.in_features, edge_dim=getattr(config, "edge_dim", None))

    def check(self, config: Any) -> None:
        """Raises ValueError if the graphs have other features than those of a model with this config."""
        for name in ("in_features", "edge_dim"):
            own, model = getattr(self, name), getattr(config, name, None)
            if own != model:
                raise ValueError(f"preprocess has {name}={own}, but the model {model}: they must be equal")


def batch_graphs(graphs: Sequence[Graph]) -> dict[str, Tensor]:
    """The batch of all nodes and edges, see `GraphProcessor`. Raises ValueError for graphs of different features."""
    for i, graph in enumerate(graphs):
        for name in ("node_features", "edge_features"):
            first, own = (getattr(each, name) for each in (graphs[0], graph))
            if (first is None) != (own is None) or (own is not None and own.shape[1] != first.shape[1]):
                widths = [0 if each is None else each.shape[1] for each in (own, first)]
                raise ValueError(f"graph {i} has {widths[0]} {name.replace('_', ' ')}, and graph 0 has {widths[1]}: a "
                                 "batch takes graphs with equally many")  # fmt: skip
    sizes = torch.tensor([graph.num_nodes for graph in graphs])
    starts = (sizes.cumsum(0) - sizes).tolist()
    batch = {
        "node_features": torch.cat([graph.node_features for graph in graphs]),
        "edge_index": torch.cat([graph.edge_index + start for graph, start in zip(graphs, starts)], 1),
        "graph_sizes": sizes,
    }
    edge_features = [graph.edge_features for graph in graphs if graph.edge_features is not None]
    return batch | ({"edge_features": torch.cat(edge_features)} if edge_features else {})


def join_batches(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One batch of the graphs of several, in order."""
    sizes = [len(batch["node_features"]) for batch in batches]
    edges = [batch["edge_index"] + sum(sizes[:i]) for i, batch in enumerate(batches)]
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0] if name != "edge_index"}
    return joined | {"edge_index": torch.cat(edges, 1)}


def with_reverse_edges(graph: Graph) -> Graph:
    """The graph with the reverse of each edge that is there in one direction alone, and its features."""
    source, target = graph.edge_index
    codes = target * graph.num_nodes + source
    missing = ~torch.isin(source * graph.num_nodes + target, codes)
    if not missing.any():
        return graph
    edge_features = graph.edge_features
    return replace(
        graph,
        edge_index=torch.cat([graph.edge_index, graph.edge_index[:, missing].flip(0)], 1),
        edge_features=None if edge_features is None else torch.cat([edge_features, edge_features[missing]]),
    )


def is_graph(item: Any) -> bool:
    """Whether an object in memory is a graph: a `Graph`, or one of torch_geometric or networkx."""
    return isinstance(item, Graph) or hasattr(item, "edge_index") or hasattr(item, "is_directed")


def load_graph(item: Any, name: str = "the graph") -> Graph:
    """A graph of a path, or of an object of torch_geometric or networkx."""
    if isinstance(item, Graph):
        return item
    if isinstance(item, bytes):
        return read_bytes(item, load_graph, name, ".npz")
    if isinstance(item, str | Path):
        return Graph(**graph_files.read(item))
    if hasattr(item, "edge_index") and hasattr(item, "x"):
        return from_torch_geometric(item)
    if hasattr(item, "nodes") and hasattr(item, "is_directed"):
        return from_networkx(item)
    raise ValueError(f"{name} is a {type(item).__name__}: expected a zoo.Graph, a path, or a graph of torch_geometric "
                     "or networkx")  # fmt: skip


def from_torch_geometric(data: Any) -> Graph:
    """A `torch_geometric.data.Data`: its x, edge_index, edge_attr or edge_weight, y of nodes, and masks of parts."""
    if data.x is None:
        raise ValueError("the graph of torch_geometric has no x: give its nodes features, such as "
                         "data.x = torch.eye(data.num_nodes)")  # fmt: skip
    if data.edge_index is None:
        there = "it has adj_t; make it without ToSparseTensor" if getattr(data, "adj_t", None) is not None else (
            "without edges it is torch.empty(2, 0, dtype=torch.long)")  # fmt: skip
        raise ValueError(f"the graph of torch_geometric has no edge_index: {there}")
    masks = {name: getattr(data, f"{name}_mask", None) for name in ("train", "val", "test")}
    parts = {name: mask for name, mask in masks.items() if mask is not None}
    labels = getattr(data, "y", None)
    shapes = ((len(data.x),), (len(data.x), 1))
    of_nodes = labels is not None and labels.shape in shapes and not labels.is_floating_point()
    edges = [values for name in ("edge_attr", "edge_weight") if (values := getattr(data, name, None)) is not None]
    if len(edges) > 1:
        raise ValueError("the graph of torch_geometric has edge_attr and edge_weight: put the weights into a column of "
                         "edge_attr, or remove them")  # fmt: skip
    return Graph(data.x, data.edge_index, edges[0] if edges else None, labels if of_nodes else None, None,
                 parts or None)  # fmt: skip


def from_networkx(graph: Any, features: str = "x", edge_features: str | None = None, labels: str = "y") -> Graph:
    """A graph of networkx. features, labels: attributes of the nodes; edge_features: one of the edges.

    Nodes without the attribute `features` have their one-hot number. An undirected edge goes in both directions.
    Labels are whole numbers or names of classes; nodes without one have an unknown class. Raises ValueError where only
    some nodes, or edges, have features.
    """
    nodes = list(graph.nodes)
    number = {node: i for i, node in enumerate(nodes)}
    given = [graph.nodes[node].get(features) for node in nodes]
    if all(value is None for value in given):
        x = torch.eye(len(nodes))
    elif any(value is None for value in given):
        first = nodes[next(i for i, value in enumerate(given) if value is None)]
        raise ValueError(f"node {first!r} has no attribute {features!r}, and other nodes have one")
    else:
        x = _rows(given, [f"node {node!r}" for node in nodes], features)
    edges, rows, ends = [], [], []
    for source, target, values in graph.edges(data=True):
        both = [(source, target)] if graph.is_directed() or source == target else [(source, target), (target, source)]
        for pair in both:
            edges.append([number[pair[0]], number[pair[1]]])
            if edge_features is not None:
                if edge_features not in values:
                    raise ValueError(f"edge {source!r} to {target!r} has no attribute {edge_features!r}")
                rows.append(values[edge_features])
                ends.append(f"edge {source!r} to {target!r}")
    found, classes = graph_files.encode_labels([graph.nodes[node].get(labels) for node in nodes])
    return Graph(
        x,
        torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T,
        _rows(rows, ends, str(edge_features)) if rows else None,
        None if found is None else torch.from_numpy(found),
        tuple(map(str, nodes)),
        classes=classes,
    )


def _rows(values: Sequence[Any], owners: Sequence[str], name: str) -> Tensor:
    """The attributes `name` of nodes or edges as rows, float32. Raises ValueError for other numbers than the first."""
    rows = []
    for value, owner in zip(values, owners):
        try:
            rows.append(torch.as_tensor(value, dtype=torch.float32).reshape(-1))
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"{owner} has {name}={value!r}: expected a number, or several") from None
        if len(rows[-1]) != len(rows[0]):
            raise ValueError(f"{owner} has {len(rows[-1])} numbers in {name!r}, and {owners[0]} {len(rows[0])}: "
                             "expected as many")  # fmt: skip
    return torch.stack(rows)
