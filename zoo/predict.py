"""Labels with probabilities."""

from collections.abc import Sequence
from typing import Any, overload

import torch

from .models.base import Model
from .verify import evaluating

Answer = list[tuple[str, float]]


@overload
def predict(model: Model, x: list[Any], top: int = 5) -> list[Answer]: ...
@overload
def predict(model: Model, x: Any, top: int = 5) -> Answer: ...
def predict(model: Model, x: Any, top: int = 5) -> Answer | list[Answer]:
    """The `top` most probable labels of an input: [(label, probability), ...], best first; for a list, a list of them.

    x: what `model.preprocess` takes: pictures, paths. Classes without a name are called by their number.
    """
    if model.config.head != "classify":
        raise ValueError(f"the model has head={model.config.head!r}: predicting needs a classifier (head='classify')")
    if model.preprocess is None:
        raise ValueError("the model has no preprocessing: set model.preprocess (zoo.preprocess.ImagePreprocess(...))")
    many = isinstance(x, Sequence) and not isinstance(x, str)
    if many and not len(x):
        return []
    batch = {name: value.to(model.device, model.dtype) for name, value in model.preprocess(x).items()}
    with evaluating(model), torch.no_grad():
        probabilities = model(**batch).float().softmax(-1)
    best = probabilities.topk(min(top, probabilities.shape[-1]))
    answers = [
        [(model.labels[i] if model.labels else str(i), p) for p, i in zip(*row)]
        for row in zip(best.values.tolist(), best.indices.tolist())
    ]
    return answers if many else answers[0]
