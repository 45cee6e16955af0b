"""Neighbor sampling for graphs larger than memory, by the loaders of torch_geometric.

Hamilton et al. 2017 (GraphSAGE), https://arxiv.org/abs/1706.02216: each batch has some nodes, a few of their neighbors,
a few neighbors of these, and so on for each layer of the model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.keyed_batches import Keys
from zoo.utils.keyed_random import seed_for

NEEDED = ("neighbor sampling needs torch_geometric and pyg-lib (or torch-sparse), whose wheels are for one version "
          "of torch: pip install 'attention-zoo[graphs]', then pip install pyg-lib -f https://data.pyg.org/whl/torch-"
          "{torch}+cpu.html (or +cu128 and so on)")  # fmt: skip


class NeighborBatches(Dataset[Any]):
    """Dataset of the nodes of a graph, of which each batch has a sampled part of the graph.

    Batches: `node_features`, `edge_index`, `graph_sizes` and `edge_features` of the sampled part, in which the nodes of
    the batch come first; `nodes` [n], their numbers in it; their `labels` [n], `index` [n] and `epoch`. The sample is
    a function of the seed, the epoch and the nodes.

    Args:
        batch: The graph, as `GraphProcessor` gives it.
        nodes: Numbers of the nodes, int64 [n].
        labels: Their classes, int64 [n].
        neighbors: Most neighbors of a node in each layer; -1: all.
        seed: Seed of the samples.

    Raises: ImportError with the commands to install what is missing.
    """

    def __init__(self, batch: Mapping[str, Tensor], nodes: Tensor, labels: Tensor, neighbors: Sequence[int], *,
                 seed: int = 0) -> None:  # fmt: skip
        check_installed()
        from torch_geometric.data import Data
        from torch_geometric.loader import NeighborLoader

        self.labels, self.seed = labels, seed
        data = Data(x=batch["node_features"], edge_index=batch["edge_index"], edge_attr=batch.get("edge_features"))
        self.loader = NeighborLoader(data, list(neighbors), input_nodes=nodes)  # sorts all edges, which takes long

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = torch.tensor(list(keys))
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed_for(self.seed, keys.epoch, *rows[:1].tolist()))
            part = self.loader(rows)
        batch = {
            "node_features": part.x, "edge_index": part.edge_index, "graph_sizes": torch.tensor([len(part.x)]),
            "nodes": torch.arange(len(rows)), "labels": self.labels[rows], "index": rows, "epoch": keys.epoch,
        }  # fmt: skip
        return batch if part.edge_attr is None else {**batch, "edge_features": part.edge_attr}


def check_installed() -> None:
    """Raise ImportError, with the commands to install them, without torch_geometric or its library of samplers."""
    try:
        from torch_geometric import typing
    except ImportError as error:
        raise ImportError(NEEDED.format(torch=torch.__version__.split("+")[0])) from error
    if not (typing.WITH_PYG_LIB or typing.WITH_TORCH_SPARSE):
        raise ImportError(NEEDED.format(torch=torch.__version__.split("+")[0]))
