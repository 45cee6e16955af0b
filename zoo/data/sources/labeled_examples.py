"""Labeled examples for an existing model, from a table or a folder: its inputs and its own classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.data.sources.class_folders import class_tables
from zoo.data.sources.columns import (
    LABEL_NAMES,
    encoded_item,
    find_column,
    input_names,
    with_decimal_points,
    with_values,
)
from zoo.data.sources.tables import Table, read_table
from zoo.models.base import Model
from zoo.preprocessing.modality import of_model
from zoo.utils.errors import DataError


def read_examples(
    model: Model, path: Path, column: str = "", label_column: str = "", usual: Callable[[str], str] | None = None,
    **options: Any,
) -> list[tuple[Any, Any]]:  # fmt: skip
    """(input, label) pairs of a table, or of a folder of class folders: of its test part if there is one.

    column, label_column: two or more are separated by commas. usual: the columns for "text", "label" and so on that are
    taken if they are in the table and none are given. options: of `read_table`.

    Raises DataError for a table without such columns, or with a missing value or file.
    """
    modality = of_model(model)[0]
    if path.is_dir():
        if not modality.files_only:
            raise DataError(f"{path} is a folder: expected a table of {modality.plural}, such as validation.csv")
        tables = class_tables(path, modality.suffixes, f"{modality.name} file")
        table = tables.get("test", tables["train"])
    else:
        table = read_table(path, **options)
    if usual is not None:
        column = column or in_table(table, usual(modality.name))
        label_column = label_column or in_table(table, usual("label"))
    columns = [find_column(table, name.strip(), modality.name, input_names(modality)) for name in column.split(",")]
    for name in columns:
        with_values(table, name, "", modality.name)
    items: list[Any] = list(zip(*(table.columns[name] for name in columns), strict=True))
    if len(columns) == 1:
        items = [item for (item,) in items]
    if modality.files_only:
        for row, value in enumerate(items):
            items[row], problem = encoded_item(value, path.parent)
            if problem:
                raise DataError(f"{table.place(row)}: {problem}")
    return list(zip(items, labels_of(model, table, label_column), strict=True))


def in_table(table: Table, columns: str) -> str:
    """Names of columns, separated by commas, if the table has all of them; else none."""
    return columns if all(name.strip() in table.columns for name in columns.split(",")) else ""


def labels_of(model: Model, table: Table, requested: str) -> list[Any]:
    """The labels of a table; numbers of a regression as numbers, none for a language model."""
    if model.config.head != "classify":
        return [None] * len(table)
    single = model.config.resolved_problem_type == "single_label_classification"
    requests = [requested] if single or requested in table.columns else requested.split(",")
    columns = [find_column(table, name.strip(), "label", LABEL_NAMES) for name in requests]
    for name in columns:
        with_values(table, name, "", "label")
    if single:
        values, names = table.columns[columns[0]], table.names.get(columns[0])
        return [names[value] for value in values] if names else values
    if model.config.num_classes == 1:
        table = with_decimal_points({"table": table}, columns[0])["table"]
    listed = ", ".join(map(repr, columns))
    try:
        rows = [
            [float(part) for value in row for part in str(value).strip("[]").split(",")]
            for row in zip(*(table.columns[name] for name in columns), strict=True)
        ]
    except ValueError:
        raise DataError(f"{table.where}: the labels in {listed} are not numbers, as this model predicts") from None
    for i, row in enumerate(rows):
        if len(row) != model.config.num_classes:
            raise DataError(f"{table.place(i)}: {len(row)} numbers in {listed}, and the model predicts "
                            f"{model.config.num_classes}: name a column for each, e.g. a,b, in their order, or one of "
                            f"lists")  # fmt: skip
    return rows
