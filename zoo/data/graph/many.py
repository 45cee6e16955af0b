"""Datasets of many graphs, each with a label, and their batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.datamodule import KeyedDataModule
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Items, Splits
from zoo.data.text.dataset import groups
from zoo.preprocessing.graph import Graph, GraphProcessor, batch_graphs


@dataclass
class LabeledGraphs(Items):
    """Graphs with a label each.

    Attributes:
        graphs: The graphs.
        labels: int64 [G], float32 [G, K] (multi-label) or float32 [G] (regression).
    """

    noun: ClassVar[str] = "graphs"

    graphs: list[Graph]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.graphs)

    def take(self, rows: Tensor) -> "LabeledGraphs":
        """The graphs of these rows."""
        return LabeledGraphs([self.graphs[i] for i in rows.tolist()], self.labels[rows])

    def groups(self) -> Tensor:
        """The classes; see `groups` of labeled texts."""
        return groups(self.labels)


class GraphBatches(Dataset[Any]):
    """Dataset of graphs as a model takes them, with their labels.

    Batches: those of `GraphProcessor`, `labels`, `index` [G] and `epoch`. No graph is padded.
    """

    def __init__(self, graphs: Sequence[Graph], labels: Tensor) -> None:
        self.graphs, self.labels = graphs, labels
        self.lengths = torch.tensor([graph.num_nodes for graph in graphs])

    def __len__(self) -> int:
        return len(self.graphs)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = torch.tensor(list(keys))
        batch = batch_graphs([self.graphs[i] for i in keys])
        return {**batch, "labels": self.labels[rows], "index": rows, "epoch": keys.epoch}


class GraphsDataModule(KeyedDataModule):
    """Data module of many labeled graphs; see `GraphBatches` for its batches.

    Args:
        splits: Dataset splits of labeled graphs.
        preprocess: The processor of the model, `model.preprocess`.
        batch_size: Graphs per optimizer step, summed over all devices and accumulation steps.
        options: Options of `KeyedDataModule`.

    Raises: ValueError for a graph with other features than those of the model.
    """

    def __init__(self, splits: Splits[LabeledGraphs], preprocess: GraphProcessor, batch_size: int = 32,
                 **options: Any) -> None:  # fmt: skip
        def batches(part: LabeledGraphs, training: bool) -> GraphBatches:
            graphs = [preprocess.prepare(graph, f"graph {i}") for i, graph in enumerate(part.graphs)]
            return GraphBatches(graphs, part.labels)

        super().__init__(splits, batch_size, dataset=batches, **options)
