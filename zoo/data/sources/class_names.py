"""Names of the classes of a table: given for numbers, and one spelling for labels that look like the same class."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.data.base_config import LabelSettings
from zoo.data.sources.labels import label_names
from zoo.data.sources.tables import Table, read_text
from zoo.models.load_report import listed
from zoo.utils.errors import DataError


@dataclass(frozen=True)
class NamedLabels:
    """Tables whose labels have the names of the settings.

    Attributes:
        tables: The tables by split.
        names: The names of the classes 0, 1, ..., if the settings give them; the labels then are these numbers.
        notes: What the user should know about the labels, one sentence each.
    """

    tables: dict[str, Table]
    names: list[str] | None
    notes: list[str]


def name_labels(tables: Mapping[str, Table], columns: Mapping[str, str], s: LabelSettings) -> NamedLabels:
    """Apply `normalize_labels` and `class_names` to the label columns of tables.

    Args:
        tables: Tables by split, including `train`.
        columns: The label column of each; a table without one is left as it is.
        s: The settings.

    Raises: DataError for names that do not fit the labels, or a file of names that is missing or has one twice.
    """
    found = dict(tables)
    if getattr(s, "problem_type", "") == "multi_label_classification":
        found |= {split: mapped(found[split], name, _as_list) for split, name in columns.items()}
    notes = _normalize(found, columns, merge=s.normalize_labels)
    names = read_names(s.class_names)
    if names is not None and "train" in columns:
        _number_labels(found, columns, names)
    return NamedLabels(found, names, notes)


def _normalize(tables: dict[str, Table], columns: Mapping[str, str], *, merge: bool) -> list[str]:
    """Merge labels that look alike, in place, or leave them; returns the note about them."""
    values = [value for split, name in columns.items() for value in tables[split].columns[name]]
    spellings = Counter(name for value in values for name in texts_in(value))
    if not (alike := look_alikes(spellings)):
        return []
    counted = [", ".join(f"{name!r} ({spellings[name]:,})" for name in group) for group in alike]
    if not merge:
        return [f"different classes that look like the same one: {listed(counted, 5)}; data.normalize_labels=true "
                f"makes one of them"]  # fmt: skip
    mapping = {name: " ".join(group[0].split()) for group in alike for name in group}
    for split, column in columns.items():
        tables[split] = mapped(tables[split], column, lambda value: _renamed(value, mapping))
    merged = [f"{count} as {mapping[group[0]]!r}" for count, group in zip(counted, alike)]
    return [f"normalize_labels=true takes {listed(merged, 5)}"]


def _number_labels(tables: dict[str, Table], columns: Mapping[str, str], names: list[str]) -> None:
    """Turn the labels into the numbers of their names, in place."""
    numbers = _numbers_of(tables["train"], columns["train"], names)
    for split, column in columns.items():
        table = tables[split]
        for row, value in enumerate(table.columns[column]):
            if not _is_empty(value) and _number(value) not in numbers:
                raise DataError(f"{table.place(row)}: label {value!r} is not among the training labels "
                                f"({', '.join(map(str, numbers))}), which class_names= gives names")  # fmt: skip
        table = mapped(table, column, lambda value: value if _is_empty(value) else numbers[_number(value)])
        tables[split] = replace(table, names=table.names | {column: names})


def columns_of(tables: Mapping[str, Table], column: str) -> dict[str, str]:
    """The column of each table that has it."""
    return {split: column for split, table in tables.items() if column in table.columns}


def look_alikes(spellings: Mapping[str, int]) -> list[list[str]]:
    """Groups of texts that differ in case, spaces or forms of characters alone, the most frequent spelling first."""
    groups = defaultdict(list)
    for name in sorted(spellings):
        groups[" ".join(unicodedata.normalize("NFKC", name).split()).casefold()].append(name)
    return [sorted(group, key=lambda name: -spellings[name]) for group in groups.values() if len(group) > 1]


def read_names(given: list[str] | str) -> list[str] | None:
    """The names of the option `class_names`: a list, or a file with a name a line; None if it is empty.

    Raises: DataError for a file that is missing, and for an empty name or one that is there twice.
    """
    if not given:
        return None
    names, where = given, "class_names="
    if isinstance(given, str):
        file = Path(given).expanduser()
        if not file.is_file():
            raise DataError(f"class_names={given}: no such file; give a file with a name a line, or a list, [cat, dog] "
                            f"(with names that are numbers in quotes, ['1', '2'])")  # fmt: skip
        names, where = [line.strip() for line in read_text(file).rstrip().splitlines()], str(file)
    if empty := [i for i, name in enumerate(names, 1) if not name.strip()]:
        raise DataError(f"{where}: name {empty[0]} of {len(names)} is empty; expected a name for each class")
    if twice := sorted({name for name in names if list(names).count(name) > 1}):
        raise DataError(f"{where}: more than one class is called {listed(twice)}; expected a different name for each")
    return list(names)


def texts_in(value: Any) -> list[str]:
    """The label, or labels of a list, that are texts and not numbers."""
    names = value if isinstance(value, list) else [value]
    return [name for name in names if isinstance(name, str) and name.strip() and _number(name) is None]


def mapped(table: Table, column: str, change: Callable[[Any], Any]) -> Table:
    """The table with the values of a column changed."""
    return replace(table, columns=table.columns | {column: [change(value) for value in table.columns[column]]})


def _as_list(value: Any) -> Any:
    """A cell of several labels as a list of names."""
    return value if _is_empty(value) else label_names(value)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _renamed(value: Any, mapping: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return list(dict.fromkeys(mapping.get(name, name) for name in value))
    return mapping.get(value, value) if isinstance(value, str) else value


def _numbers_of(table: Table, column: str, names: list[str]) -> dict[int | None, int]:
    """The class of each number of the training labels. Raises: DataError for other labels, or as many as names."""
    values = [value for value in table.columns[column] if not _is_empty(value)]
    if odd := next((value for value in values if _number(value) is None), None):
        raise DataError(f"class_names= gives names to labels that are whole numbers, and those of {table.where} in "
                        f"{column!r} are not, e.g. {odd!r}; omit it")  # fmt: skip
    stored = table.names.get(column)
    numbers = list(range(len(stored))) if stored else sorted({_number(value) or 0 for value in values})
    if len(numbers) != len(names):
        raise DataError(f"class_names= has {len(names)} names, and {table.where} has {len(numbers)} different labels "
                        f"in {column!r} ({listed([str(n) for n in numbers])}); give a name for each, in the order of "
                        f"the numbers")  # fmt: skip
    return {number: i for i, number in enumerate(numbers)}


def _number(value: Any) -> int | None:
    """A label as a whole number; None for another one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None
