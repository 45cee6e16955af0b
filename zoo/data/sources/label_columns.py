"""Label columns of tables of texts or molecules: one of classes or values, or several of zeros and ones."""

from collections.abc import Mapping

from torch import Tensor

from zoo.data.config import TextDataSettings
from zoo.data.molecule_config import MoleculeDataSettings
from zoo.data.sources.class_names import columns_of, name_labels
from zoo.data.sources.columns import with_decimal_points
from zoo.data.sources.labels import encode_labels
from zoo.data.sources.tables import Table
from zoo.models.config import ProblemType
from zoo.utils.errors import DataError

Settings = TextDataSettings | MoleculeDataSettings


def clean_labels(tables: dict[str, Table], label: list[str], s: Settings) -> tuple[dict[str, Table], list[str]]:
    """(tables whose labels have decimal points and the names of the settings, notes for the user).

    Raises: DataError for names that do not fit the labels, see `name_labels`, and for names of several columns.
    """
    if len(label) > 1:
        if s.class_names or s.normalize_labels:
            raise DataError(f"label={','.join(label)}: several label columns have the names of their columns; omit "
                            f"class_names= and normalize_labels=")  # fmt: skip
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


def missing_label(table: Table, row: int, label: list[str]) -> str:
    """What is wrong with a row without one of its labels; "" for others."""
    return next((f"no label in {name!r}" for name in label if table.columns[name][row] in (None, "")), "")
