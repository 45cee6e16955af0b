"""Tables of a user's own: CSV, TSV, JSON lines and parquet as columns of plain values; a broken line is named."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.utils.errors import DataError

VALIDATION_NAMES = ("validation", "valid", "val", "dev")  # of splits, as hub data sets and folders call them
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_LONGEST_CELL = 1 << 30  # bytes; the csv module stops at 128 kB, which longer texts exceed


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Attributes:
        columns: The values of each column by its name; None where a row has none.
        where: File, or data set and split.
        lines: The line that each row starts at, in a text file.
        names: Of the classes of a column, where the file knows them.
    """

    columns: dict[str, list[Any]]
    where: str
    lines: list[int] | None = None
    names: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def place(self, row: int) -> str:
        """`reviews.csv, line 7`."""
        return f"{self.where}, row {row}" if self.lines is None else f"{self.where}, line {self.lines[row]}"


def read_table(file: Path) -> Table:
    """The table in a file. Raises: DataError for a file that is missing, empty, broken (with the line) or no table."""
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
    """A pyarrow Table, with the class names that `datasets` writes beside it."""
    stored = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = stored.get("info", {}).get("features", {})
    names = {name: about["names"] for name, about in features.items() if isinstance(about, dict) and "names" in about}
    return Table({name: table.column(name).to_pylist() for name in table.column_names}, where, names=names)


def read_text(file: Path) -> str:
    """A file's UTF-8 text. Raises: DataError naming the line of a byte that is none."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: byte {raw[error.start]:#x} is no UTF-8; save the file as UTF-8"
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
    if twice := [name for name in header if header.count(name) > 1]:
        raise DataError(f"{file}, line 1: two columns are called {twice[0]!r}")
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise DataError(f"{file}, line {line}: {len(cells)} cells, the first line has {len(header)} columns "
                            f"({', '.join(header)}); put texts that hold {delimiter!r} in double quotes")  # fmt: skip
    columns = {name: [cells[i] for _, cells in rows[1:]] for i, name in enumerate(header)}
    return Table(columns, str(file), [line for line, _ in rows[1:]])


def _csv_rows(file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(first line, cells) of each row; empty lines are no rows."""
    reader = csv.reader(io.StringIO(read_text(file), newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file}, line {start}: {error}; a quote inside a quoted text is doubled") from None


def _read_json(file: Path, *, lines: bool) -> Table:
    """Objects, one on each line or in one list; keys that an object lacks are None."""
    text = read_text(file)
    rows: list[tuple[int, Any]]
    try:
        if lines:
            number = 0
            rows = []
            for number, line in enumerate(text.splitlines(), 1):
                if line.strip():
                    rows.append((number, json.loads(line)))
        else:
            rows = list(enumerate(json.loads(text)))
    except (json.JSONDecodeError, TypeError) as error:
        line_number = number if lines else getattr(error, "lineno", 1)
        raise DataError(f"{file}, line {line_number}: no valid JSON ({error})") from None
    for line_number, row in rows:
        if not isinstance(row, dict):
            place = f"line {line_number}" if lines else f"entry {line_number}"
            raise DataError(f"{file}, {place}: expected an object with named values, got {type(row).__name__}")
    names = list(dict.fromkeys(key for _, row in rows for key in row))
    columns = {name: [row.get(name) for _, row in rows] for name in names}
    return Table(columns, str(file), [number for number, _ in rows] if lines else None)


def read_parquet(file: Path) -> Any:
    """A parquet file as a pyarrow Table. Raises DataError, naming the file, when it is damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} is damaged or no parquet file: {str(error).splitlines()[0]}") from None


def image_bytes(table: Any, column: str) -> list[bytes]:
    """The encoded images of a column: plain bytes, or the {bytes, path} that `datasets` writes."""
    chunks = table.column(column).chunks
    if table.schema.field(column).type.num_fields:
        chunks = [chunk.field("bytes") for chunk in chunks]
    return [value for chunk in chunks for value in chunk.to_pylist()]
