"""Groups of items that stay in one split: of a column of the tables, or of a part of the names of files."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.data.base_config import GroupSettings
from zoo.data.sources.columns import find_column
from zoo.data.sources.tables import Table
from zoo.data.splits import Items
from zoo.models.load_report import listed
from zoo.utils.errors import DataError


def assign_groups(
    sets: Mapping[str, Items], tables: Mapping[str, Table], rows: Mapping[str, Sequence[int]], s: GroupSettings,
    folder: str = "",
) -> list[str]:  # fmt: skip
    """Number the groups of all items, so that a split that is held out later has whole groups.

    Args:
        sets: The datasets by split.
        tables: Their tables.
        rows: The row of the table of each item.
        s: The settings; without `group_column` and `group_pattern` nothing is done.
        folder: The folder that the files of `group_pattern` are named in.

    Returns: a note for the user, if there are groups.

    Raises: DataError for an unknown column, an item without a group, or a group in more than one split of the data.
    """
    if not s.group_column and not s.group_pattern:
        return []
    names = {split: group_names(tables[split], rows[split], s, folder) for split in sets}
    first: dict[str, str] = {}
    for split, groups in names.items():
        if twice := sorted(name for name in set(groups) if first.setdefault(name, split) != split):
            raise DataError(f"{s.group_option}: {listed(twice, 5)} {'are' if len(twice) > 1 else 'is'} both in the "
                            f"{first[twice[0]]} and in the {split} split of the data; give one table, which is split "
                            f"by whole groups, or omit the option")  # fmt: skip
    number = {name: i for i, name in enumerate(sorted(first))}
    for split, groups in names.items():
        sets[split].group_ids = torch.tensor([number[name] for name in groups])
        sets[split].group_option = s.group_option
    return [f"whole groups of {s.group_option} are in one split each: {len(number):,} groups"]


def group_names(table: Table, rows: Sequence[int], s: GroupSettings, folder: str) -> list[str]:
    """The group of each of the rows. Raises: DataError for an unknown column, or an item without a group."""
    if s.group_column:
        values = table.columns[find_column(table, s.group_column, "group_column", ())]
        for row in rows:
            if values[row] is None or not str(values[row]).strip():
                raise DataError(f"{table.place(row)}: no group in {s.group_column!r}; fill it in or remove the row")
        return [str(values[row]).strip() for row in rows]
    files: list[Any] = table.columns.get("file", [])
    if not files or not isinstance(files[0], Path):
        raise DataError(f"group_pattern= is for folders with one sub-folder of files per class, and {table.where} is a "
                        f"table: use group_column=, e.g. group_column={next(iter(table.columns))}")  # fmt: skip
    found = []
    for row in rows:
        name = files[row].relative_to(Path(folder).expanduser()).as_posix()
        if not (match := re.search(s.group_pattern, name)) or not match[1]:
            raise DataError(f"group_pattern={s.group_pattern} finds no group in {name!r}, a file of {folder}; expected "
                            f"a regular expression whose one group, in parentheses, is the name of the speaker, author "
                            f"or patient")  # fmt: skip
        found.append(match[1])
    return found
