"""Batches of many graphs with a label each."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.keyed_batches import Keys
from zoo.preprocessing.graph import Graph, batch_graphs


class GraphBatches(Dataset[Any]):
    """Dataset of graphs as a model takes them, with their labels.

    Batches: those of `GraphProcessor`, `labels`, `index` [G] and `epoch`. No graph is padded.

    Args:
        graphs: The graphs.
        labels: int64 [G], float32 [G, K] (multi-label) or float32 [G] (regression).
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
