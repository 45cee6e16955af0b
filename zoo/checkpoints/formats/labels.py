"""Names of classes in the config files of other libraries: which name belongs to which row of the classifier."""

from collections.abc import Mapping
from typing import Any

from zoo.models.load_report import listed
from zoo.utils.errors import LoadError


def names_of_rows(names: Any, classes: int, key: str) -> tuple[list[str] | None, list[str]]:
    """(the name of each row of a classifier, notes) from an object {row: name} such as transformers' `id2label`.

    A row without a name is called as transformers calls it, LABEL_3, with a note; if all rows are, the result is None.
    Raises LoadError, naming `key`, if it is not such an object, or names a row twice or one that does not exist.
    """
    if not isinstance(names, Mapping):
        raise LoadError(f"{key} is a {type(names).__name__}, expected an object of names by row, {{'0': name, ...}}")
    by_row: dict[int, str] = {}
    for text, name in names.items():
        if not (str(text).isascii() and str(text).isdigit() and str(int(text)) == str(text)):
            raise LoadError(f"{key} has the key {text!r}, expected the number of a row of the classifier, from '0' on")
        if int(text) >= classes:
            raise LoadError(
                f"{key} names row {text} ({name!r}), and the classifier has {classes} rows, 0 to {classes - 1}: "
                f"number the names from 0 without gaps"
            )
        if name is not None:
            by_row[int(text)] = name_of(name, f"{key}[{text!r}]")
    placeholders = [f"LABEL_{row}" for row in range(classes)]
    labels = [by_row.get(row, placeholder) for row, placeholder in enumerate(placeholders)]
    if labels == placeholders:
        return None, []
    absent = [placeholder for row, placeholder in enumerate(placeholders) if row not in by_row]
    return labels, [f"{key} names {len(by_row)} of {classes} rows; the others are {listed(absent)}"] if absent else []


def list_of_names(names: Any, classes: int, key: str) -> tuple[list[str] | None, list[str]]:
    """(names, notes) from a list of the names of all rows; None, with a note, if there is another number of them."""
    if not isinstance(names, list):
        raise LoadError(f"{key} is a {type(names).__name__}, expected a list of the names of the classes")
    labels = [name_of(name, f"{key}[{i}]") for i, name in enumerate(names)]
    if labels and len(labels) != classes:
        return None, [f"model.labels is None: {key} has {len(labels)} names, and the classifier {classes} rows"]
    return labels or None, []


def name_of(name: Any, key: str) -> str:
    """The name of a class as text; numbers are names, too. Raises LoadError for anything else."""
    if not isinstance(name, str | int | float):
        raise LoadError(f"{key} is {name!r}, expected the name of a class")
    return str(name)
