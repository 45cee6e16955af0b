"""Predictions for the nodes of graphs."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from zoo.inference.probabilities import label_names
from zoo.models.base import Model


class Node(NamedTuple):
    """The most probable label of a node. node: its name, or its number in the graph."""

    node: str
    label: str
    probability: float


def labels_of_nodes(model: Model, names: Sequence[str] | None, probabilities: Tensor) -> list[Node]:
    """The label of each node from probabilities [N, C]. names: of the nodes; None: their numbers."""
    labels = label_names(model, probabilities.shape[-1])
    best = probabilities.max(-1)
    names = names or [str(i) for i in range(len(probabilities))]
    return [Node(name, labels[i], value) for name, i, value in zip(names, best.indices.tolist(), best.values.tolist())]
