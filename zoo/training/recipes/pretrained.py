"""Pretrained classifiers for the classes of the data, of every modality: `model.source=`."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from zoo.checkpoints.load import describe, load
from zoo.models.base import Model
from zoo.utils.console import console


def load_classifier(source: str, overrides: Mapping[str, Any]) -> Model:
    """The model of a checkpoint as a classifier in training mode, whatever head the checkpoint has.

    If it is not a classifier already, its last layer has an arbitrary number of classes until `set_classes`.
    Raises: ValueError, LoadError of `zoo.load`.
    """
    config: Any = describe(source).config
    has_classes = config.head == "classify" or config.parts  # models of several towers have no classifier
    fields = {"head": "classify"} if has_classes else {"head": "classify", "num_classes": 2}
    return load(source, **fields | dict(overrides)).train()


def set_classes(model: Model, classes: Sequence[str], seed: int) -> bool:
    """Give a loaded classifier the classes of the data; returns whether its last layer was kept.

    The last layer of a classifier of the same classes is kept, with its rows in the order of `classes`. Otherwise it
    is initialized from `seed`, which is printed.
    """
    kept = model.labels is not None and sorted(model.labels) == sorted(classes)
    if kept:
        rows = [cast(list[str], model.labels).index(name) for name in classes]
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.startswith("head.proj"):
                    weight.copy_(weight[rows].clone())
    else:
        model.reset_head(len(classes), seed=seed)
        names = ", ".join(classes[:6]) + (", ..." if len(classes) > 6 else "")
        console().print("[bold]head      [/bold]", end="")
        console().print(f"new, for {len(classes)} classes: {names}", markup=False)
    model.labels = list(classes)
    return kept
