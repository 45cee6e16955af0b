"""Labels of records: numbers of classes, or in parquet files also texts."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zoo.data.sources.columns import LABEL_NAMES
from zoo.data.streams.records import Role
from zoo.data.streams.rows import StreamRows
from zoo.utils.errors import DataError


def label_role(column: str) -> Role:
    """The label of a record, in the member or column that the user names, or in one of a common name."""
    return Role("label", ("cls",), (*LABEL_NAMES, "fine_label", "cls"), column)


def numbered_labels(parts: dict[str, StreamRows], given: list[str] | None) -> tuple[list[str], dict[str, Tensor]]:
    """(class names, labels of each split, int64 [n]). Labels are numbers, or in parquet files also texts.

    Raises: DataError for other labels, or a class that is not among the training labels.
    """
    values = {split: part.records.labels("label") for split, part in parts.items()}
    names = given or list(parts["train"].records.names)
    for one in (source for part in parts.values() for source in part.records.sources):
        if not given and names and one.names and list(one.names) != names:
            raise DataError(f"{one.where} has the class names {', '.join(one.names)}, but those to train on are "
                            f"{', '.join(names)}: the numbers of its labels stand for other classes; write it with the "
                            f"same names in the same order, or give them with class_names=")  # fmt: skip
    texts = not names and all(isinstance(value, str) for value in values["train"])
    if texts:
        names = sorted(set(values["train"]))
        number = {name: i for i, name in enumerate(names)}
    found = {}
    for split, part in parts.items():
        if texts:
            for row, value in enumerate(values[split]):
                if value not in number:
                    raise DataError(f"{part.place(row)}: label {value!r} is not among the training labels")
            found[split] = torch.tensor([number[value] for value in values[split]])
        else:
            known = [_as_class(value, partial(part.place, row, "label"), names)
                     for row, value in enumerate(values[split])]  # fmt: skip
            found[split] = torch.tensor(known, dtype=torch.int64)
    count = 1 + max(int(labels.max()) for labels in found.values())
    if count < 2 and not names:
        raise DataError("all labels are 0: a classifier needs two classes")
    return names or [str(i) for i in range(count)], found


def _as_class(value: Any, place: Callable[[], str], names: Sequence[str]) -> int:
    """The number of a class. Raises: DataError for what is not a whole number from 0."""
    text = value.decode("utf-8", "replace").strip() if isinstance(value, bytes) else value
    try:
        number = int(text) if not isinstance(text, float) or text.is_integer() else -1
    except (TypeError, ValueError):
        number = -1
    if number < 0 or (names and number >= len(names)):
        expected = f"0 to {len(names) - 1}" if names else "a whole number from 0"
        raise DataError(f"{place()}: the label is {text!r}, expected {expected}; write the number of the class, and "
                        f"give the names with class_names=")  # fmt: skip
    return number
