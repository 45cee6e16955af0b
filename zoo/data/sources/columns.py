"""Columns and rows of a table: the ones that the user names, or those with common names; rows without a value."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.data.sources.tables import Table
from zoo.utils.console import announce
from zoo.utils.errors import DataError, did_you_mean

# Common names of columns.
TEXT_NAMES = ("text", "sentence", "review", "content", "body", "comment", "tweet", "document")
LABEL_NAMES = ("label", "labels", "target", "class", "category", "sentiment", "stars", "rating", "score")
FILE_NAMES = ("file", "file_name", "filename", "path", "file_path", "filepath")


def find_column(table: Table, requested: str, role: str, defaults: Sequence[str]) -> str:
    """The requested column, or the first default that exists.

    Args:
        role: The option that names the column, for messages.

    Raises: DataError that lists the columns.
    """
    columns = ", ".join(table.columns)
    if requested and requested not in table.columns:
        raise DataError(f"{role}={requested}: {table.where} has no column {requested!r}"
                        f"{did_you_mean(requested, table.columns)} (it has {columns})")  # fmt: skip
    found = requested or next((name for name in defaults if name in table.columns), "")
    if not found:
        raise DataError(f"{table.where} has the columns {columns}: name the {role} column, e.g. {role}="
                        f"{next(iter(table.columns), 'name')}{_pair_hint(table, role)}")  # fmt: skip
    return found


def find_columns(table: Table, requested: str, role: str, defaults: Sequence[str]) -> list[str]:
    """The requested columns, separated by commas, or the first default that exists; see `find_column`."""
    return [find_column(table, name.strip(), role, defaults) for name in requested.split(",")]


def _pair_hint(table: Table, role: str) -> str:
    """How to name the two columns of text pairs, for a table with two columns of strings."""
    strings = [name for name, values in table.columns.items() if isinstance(values[0], str)]
    return f" (or two, for text pairs: text={','.join(strings[:2])})" if role == "text" and len(strings) > 1 else ""


def with_values(table: Table, name: str, on_error: str, role: str) -> list[int]:
    """Rows with a value in a column. Raises: DataError for an empty value, unless on_error is "skip"."""
    if name not in table.columns:
        raise DataError(f"{table.where} has no column {name!r} for the {role}, it has {', '.join(table.columns)}")
    values = table.columns[name]
    empty = [i for i, v in enumerate(values) if v is None or (isinstance(v, str) and not v.strip())]
    if empty and on_error == "raise":
        raise DataError(f"{table.place(empty[0])}: no {role} in {name!r} (on_error=skip skips such rows)")
    if len(empty) == len(values):
        raise DataError(f"{table.where}: no row has a {role}")
    announce_skipped([f"{table.place(i)}: no {role} in {name!r}" for i in empty], "rows")
    skipped = set(empty)
    return [i for i in range(len(values)) if i not in skipped]


def announce_skipped(messages: Sequence[str], noun: str) -> None:
    """Say how many items were skipped, with the first three messages; nothing if there are none."""
    if messages:
        announce(f"skipped {len(messages)} {noun}: {'; '.join(messages[:3])}{' ...' * (len(messages) > 3)}")


def encoded_item(value: Any, base: Path) -> tuple[bytes | Path | None, str]:
    """(encoded item, problem) of a cell: bytes, {bytes, path}, a Path, or the name of a file relative to `base`."""
    if isinstance(value, Path):
        return value, ""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value, "" if value else "contains no bytes"
    if not isinstance(value, str) or not value:
        return None, "no file name" if value in (None, "") else f"expected a file, got {type(value).__name__}"
    file = base / Path(value).expanduser()
    return (file, "") if file.is_file() else (None, f"{file} does not exist")
