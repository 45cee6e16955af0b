"""Label columns of tables of texts or molecules: one of classes or values, or several of zeros and ones or numbers."""

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.data.config import TextDataSettings
from zoo.data.molecule_config import MoleculeDataSettings
from zoo.data.sources.class_names import columns_of, name_labels
from zoo.data.sources.columns import with_decimal_points
from zoo.data.sources.labels import encode_labels, is_missing
from zoo.data.sources.tables import Table
from zoo.models.config import ProblemType
from zoo.utils.errors import DataError

SHOWN = 5  # columns in a note
Settings = TextDataSettings | MoleculeDataSettings


def clean_labels(tables: dict[str, Table], label: list[str], s: Settings) -> tuple[dict[str, Table], list[str]]:
    """(tables whose labels have decimal points and the names of the settings, notes for the user).

    Raises: DataError for names that do not fit the labels, see `name_labels`, and for names of several columns.
    """
    if len(label) > 1:
        if s.class_names or s.normalize_labels:
            raise DataError(f"label={','.join(label)}: several label columns have the names of their columns; omit "
                            f"class_names= and normalize_labels=")  # fmt: skip
        if s.problem_type in ("auto", "regression"):
            for name in label:
                tables = with_decimal_points(tables, name)
        return tables, []
    if s.problem_type in ("auto", "regression"):
        tables = with_decimal_points(tables, label[0])
    named = name_labels(tables, columns_of(tables, label[0]), s)
    return named.tables, named.notes


def encode_columns(
    tables: Mapping[str, Table],
    label: list[str],
    rows: Mapping[str, list[int]],
    s: Settings,
    classes: list[str] | None,
) -> tuple[ProblemType, list[str], dict[str, Tensor]]:
    """`encode_labels` by the settings. Raises: DataError, also for names of other labels than those of classes."""
    problem_type, names, labels = encode_labels(tables, label, rows, s.problem_type, classes)
    if s.class_names and problem_type != "single_label_classification":
        raise DataError(f"class_names= with problem_type={problem_type}: only the classes of one label have numbers "
                        f"to be named; omit it")  # fmt: skip
    return problem_type, names, labels


def notes_on_missing(names: list[str], labels: Mapping[str, Tensor]) -> list[str]:
    """A note for the user on the empty cells of several label columns."""
    parts = [part for part in labels.values() if part.ndim == 2]
    empty = torch.cat(parts).isnan().sum(0).tolist() if parts else []
    found = [f"{count:,} in {name!r}" for name, count in zip(names, empty) if count]
    if not found:
        return []
    more = f" and {len(found) - SHOWN} more columns" if len(found) > SHOWN else ""
    return [f"empty labels are left out of loss and metrics: {', '.join(found[:SHOWN])}{more}"]


def missing_label(table: Table, row: int, label: list[str]) -> str:
    """What is wrong with a row without a label, in any of several columns; "" for others."""
    if any(not is_missing(table.columns[name][row]) for name in label):
        return ""
    return f"no label in {' or '.join(map(repr, label))}"
