"""The labeled nodes of a graph as a dataset, and their batches: the graph with the nodes that have a loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.datamodule import KeyedDataModule
from zoo.data.graph.neighbors import NeighborBatches
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Items, Splits
from zoo.preprocessing.graph import Graph, GraphProcessor


@dataclass
class GraphNodes(Items):
    """Some nodes of a graph, with their classes.

    Attributes:
        graph: The graph, with `labels`.
        nodes: Numbers of the nodes, int64 [n].
    """

    noun: ClassVar[str] = "nodes"

    graph: Graph
    nodes: Tensor

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def labels(self) -> Tensor:
        """The classes of the nodes, int64 [n]."""
        assert self.graph.labels is not None
        return self.graph.labels[self.nodes]

    def take(self, rows: Tensor) -> "GraphNodes":
        """The nodes of these rows."""
        return GraphNodes(self.graph, self.nodes[rows])

    def groups(self) -> Tensor:
        """The classes."""
        return self.labels


class NodeBatches(Dataset[Any]):
    """Dataset of the nodes of a graph, of which each batch has the whole graph.

    Batches: the graph as `GraphProcessor` gives it, `nodes` [n], the numbers of the nodes of the batch, their
    `labels` [n], `index` [n] and `epoch`.

    Args:
        batch: The graph, as the processor gives it.
        nodes: Numbers of the nodes in it, int64 [n].
        labels: Their classes, int64 [n].
    """

    def __init__(self, batch: Mapping[str, Tensor], nodes: Tensor, labels: Tensor) -> None:
        self.batch, self.nodes, self.labels = dict(batch), nodes, labels

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = torch.tensor(list(keys))
        own = {"nodes": self.nodes[rows], "labels": self.labels[rows], "index": rows, "epoch": keys.epoch}
        return {**self.batch, **own}


class GraphNodesDataModule(KeyedDataModule):
    """Data module of the nodes of a graph; see `NodeBatches` for its batches.

    Args:
        splits: Dataset splits from `load_nodes`.
        preprocess: The processor of the model, `model.preprocess`.
        batch_size: Most nodes with a loss in an optimizer step, summed over all devices.
        inductive: Whether training sees the graph without the nodes of validation and test, rather than the whole one.
        neighbors: Neighbors of a node that are sampled in each layer, see `NeighborBatches`; empty: the whole graph is
            in each batch.
        seed: Seed of the order, and of the sampled neighbors.
        options: Options of `KeyedDataModule`.

    Raises: ValueError for a graph with other features than those of the model; ImportError for sampled neighbors
        without pyg-lib or torch-sparse.
    """

    features = "features of the nodes"

    def __init__(self, splits: Splits[GraphNodes], preprocess: GraphProcessor, batch_size: int = 100_000, *,
                 inductive: bool = False, neighbors: list[int] | None = None, seed: int = 0,
                 **options: Any) -> None:  # fmt: skip
        held_out = [part.nodes for part in (splits.validation, splits.test) if part is not None]
        graph = splits.train.graph
        seen = torch.ones(graph.num_nodes, dtype=torch.bool)
        if inductive:
            seen[torch.cat(held_out)] = False
            seen[splits.train.nodes] = True
        number = seen.cumsum(0) - 1
        whole = preprocess(graph)
        batches = {True: preprocess(graph.subgraph(seen)) if inductive else whole, False: whole}

        def dataset(part: GraphNodes, training: bool) -> NodeBatches | NeighborBatches:
            nodes = number[part.nodes] if training else part.nodes
            if neighbors:
                counts = neighbors if training else [-1] * len(neighbors)  # all neighbors
                return NeighborBatches(batches[training], nodes, part.labels, counts, seed=seed)
            return NodeBatches(batches[training], nodes, part.labels)

        if not neighbors and "eval_batch_size" not in options:
            # the whole graph is computed for each batch
            options["eval_batch_size"] = max(len(part) for part in splits.parts)
        self.standardize = not are_counts(graph)  # counts of words stay as they are
        super().__init__(splits, min(batch_size, len(splits.train)), dataset=dataset, seed=seed, **options)

    def simple_features(self, stage: str, rows: Tensor) -> Tensor:
        """The features of the nodes themselves, without their neighbors, float32 [n, F]."""
        part = self.part(stage)
        features: Tensor = part.graph.node_features[part.nodes[rows]]
        return features


def are_counts(graph: Graph) -> bool:
    """Whether all features of the nodes are whole numbers of at least 0, such as counts of words."""
    x = graph.node_features
    return bool((x >= 0).all() and (x == x.round()).all())
