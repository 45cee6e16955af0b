"""Node classification: a class for each node of a graph."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.tasks.classification import ClassificationTask
from zoo.tasks.functions import at_least_float32


class NodeClassificationTask(ClassificationTask):
    """Train and evaluate a model that gives each node of a graph a class.

        task = NodeClassificationTask(zoo.create_model("gat_cora", head="token", num_classes=7), lr=5e-3)
        L.Trainer(max_epochs=200).fit(task, loader)

    Batches: the model's inputs, a graph of N nodes; `nodes` [n], the numbers of those that have a loss; and their
    `labels` [n]. The other nodes are seen by their neighbors, and have no loss. Logs what `ClassificationTask` logs, of
    these nodes. Its arguments are the same.
    """

    runs_in_pipeline = False

    def output_of(self, model: Any, batch: Mapping[str, Any]) -> Tensor:
        """Logits [n, C] of the nodes of a batch, in float32 or float64."""
        if "nodes" not in batch:
            raise ValueError("the batch has no `nodes`: expected the numbers of the nodes that have labels, int64 [n]")
        names = getattr(self.model, "inputs", ("node_features", "edge_index", "edge_features", "graph_sizes"))
        logits = model(**{name: batch[name] for name in names if name in batch})
        count = len(batch["node_features"])
        if logits.ndim != 2 or len(logits) != count:
            raise ValueError(f"NodeClassificationTask needs logits [{count}, C], a row for each node, and the model "
                             f"returned {list(logits.shape)}; create it with head='token'")  # fmt: skip
        return at_least_float32(logits[batch["nodes"]])
