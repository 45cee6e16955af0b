"""Label columns of tables as tensors: single-label, multi-label or regression targets."""

from collections.abc import Mapping
from math import nan
from typing import Any, cast

import torch
from torch import Tensor

from zoo.data.sources.tables import Table
from zoo.models.config import ProblemType
from zoo.utils.errors import DataError, did_you_mean

MOST_CLASSES = 1000
FEW_ROWS = 50  # up to so many, each class may have one example
_BINARY = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}


def encode_labels(
    tables: Mapping[str, Table],
    columns: list[str],
    rows: Mapping[str, list[int]],
    problem_type: str = "auto",
    classes: list[str] | None = None,
) -> tuple[ProblemType, list[str], dict[str, Tensor]]:
    """(problem type, class names, labels by split).

    Args:
        tables: Tables by split; the classes are those of `train`.
        columns: One column, or several: of zeros and ones, one per class, or of numbers.
        rows: Rows of each table to use; all of them have a label. Of several columns, one that is empty is NaN.
        problem_type: `single_label_classification`, `multi_label_classification` or `regression`; `auto` infers it from
            the values of `train`.
        classes: Names of the classes 0, 1, ..., if known.

    Raises: DataError for labels of mixed types, of a single class, missing from `train`, or not numeric.
    """
    values = {s: [[t.columns[name][row] for name in columns] for row in rows[s]] for s, t in tables.items()}
    if len(columns) > 1:
        if problem_type not in ("auto", "multi_label_classification", "regression"):
            raise DataError(
                f"label={','.join(columns)} with problem_type={problem_type}: several label columns are zeros and ones "
                f"(problem_type=multi_label_classification) or numbers (problem_type=regression)"
            )
        if problem_type == "auto":
            problem_type = _infer_columns(values["train"])
        read = _binary if problem_type == "multi_label_classification" else _columns_of_numbers
        targets = {s: read(tables[s], columns, rows[s], values[s]) for s in tables}
        check_columns(tables["train"], columns, targets["train"])
        return cast(ProblemType, problem_type), columns, targets
    plain = {s: [value[0] for value in rows_] for s, rows_ in values.items()}
    inferred = cast(ProblemType, _infer(plain["train"]) if problem_type == "auto" else problem_type)
    if inferred == "regression":
        return "regression", columns, {s: _numbers(tables[s], rows[s], plain[s]) for s in tables}
    if inferred == "multi_label_classification":
        return "multi_label_classification", *_label_lists(tables, rows, plain)
    stored = tables["train"].names.get(columns[0]) or classes
    names, index = _classes(tables["train"], columns[0], rows["train"], plain["train"], stored)
    return "single_label_classification", names, {s: _indices(tables[s], rows[s], plain[s], index) for s in tables}


def _infer(values: list[Any]) -> ProblemType:
    """Problem type of label values: lists are multi-label, fractional numbers regression, anything else classes."""
    if any(isinstance(value, list) for value in values):
        return "multi_label_classification"
    if all(isinstance(value, float | int | str) and not isinstance(value, bool) for value in values):
        numbers = [_as_number(value) for value in values]
        if all(n is not None for n in numbers) and any(n != int(n) for n in numbers if n is not None):
            return "regression"
    return "single_label_classification"


def _infer_columns(values: list[list[Any]]) -> ProblemType:
    """Regression for several columns of numbers that are not all 0 and 1; else their labels are several classes."""
    there = [value for row in values for value in row if not is_missing(value)]
    binary = all(_text(value).lower() in _BINARY for value in there)
    numbers = all(_as_number(value) is not None and not isinstance(value, bool) for value in there)
    return "regression" if numbers and not binary else "multi_label_classification"


def is_missing(value: Any) -> bool:
    """Whether a cell of a table has no value: empty, or not a number."""
    return value is None or value == "" or (isinstance(value, float) and value != value)


def check_columns(table: Table, columns: list[str], targets: Tensor) -> None:
    """Raise DataError for a column of several that has no value at all in the training table."""
    for name, column in zip(columns, targets.isnan().all(0).tolist(), strict=True):
        if column:
            raise DataError(f"{table.where}: no row has a value in {name!r}; leave it out of label=")


def _as_number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number - number == 0.0 else None  # neither nan nor infinite


def _classes(table: Table, column: str, rows: list[int], values: list[Any],
             stored: list[str] | None) -> tuple[list[str], dict[str, int]]:  # fmt: skip
    """Class names, and the class index of each value by its text."""
    texts: dict[str, tuple[type, int]] = {}
    for row, value in zip(rows, values):
        if not isinstance(value, str | int | bool) and not (isinstance(value, float) and value.is_integer()):
            raise DataError(
                f"{table.place(row)}: label {value!r} is not a class; for numeric targets use problem_type=regression"
            )
        value_type = str if isinstance(value, str) else int
        first = next(iter(texts.values()), (value_type, row))
        if first[0] is not value_type:
            kind = "text" if value_type is str else "a number"
            raise DataError(
                f"{table.place(row)}: label {value!r} is {kind}, but that of {table.place(first[1])} is not; "
                f"use one type for all labels"
            )
        texts.setdefault(_text(value), (value_type, row))
    if len(texts) < 2:
        only = next(iter(texts))
        raise DataError(f"{table.where}: all labels in {column!r} are {only!r}; a classifier needs two classes")
    if len(texts) > MOST_CLASSES:
        raise DataError(f"{table.where}: {len(texts):,} different labels in {column!r}; is it the right column? "
                        f"For numeric targets use problem_type=regression")  # fmt: skip
    if len(texts) == len(values) > FEW_ROWS and not stored:
        raise DataError(f"{table.where}: each of {len(values):,} rows has another label in {column!r}, which looks "
                        f"like an identifier: name the column of classes (label=), or for numeric targets use "
                        f"problem_type=regression")  # fmt: skip
    found = sorted(texts, key=lambda text: (_as_number(text) is None, _as_number(text) or 0.0, text))
    if stored and next(iter(texts.values()))[0] is int and all(0 <= int(text) < len(stored) for text in found):
        return list(stored), {str(i): i for i in range(len(stored))}
    if stored and set(found) <= set(stored):
        return list(stored), {name: i for i, name in enumerate(stored)}
    if stored and all(text.isdigit() and int(text) < len(stored) for text in found):
        return list(stored), {str(i): i for i in range(len(stored))}
    return found, {name: i for i, name in enumerate(found)}


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) else str(value)


def _indices(table: Table, rows: list[int], values: list[Any], index: Mapping[str, int]) -> Tensor:
    for row, value in zip(rows, values):
        if _text(value) not in index:
            raise DataError(f"{table.place(row)}: label {value!r} is not among the training labels "
                            f"({', '.join(list(index)[:10])}){did_you_mean(_text(value), index)}")  # fmt: skip
    return torch.tensor([index[_text(value)] for value in values], dtype=torch.int64)


def _numbers(table: Table, rows: list[int], values: list[Any]) -> Tensor:
    for row, value in zip(rows, values):
        if _as_number(value) is None or isinstance(value, bool):
            raise DataError(f"{table.place(row)}: label {value!r} is not a number")
    return torch.tensor([float(value) for value in values], dtype=torch.float32)


def _binary(table: Table, columns: list[str], rows: list[int], values: list[list[Any]]) -> Tensor:
    """Multi-label targets from several columns of zeros and ones; NaN for empty cells."""
    for row, entries in zip(rows, values):
        for name, value in zip(columns, entries):
            if not is_missing(value) and _text(value).lower() not in _BINARY:
                raise DataError(f"{table.place(row)}: {name}={value!r}, expected 0 or 1 (multi-label columns)")
    targets = [[nan if is_missing(v) else _BINARY[_text(v).lower()] for v in entries] for entries in values]
    return torch.tensor(targets)


def _columns_of_numbers(table: Table, columns: list[str], rows: list[int], values: list[list[Any]]) -> Tensor:
    """Regression targets [N, C] from several columns of numbers; NaN for empty cells."""
    for row, entries in zip(rows, values):
        for name, value in zip(columns, entries):
            if not is_missing(value) and (_as_number(value) is None or isinstance(value, bool)):
                raise DataError(f"{table.place(row)}: {name}={value!r} is not a number")
    targets = [[nan if is_missing(value) else float(value) for value in entries] for entries in values]
    return torch.tensor(targets, dtype=torch.float32)


def _label_lists(tables: Mapping[str, Table], rows: Mapping[str, list[int]],
          values: Mapping[str, list[Any]]) -> tuple[list[str], dict[str, Tensor]]:  # fmt: skip
    """Multi-label targets from a column of lists of names, or of names separated by `|`."""
    lists = {s: [label_names(value) for value in entries] for s, entries in values.items()}
    names = sorted({name for entry in lists["train"] for name in entry})
    index = {name: i for i, name in enumerate(names)}
    targets = {}
    for split, entries in lists.items():
        targets[split] = torch.zeros(len(entries), len(names))
        for i, entry in enumerate(entries):
            for name in entry:
                if name not in index:
                    place = tables[split].place(rows[split][i])
                    raise DataError(
                        f"{place}: label {name!r} is not among the training labels{did_you_mean(name, names)}"
                    )
                targets[split][i, index[name]] = 1.0
    return names, targets


def label_names(value: Any) -> list[str]:
    """The names in a cell of several labels: a list of names, or a text of names separated by `|`."""
    return [str(name) for name in value] if isinstance(value, list) else [n.strip() for n in str(value).split("|")]
