"""Data options of the nodes of graphs. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass, field
from typing import Literal

from zoo.data.base_config import BaseDataSettings


@dataclass(frozen=True, kw_only=True)
class GraphNodeSettings(BaseDataSettings):
    """Nodes of a graph with classes.

    Attributes:
        name: Dataset: `synthetic` (a stochastic block model; also `auto`), `karate` (Zachary's karate club), `cora`, a
            graph in an .npz file (arrays x, edge_index, y, and train, val, test with the numbers of the nodes), a
            folder with nodes.csv and edges.csv, or a folder with several graphs in each of `train/`, `val/` and
            `test/`.
        data_dir: Folder with `cora/cora.npz`; default: the environment variable ZOO_DATA_DIR.
        batch_size: Most nodes with a loss in an optimizer step, summed over all devices.
        mode: `transductive` trains on the whole graph, with the loss of the training nodes alone; `inductive` trains on
            the graph without the nodes of validation and test, and their edges.
        neighbors: Neighbor sampling, for graphs larger than memory: the most neighbors of a node that are sampled in
            each layer, e.g. `[10, 10]`. Needs pyg-lib or torch-sparse. Default: the whole graph in each step.
        normalize_features: Divide the features of each node by their sum. `auto` does so where all are whole numbers
            of at least 0, such as counts of words.
        undirected: Add the reverse of each edge that has none.
        max_train_samples: Most training nodes, a seeded subset, balanced over classes; 0 uses all.
        max_test_samples: Most test nodes; 0 uses all.
    """

    batch_size: int = 100_000
    mode: Literal["transductive", "inductive"] = "transductive"
    neighbors: list[int] = field(default_factory=list)
    normalize_features: Literal["auto"] | bool = "auto"
    undirected: bool = False
    max_train_samples: int = 0
    max_test_samples: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(0, "max_train_samples", "max_test_samples")
        if self.mode not in ("transductive", "inductive"):
            raise ValueError(f"mode={self.mode!r}: expected 'transductive' or 'inductive'")
        if any(type(count) is not int or (count < 1 and count != -1) for count in self.neighbors):
            raise ValueError(f"neighbors={self.neighbors}: expected a number of at least 1 for each layer, or -1 for "
                             f"all neighbors, e.g. [10, 10]")  # fmt: skip
        if self.table_format != {"header": "auto", "sep": "auto", "encoding": "auto"}:
            raise ValueError("header=, sep= and encoding= are for tables: nodes.csv and edges.csv have a header and "
                             "commas; omit them")  # fmt: skip
