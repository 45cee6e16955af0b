"""The names that a caller gives to the classes of a loaded classifier: each name stays with its own scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.models.config import CLASSIFIER_HEADS
from zoo.models.family import Family
from zoo.models.load_report import LoadReport, listed
from zoo.models.registry import build
from zoo.utils.type_checks import is_list_of_texts


def check_classes(labels: Any, num_classes: int | None, overrides: dict[str, Any]) -> None:
    """Raise ValueError for labels that are not a list of texts, or for classes that do not fit the other arguments."""
    if "head" in overrides and overrides["head"] not in CLASSIFIER_HEADS and (labels is not None or num_classes):
        given = f"num_classes={num_classes!r}" if labels is None else "labels="
        raise ValueError(
            f"{given} is for a classifier, and head={overrides['head']!r} has no classes: omit one of them"
        )
    if labels is None:
        return
    if not is_list_of_texts(labels):
        raise ValueError(f"labels={labels!r:.200}: expected a list of the names of the classes, such as ['cat', 'dog']")
    if not labels:
        raise ValueError("labels=[] names no class: omit it to keep the names of the file")
    if num_classes not in (None, len(labels)):
        raise ValueError(
            f"{len(labels)} labels were given for num_classes={num_classes}: give as many, or omit num_classes"
        )


def put_in_order(tensors: dict[str, Tensor], report: LoadReport, checkpoint: Checkpoint, labels: Sequence[str]) -> None:
    """Put the rows of the file's classifier in the order of `labels`, in place, or report that they are renamed.

    Raises ValueError if a name of the file would stand for the scores of another class.
    """
    own, labels = checkpoint.labels, list(labels)
    if own is None or own == labels:
        return
    if sorted(own) == sorted(labels) and len(set(own)) == len(own):
        tensors |= reordered(tensors, checkpoint.family, checkpoint.config, own, labels)
        report.notes.append("the rows of the classifier were put in the order of labels=")
        return
    if moved := [row for row, name in enumerate(labels) if name in own and own[row] != name]:
        name = labels[moved[0]]
        raise ValueError(
            f"labels= has {name!r} at row {moved[0]}, and in {checkpoint.path} it is the name of row "
            f"{own.index(name)}: give all names of the file ({listed(own)}), or new names in their order; for a "
            f"new classifier, load the model and call model.reset_head({len(labels)})"
        )
    renamed = [f"{before} is called {after}" for before, after in zip(own, labels, strict=True) if before != after]
    report.notes.append(f"labels= renames the classes of the trained classifier: {listed(renamed)}")


def reordered(
    tensors: Mapping[str, Tensor], family: Family, config: Any, own: Sequence[str], labels: Sequence[str]
) -> dict[str, Tensor]:
    """The tensors of a classifier with rows for the classes `own`, with these rows in the order of `labels`."""
    order = torch.tensor([own.index(name) for name in labels])
    axes = _class_axes(family, config)
    return {name: tensors[name].index_select(axis, order.to(tensors[name].device)) for name, axis in axes.items()}


def _class_axes(family: Family, config: Any) -> dict[str, int]:
    """{name: the axis of its classes} of the tensors of the classifier: those that grow with the number of classes."""
    before = build(family, config).state_dict()
    after = build(family, config.replace(num_classes=config.num_classes + 1)).state_dict()
    pairs = {name: (tensor.shape, after[name].shape) for name, tensor in before.items() if name in after}
    return {
        name: next(axis for axis, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)
        for name, (old, new) in pairs.items()
        if old != new
    }
