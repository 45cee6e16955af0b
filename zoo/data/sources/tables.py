"""Tables in CSV, TSV, JSON, JSON lines and parquet files as columns of Python values."""

# CSV and JSON are read by the standard library, not by pyarrow, which accepts an unclosed quote and text after a closed
# one, has no line numbers, makes dates of texts like "2024-05-01", and turns 1 into 1.0 beside 0.5.

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from zoo.data.sources.csv_format import SEPARATORS, CsvFormat, CsvLineError, find_format, fits, has_header, read_rows
from zoo.data.sources.fingerprint import note_files
from zoo.data.sources.text_encoding import DecodedText, decode_text
from zoo.utils.console import announce
from zoo.utils.errors import DataError
from zoo.utils.lines import split_lines

VALIDATION_NAMES = ("validation", "valid", "val", "dev")  # common names of the validation split
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".json.gz")
_TEXT_SUFFIXES = (".txt", ".tab", ".txt.gz")  # of tables that are named, but not looked for in folders
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
_LONGEST_CELL = 1 << 30  # bytes; the csv module stops at 128 kB, which longer texts exceed
_GZIP, _ZIP, _PARQUET = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"  # first bytes of files

Header = Literal["auto"] | bool


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Attributes:
        columns: Values of each column by its name; None for missing values.
        where: File, or dataset and split, for messages.
        lines: Line number of each row, for text files.
        names: Class names by column, if the file stores them.
        found_header: Whether the names of the columns are a first row that was taken for a header.
    """

    columns: dict[str, list[Any]]
    where: str
    lines: list[int] | None = None
    names: dict[str, list[str]] = field(default_factory=dict)
    found_header: bool = False

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


def table_suffix(file: str | Path) -> str:
    """The suffix of a table, e.g. `.csv` or `.csv.gz`, in lower case; empty for other files."""
    name = Path(file).name.lower()
    found = [suffix for suffix in (*SUFFIXES, *_TEXT_SUFFIXES, *_SPREADSHEETS) if name.endswith(suffix)]
    return max(found, key=len, default="")


def read_table(file: Path, *, header: Header = "auto", sep: str = "auto", encoding: str = "auto",
               notify: Callable[[str], None] = announce) -> Table:  # fmt: skip
    """Read a table: CSV, TSV, text, JSON, JSON lines or parquet; compressed by gzip or not.

    What was found in a text file is printed, unless it is what the suffix stands for, in UTF-8 with a header.

    Args:
        file: The file.
        header: Whether the first row of a CSV file names its columns. Without a header they are `column_1`,
            `column_2`, ... `auto` looks at the rows.
        sep: Separator of a CSV file, a character or one of the names `comma`, `semicolon`, `tab`, `pipe`. `auto`
            chooses the one by which all rows have the same number of cells.
        encoding: Encoding of a text file, e.g. `cp1252`. `auto` goes by the byte order mark, else it is UTF-8 if the
            file is valid UTF-8, else guessed.
        notify: Prints what was found.

    Raises: DataError for a file that is missing, empty, malformed (with the line) or not a table.
    """
    _check_is_file(file)
    kind = table_suffix(file).removesuffix(".gz")
    if kind not in (*SUFFIXES, *_TEXT_SUFFIXES):
        raise DataError(_not_a_table(file))
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty")
    is_csv = kind in (".csv", ".tsv", ".tab", ".txt")
    if not is_csv and (header, sep) != ("auto", "auto"):
        raise DataError(f"{file}: header= and sep= are for CSV files (.csv .tsv .txt), which {kind} files are not; "
                        f"omit them")  # fmt: skip
    if kind == ".parquet":
        table = from_arrow(read_parquet(file), str(file))
    elif is_csv:
        preferred = "\t" if kind in (".tsv", ".tab") else ","
        table = _read_csv(file, _decoded(file, encoding), preferred, header, SEPARATORS.get(sep, sep), notify)
    else:
        table = _read_json(file, read_text(file, encoding=encoding, notify=notify), lines=kind == ".jsonl")
    if not len(table):
        raise DataError(f"{file} has no rows")
    return table


def _check_is_file(file: Path) -> None:
    if file.is_dir():
        raise DataError(f"{file} is a folder, expected a table")
    if not file.is_file():
        raise DataError(f"{file} does not exist")


def _not_a_table(file: Path) -> str:
    if table_suffix(file) in _SPREADSHEETS:
        return f"{file} is a spreadsheet, expected a table: save it as CSV (UTF-8) in the program that it is from"
    return f"{file}: expected a table, one of {', '.join(SUFFIXES)}"


def from_arrow(table: Any, where: str) -> Table:
    """Convert a pyarrow Table, with the class names that `datasets` stores in its metadata."""
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    return Table(columns, where, names=class_names_of(table.schema))


def class_names_of(schema: Any) -> dict[str, list[str]]:
    """Class names by column that `datasets` stores in the schema of a pyarrow Table."""
    stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = stored.get("info", {}).get("features", {})
    return {name: found for name, info in features.items() if (found := _class_names(info))}


def _class_names(feature: Any) -> list[str] | None:
    """The names of a ClassLabel of `datasets`, or of a list of them, which versions of `datasets` write in two ways."""
    while isinstance(feature, list | dict) and (isinstance(feature, list) or "feature" in feature):
        feature = next(iter(feature), None) if isinstance(feature, list) else feature["feature"]
    return feature.get("names") if isinstance(feature, dict) else None


def read_text(file: Path, *, encoding: str = "auto", notify: Callable[[str], None] = announce) -> str:
    """Read a text file, as `zoo.data.sources.text_encoding` decodes it; a guessed encoding is printed.

    Raises: DataError naming the line of an invalid byte.
    """
    found = _decoded(file, encoding)
    if found.example:
        notify(f"{file.name}: read as {found.encoding}{_guess_hint(found)}")
    return found.text


def _decoded(file: Path, encoding: str) -> DecodedText:
    note_files([file])
    try:
        raw = file.read_bytes()
        raw = gzip.decompress(raw) if raw.startswith(_GZIP) else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file} is a damaged gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    for start, kind in ((_ZIP, "a zip file or a spreadsheet (.xlsx)"), (_PARQUET, "a parquet file")):
        if raw.startswith(start):
            raise DataError(f"{file} is {kind} by its content, expected text: save it as CSV (UTF-8), or give it the "
                            f"suffix of its kind")  # fmt: skip
    return decode_text(raw, str(file), encoding)


def _guess_hint(found: DecodedText) -> str:
    return f". The encoding is a guess ({found.example}): if its words are wrong, name another, e.g. encoding=cp1252"


def _read_csv(file: Path, found: DecodedText, preferred: str, header: Header, sep: str,
              notify: Callable[[str], None]) -> Table:  # fmt: skip
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        fmt = find_format(found.text, preferred, sep)
        fmt, rows = read_rows(found.text, fmt)
    except CsvLineError as error:
        raise DataError(f"{file}, line {error.line}: {error}; double the quotes inside a quoted text") from None
    finally:
        csv.field_size_limit(before)
    if not rows:
        raise DataError(f"{file} is empty")
    named = has_header([cells for _, cells in rows]) if header == "auto" else header
    columns = _csv_columns(file, rows, fmt.sep, named)
    _announce_format(file, found, fmt, named, list(columns), preferred, header, sep, notify)
    lines = [line for line, _ in rows[named:]]
    return Table(columns, str(file), lines, found_header=named and header == "auto")


def _csv_columns(file: Path, rows: list[tuple[int, list[str]]], sep: str, named: bool) -> dict[str, list[str]]:
    """The columns by their names. Columns at the end without a name and values, of separators there, are left out.

    Raises: DataError for two columns of one name, or a row with more or fewer cells.
    """
    first_line, first = rows[0]
    names = [cell.strip() if named else "" for cell in first]
    for line, cells in rows[1:]:
        if len(cells) != len(first) and not fits(cells, first):
            columns = f"{len(names)} columns ({', '.join(names)})" if named else str(len(names))
            what = f"the {'header' if named else 'first row'} has {columns}"
            raise DataError(f"{file}, line {line}: {len(cells)} cells, but {what}; put texts with {sep!r} in double "
                            f"quotes")  # fmt: skip
    width = len(names)
    even = [cells if len(cells) >= width else cells + [""] * (width - len(cells)) for _, cells in rows[named:]]
    values = [[cells[i] for cells in even] for i in range(width)]
    while len(names) > 1 and not names[-1] and not any(map(str.strip, values[len(names) - 1])):
        names.pop()
    names = [name or f"column_{i}" for i, name in enumerate(names, 1)]
    if duplicates := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{file}, line {first_line}: two columns are named {duplicates[0]!r}")
    return dict(zip(names, values))


def _announce_format(file: Path, found: DecodedText, fmt: CsvFormat, named: bool, names: list[str], preferred: str,
                     header: Header, sep: str, notify: Callable[[str], None]) -> None:  # fmt: skip
    """Print what was found in a CSV file, and how to set it where it may be wrong; nothing if all is as expected."""
    other_sep = sep == "auto" and fmt.sep != preferred and not (fmt.one_column and preferred not in found.text)
    other_quotes = (fmt.quote, fmt.escape) != ('"', None)
    no_header = header == "auto" and not named
    if found.encoding == "utf-8" and not (other_sep or other_quotes or no_header):
        return
    cells = "as one column" if fmt.one_column else f"separated by {_SEP_NAMES.get(fmt.sep, repr(fmt.sep))}"
    quotes = "" if fmt.quote == '"' else f" and quoted by {fmt.quote!r}" if fmt.quote else " alone (quotes are letters)"
    quotes += "" if fmt.escape is None else " and with quotes escaped by backslashes"
    text = f"{file.name}: read as {found.encoding}, {cells}{quotes}, with{'' if named else 'out'} a header"
    text += _guess_hint(found) if found.example else ""
    text += ". If another separator is meant, set sep=" if other_sep else ""
    if no_header:
        listed = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
        text += f". The columns are named {listed}; if the first row names them, set header=true"
    notify(text)


_SEP_NAMES = {"\t": "tabs"}


def _read_json(file: Path, text: str, *, lines: bool) -> Table:
    """A table from JSON objects, one per line or in one list; missing keys become None."""
    rows: list[tuple[int, Any]]
    try:
        if lines:
            number = 0
            rows = []
            for number, line in enumerate(split_lines(text), 1):
                if line.strip():
                    rows.append((number, json.loads(line)))
        else:
            rows = list(enumerate(_objects(file, json.loads(text))))
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


def _objects(file: Path, found: Any) -> list[Any]:
    """The list of objects that a JSON file is. Raises: DataError for anything else."""
    if isinstance(found, list):
        return found
    what = f"one object with the keys {', '.join(map(repr, list(found)[:5]))}" if isinstance(found, dict) else "a value"
    raise DataError(f"{file} is {what}, expected a list of objects, one for each row: [{{...}}, {{...}}], as "
                    f'pandas\' to_json(orient="records") writes it')  # fmt: skip


def read_parquet(file: Path) -> Any:
    """Read a parquet file as a pyarrow Table. Raises DataError for a damaged file."""
    import pyarrow
    import pyarrow.parquet

    note_files([file])
    try:
        return pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} is damaged or not a parquet file: {str(error).splitlines()[0]}") from None
