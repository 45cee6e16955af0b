"""Predictions for graphs: of each graph, or of each of its nodes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from zoo.inference.probabilities import activated, label_names, run
from zoo.models.base import Model
from zoo.preprocessing.graph import batch_of_batches


class Node(NamedTuple):
    """The most probable label of a node. node: its name, or its number in the graph."""

    node: str
    label: str
    probability: float


def graph_outputs(model: Model, batches: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Probabilities, or values of a regression, of several graphs: [G, C], or with head="token" [N, C] of all nodes."""
    return activated(model, run(model, batch_of_batches(batches)))


def labels_of_nodes(model: Model, names: Sequence[str] | None, probabilities: Tensor) -> list[Node]:
    """The label of each node from probabilities [N, C]. names: of the nodes; None: their numbers."""
    labels = label_names(model, probabilities.shape[-1])
    best = probabilities.max(-1)
    names = names or [str(i) for i in range(len(probabilities))]
    return [Node(name, labels[i], value) for name, i, value in zip(names, best.indices.tolist(), best.values.tolist())]


def names_of_nodes(processor: Any, item: Any) -> Sequence[str] | None:
    """The names of the nodes of an input, if it has some."""
    names: Sequence[str] | None = processor.load(item).names if hasattr(processor, "load") else None
    return names
