"""Tables in CSV, TSV, JSON, JSON lines and parquet files as columns of Python values."""

# CSV and JSON are read by the standard library, not by pyarrow, which accepts an unclosed quote and text after a closed
# one, has no line numbers, makes dates of texts like "2024-05-01", and turns 1 into 1.0 beside 0.5.

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo.data.sources.fingerprint import note_files
from zoo.utils.errors import DataError
from zoo.utils.lines import split_lines

VALIDATION_NAMES = ("validation", "valid", "val", "dev")  # common names of the validation split
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_LONGEST_CELL = 1 << 30  # bytes; the csv module stops at 128 kB, which longer texts exceed


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Attributes:
        columns: Values of each column by its name; None for missing values.
        where: File, or dataset and split, for messages.
        lines: Line number of each row, for text files.
        names: Class names by column, if the file stores them.
    """

    columns: dict[str, list[Any]]
    where: str
    lines: list[int] | None = None
    names: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def take(self, rows: Sequence[int]) -> "Table":
        """The table of these rows."""
        lines = None if self.lines is None else [self.lines[i] for i in rows]
        columns = {name: [values[i] for i in rows] for name, values in self.columns.items()}
        return replace(self, columns=columns, lines=lines)

    def place(self, row: int) -> str:
        """Position of a row for messages: `reviews.csv, line 7`."""
        return f"{self.where}, row {row}" if self.lines is None else f"{self.where}, line {self.lines[row]}"


def read_table(file: Path) -> Table:
    """Read a table. Raises: DataError for a file that is missing, empty, malformed (with the line) or not a table."""
    if not file.is_file():
        raise DataError(f"{file} does not exist")
    kind = file.suffix.lower()
    if kind not in SUFFIXES:
        raise DataError(f"{file}: expected a table, one of {', '.join(SUFFIXES)}")
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty")
    if kind == ".parquet":
        table = from_arrow(read_parquet(file), str(file))
    elif kind in (".csv", ".tsv"):
        table = _read_csv(file, "," if kind == ".csv" else "\t")
    else:
        table = _read_json(file, lines=kind == ".jsonl")
    if not len(table):
        raise DataError(f"{file} has no rows")
    return table


def from_arrow(table: Any, where: str) -> Table:
    """Convert a pyarrow Table, with the class names that `datasets` stores in its metadata."""
    stored = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = stored.get("info", {}).get("features", {})
    names = {name: info["names"] for name, info in features.items() if isinstance(info, dict) and "names" in info}
    return Table({name: table.column(name).to_pylist() for name in table.column_names}, where, names=names)


def read_text(file: Path) -> str:
    """Read a UTF-8 text file. Raises: DataError naming the line of an invalid byte."""
    note_files([file])
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: byte {raw[error.start]:#x} is not valid UTF-8; save the file as UTF-8"
        ) from None


def _read_csv(file: Path, delimiter: str) -> Table:
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        rows = list(_csv_rows(file, delimiter))
    finally:
        csv.field_size_limit(before)
    if not rows:
        raise DataError(f"{file} is empty")
    header = [name.strip() for name in rows[0][1]]
    if duplicates := [name for name in header if header.count(name) > 1]:
        raise DataError(f"{file}, line 1: two columns are named {duplicates[0]!r}")
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise DataError(f"{file}, line {line}: {len(cells)} cells, but the header has {len(header)} columns "
                            f"({', '.join(header)}); put texts with {delimiter!r} in double quotes")  # fmt: skip
    columns = {name: [cells[i] for _, cells in rows[1:]] for i, name in enumerate(header)}
    return Table(columns, str(file), [line for line, _ in rows[1:]])


def _csv_rows(file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(first line, cells) of each row; empty lines are skipped."""
    reader = csv.reader(io.StringIO(read_text(file), newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file}, line {start}: {error}; double the quotes inside a quoted text") from None


def _read_json(file: Path, *, lines: bool) -> Table:
    """A table from JSON objects, one per line or in one list; missing keys become None."""
    text = read_text(file)
    rows: list[tuple[int, Any]]
    try:
        if lines:
            number = 0
            rows = []
            for number, line in enumerate(split_lines(text), 1):
                if line.strip():
                    rows.append((number, json.loads(line)))
        else:
            rows = list(enumerate(json.loads(text)))
    except (json.JSONDecodeError, TypeError) as error:
        line_number = number if lines else getattr(error, "lineno", 1)
        raise DataError(f"{file}, line {line_number}: invalid JSON ({error})") from None
    for line_number, row in rows:
        if not isinstance(row, dict):
            place = f"line {line_number}" if lines else f"entry {line_number}"
            raise DataError(f"{file}, {place}: expected a JSON object, got {type(row).__name__}")
    names = list(dict.fromkeys(key for _, row in rows for key in row))
    columns = {name: [row.get(name) for _, row in rows] for name in names}
    return Table(columns, str(file), [number for number, _ in rows] if lines else None)


def read_parquet(file: Path) -> Any:
    """Read a parquet file as a pyarrow Table. Raises DataError for a damaged file."""
    import pyarrow
    import pyarrow.parquet

    note_files([file])
    try:
        return pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} is damaged or not a parquet file: {str(error).splitlines()[0]}") from None
