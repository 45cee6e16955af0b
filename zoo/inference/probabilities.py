"""From the scores of a model to labels with probabilities."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.models.base import Model
from zoo.models.eval_mode import eval_mode
from zoo.nn.lengths import place

NOT_FINITE = "the model gives numbers that are not finite for it"

# [(label, probability), ...], best first; of head="token" the entities of a text, of head="qa" answers.
Prediction = list[Any]
NOT_FINITE = "the model gives numbers that are not finite for it"


def require_model(model: Any, argument: str = "") -> None:
    """Raise ValueError unless it is a model, also a compiled one. argument: for the message, if it has a name."""
    if not isinstance(getattr(model, "_orig_mod", model), Model):
        hint = f": load it, zoo.load({str(model)!r})" if isinstance(model, str | Path) else ""
        prefix = f"{argument}: " if argument else ""
        raise ValueError(f"{prefix}expected a zoo.Model, given a {type(model).__name__}{hint}")


def run(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """The scores of a batch, as float32 on the CPU, computed in evaluation mode."""
    like = next(model.parameters())
    with eval_mode(model), torch.no_grad():
        return model(**place(batch, model.inputs, like)).float().cpu()


def activated(model: Model, scores: Tensor) -> Tensor:
    """Scores [B, C] of a classifier -> probabilities by its problem type and temperature, or values of a regression."""
    return {
        "single_label_classification": (scores / model.temperature).softmax(-1),
        "multi_label_classification": (scores / model.temperature).sigmoid(),
    }.get(model.config.resolved_problem_type, scores)


def label_names(model: Model, count: int) -> list[str]:
    """The names of `count` classes; without names, their numbers. Raises ValueError for another number of names."""
    labels = list(model.labels or map(str, range(count)))
    if len(labels) != count:
        raise ValueError(f"model.labels has {len(labels)} names for {count} classes: set as many, or None")
    return labels


def top_predictions(probabilities: Tensor, top_k: int, name: Callable[[int], str]) -> list[Prediction]:
    """Probabilities [B, C] -> the `top_k` most probable [(name, probability), ...] of each row."""
    top = probabilities.topk(min(top_k, probabilities.shape[-1]))
    rows = zip(top.values.tolist(), top.indices.tolist())
    return [[(name(i), p) for p, i in zip(*row)] for row in rows]
