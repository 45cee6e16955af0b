"""Predictions for the points of clouds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from zoo.inference.probabilities import NOT_FINITE, activated, label_names
from zoo.models.base import Model
from zoo.nn.graphs.neighbors import nearest_neighbors


class Point(NamedTuple):
    """The most probable label of a point of a cloud."""

    label: str
    probability: float


def predicts_points(model: Model) -> bool:
    """Whether the predictions of a model are for each point of a cloud."""
    return model.inputs[0] == "points" and model.config.head == "token"


def labels_of_points(
    model: Model, clouds: Sequence[Any], points: Tensor, scores: Tensor
) -> list[list[Point] | Exception]:
    """The label of each point of clouds, in their order; an error for a cloud whose scores are not finite.

    clouds: as the processor takes them. points: those [B, M, F] that the model has seen, with scores [B, M, C]. Where
    the processor samples, each other point has the label of the nearest one in the sample.
    """
    labels, probabilities = label_names(model, scores.shape[-1]), activated(model, scores)
    found: list[list[Point] | Exception] = []
    for cloud, seen, own in zip(clouds, points, probabilities):
        if not own.isfinite().all():
            found.append(ValueError(NOT_FINITE))
            continue
        values, classes = own.max(-1)
        if model.preprocess.num_points is not None:
            every = replace(model.preprocess, num_points=None)(cloud)["points"][..., :3]
            nearest = nearest_neighbors(every, seen[None, :, :3], 1)[0, :, 0]
            values, classes = values[nearest], classes[nearest]
        found.append([Point(labels[i], value) for i, value in zip(classes.tolist(), values.tolist())])
    return found
