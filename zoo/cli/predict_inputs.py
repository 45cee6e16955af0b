"""The inputs of `zoo predict`: what the words of a command line stand for, as rows of a table."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from zoo.cli.run_tables import column_of_run, notice_with_flags, with_flags
from zoo.data.sources.columns import encoded_item, find_columns, input_names
from zoo.data.sources.labeled_examples import in_table
from zoo.data.sources.tables import SUFFIXES, Table, read_table, table_suffix
from zoo.preprocessing.modality import Modality, of_file
from zoo.utils.console import announce
from zoo.utils.errors import DataError, did_you_mean
from zoo.utils.escape import say
from zoo.utils.folders import data_files, describe_files

STDIN = "standard input"


@dataclass(frozen=True)
class Row:
    """One input.

    values: the columns that it has. item: what the model takes, or the error that it gave. name: for messages. stamp:
    size and time of its file, which change with it.
    """

    values: dict[str, Any]
    item: Any
    name: str
    stamp: tuple[int, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """Rows with their columns. total: None if it is not known. files: those that were read, which none may replace."""

    rows: Iterable[Row]
    columns: list[str]
    total: int | None
    files: Sequence[Path] = ()


@dataclass(frozen=True)
class Reader:
    """Reads the inputs of a model of one modality.

    source: the model, as the user gave it. option: the flag that names the column, --text-column and the like; column:
    its value, if it was given. common: further names that the column may have. table: options of `read_table`.
    """

    modality: Modality
    source: str
    option: str = "--column"
    column: str = ""
    common: Sequence[str] = ()
    table: Mapping[str, Any] = field(default_factory=dict)

    @property
    def flags(self) -> dict[str, str]:
        """{option of a recipe: flag}."""
        return {self.modality.name: self.option}

    def read(self, words: Sequence[str], pairs: Sequence[tuple[str, str]] = ()) -> Inputs:
        """The inputs that the words of a command line name, in their order; the files of a folder are sorted.

        Raises: ValueError for a path that is missing or not an input of the model, and for inputs of two kinds.
        """
        tables = [Path(word) for word in words if self._is_table(word)]
        if "-" in words or tables:
            if len(words) > max(len(tables), 1) or pairs:
                raise ValueError(
                    "a table, or - for standard input, is predicted alone: give other inputs in another call"
                )
            return self._stdin() if "-" in words else self._tables(tables)
        if self.column or self.table:
            given = f"{words[0]!r}" if words else "--pair"
            flag = self.option if self.column else f"--{next(iter(self.table))}"
            raise ValueError(f"{flag} is for tables ({', '.join(SUFFIXES)}), given {given}")
        if words:
            self._check_pairs(False, f"{words[0]!r}: give --pair TEXT TEXT")
        if pairs:
            self._check_pairs(True, "--pair: give texts without it")
        rows = [row for word in words for row in self._of_word(word)]
        rows += [Row({"text": a, "text_pair": b}, (a, b), f"pair {i}") for i, (a, b) in enumerate(pairs)]
        columns = dict.fromkeys(name for row in rows for name in row.values)
        files = [Path(row.values["file"]) for row in rows if "file" in row.values]
        return Inputs(rows, list(columns), len(rows), files)

    def _check_pairs(self, pairs: bool, given: str) -> None:
        """Raise ValueError for pairs if the run of the model had single texts, and the other way round."""
        trained = column_of_run(self.source, self.modality.name)
        if trained and not self.modality.files_only and ("," in trained) != pairs:
            kind, columns = ("single texts", "column") if pairs else ("pairs of texts", "two columns")
            raise ValueError(f"the model was trained on {kind} (text={trained}), given {given.format(columns)}")

    # --- words --------------------------------------------------------------------------------------------------------

    def _is_table(self, word: str) -> bool:
        is_input = Path(word).suffix.lower() in self.modality.suffixes and not self.column  # a time series in CSV
        return _is_table_name(word) and os.path.isfile(word) and not is_input

    def _of_word(self, word: str) -> list[Row]:
        path = Path(word)
        if os.path.exists(word):  # unlike Path.exists, it takes a text of any length
            is_item = bool(self.modality.folder_file) and (path / self.modality.folder_file).is_file()
            is_folder = path.is_dir() and not is_item
            return self._of_folder(path) if is_folder else self._of_files([path], alone=True)
        if self.modality.files_only:
            raise ValueError(f"there is no {self.modality.file_noun} {word}")
        if len(word.split()) == 1 and (_is_table_name(word) or path.suffix.lower() in self.modality.suffixes):
            here = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            raise ValueError(f"there is no file {word}{did_you_mean(path.name, here)}")
        return [Row({"text": word}, word, repr(word) if len(word) <= 60 else f"{word[:60]!r} ...")]

    def _of_folder(self, folder: Path) -> list[Row]:
        files = data_files(folder)
        found = [file for file in files if of_file(file, [self.modality.name]) is self.modality]
        others = [file for file in files if of_file(file, [self.modality.name]) is not self.modality]
        if not found:
            # .json may be a table, and is the settings of a model in most folders.
            tables = [str(file) for file in others if _is_table_name(file.name) and file.suffix != ".json"]
            hint = f"; it has the table {tables[0]}: zoo predict MODEL {tables[0]}" if tables else ""
            if not self.modality.files_only:
                hint += (
                    f"; to predict on the {self.modality.noun} {str(folder)!r} itself, give it as a line of standard "
                    "input (-)"
                )
            raise ValueError(
                f"{folder} is a folder without {self.modality.plural} in it (files that end with "
                f"{', '.join(self.modality.suffixes)}){hint}"
            )
        if others:
            announce(f"left out, no {self.modality.plural}: {describe_files(others)}")
        return self._of_files(found)

    def _of_files(self, files: Sequence[Path], alone: bool = False) -> list[Row]:
        """A row for each file, or for each record of files that hold several."""
        rows: list[Row] = []
        for path in files:
            if self.modality.records is None or of_file(path, [self.modality.name]) is not self.modality:
                rows.append(self._of_file(path, alone))
                continue
            try:
                found = self.modality.records(path)
            except (OSError, ValueError) as error:
                rows.append(Row({"file": str(path)}, error, str(path), stamp_of(path)))
                continue
            own = [
                Row({"file": str(path), "name": name}, item, f"{path}, {name}", stamp_of(path)) for name, item in found
            ]
            rows += own
        return rows

    def _of_file(self, path: Path, alone: bool = False) -> Row:
        """A file. alone: given by its name, and not one of a folder."""
        values = {"file": str(path)}
        if self.modality.files_only:
            return Row(values, path, str(path), stamp_of(path))
        if of_file(path, [self.modality.name]) is not self.modality:
            noun, suffixes = self.modality.noun, ", ".join(self.modality.suffixes)
            raise ValueError(
                f"{path} is a file, and the model predicts from {self.modality.plural}: expected a table "
                f"({', '.join(SUFFIXES)}), a {noun} file ({suffixes}), or a {noun} that does not name a file"
            )
        try:
            text = self.modality.load(path).strip()
        except (OSError, ValueError) as error:
            return Row(values, error, str(path), stamp_of(path))
        lines = text.count("\n") + 1
        if alone and lines > 1:
            say(
                f"{path} is one text of {lines} lines; for a text in each line: zoo predict MODEL - < {path}",
                file=sys.stderr,
            )
        return Row(values, text, str(path), stamp_of(path))

    # --- tables -------------------------------------------------------------------------------------------------------

    def _tables(self, files: list[Path]) -> Inputs:
        notify = notice_with_flags(self.flags)
        tables = [with_flags(partial(read_table, file, **self.table, notify=notify), self.flags) for file in files]
        for table in tables[1:]:
            if table.columns.keys() != tables[0].columns.keys():
                raise DataError(
                    f"{tables[0].where} has the columns {', '.join(tables[0].columns)}, and {table.where} has "
                    f"{', '.join(table.columns)}: predict on tables of different columns one by one"
                )
        columns = self._columns(tables[0])
        where = files[0].name if len(files) == 1 else f"{len(files)} tables"
        say(f"{self.modality.plural} from {_named(columns)} of {where}", file=sys.stderr)
        rows = chain.from_iterable(self._of_table(table, file, columns) for table, file in zip(tables, files))
        return Inputs(rows, list(tables[0].columns), sum(map(len, tables)), files)

    def _columns(self, table: Table) -> list[str]:
        """The columns with the inputs: as given, else as of the run, else with a common name."""
        trained = column_of_run(self.source, self.modality.name)
        column = self.column or in_table(table, trained)
        name = self.modality.name
        usual = input_names(self.modality)
        found = with_flags(lambda: find_columns(table, column, name, (*self.common, *usual)), self.flags)
        if len(found) > (1 if self.modality.files_only else 2):
            more = "" if self.modality.files_only else ", or two for pairs of texts"
            raise ValueError(f"{self.option} {self.column}: expected the name of one column{more}")
        self._check_pairs(len(found) == 2, f"the {_named(found)}: name the {{}} with {self.option}")
        return found

    def _of_table(self, table: Table, file: Path, columns: list[str]) -> Iterator[Row]:
        for i in range(len(table)):
            values = {name: cells[i] for name, cells in table.columns.items()}
            yield self._of_cells(values, columns, table.place(i), file.parent)

    def _of_cells(self, values: dict[str, Any], columns: list[str], name: str, base: Path) -> Row:
        cells = [values.get(column) for column in columns]
        if self.modality.files_only:
            item, problem = encoded_item(cells[0], base)
            stamp = stamp_of(item) if isinstance(item, Path) else ()
            return Row(values, ValueError(f"{name}: {problem}") if problem else item, name, stamp)
        for column, cell in zip(columns, cells):
            if not isinstance(cell, str):
                what = "has no text" if cell is None else f"has a {type(cell).__name__} instead of a text"
                return Row(values, ValueError(f"{name} {what} in {column!r}"), name)
        return Row(values, cells[0] if len(cells) == 1 else tuple(cells), name)

    # --- standard input -----------------------------------------------------------------------------------------------

    def _stdin(self) -> Inputs:
        lines = ((f"{STDIN}, line {number}", line) for number, line in enumerate(_stdin_lines(), 1))
        if not self.column:
            return Inputs(map(self._of_line, lines), ["file" if self.modality.files_only else "text"], None)
        objects = (_json_object(name, line) for name, line in lines if isinstance(line, Exception) or line.strip())
        name, first = next(objects, ("", {}))
        columns = self._columns(Table({key: [value] for key, value in first.items()}, STDIN)) if name else []
        rows = (self._of_cells(values, columns, name, Path()) for name, values in chain([(name, first)], objects))
        return Inputs(rows if name else (), list(first), None)

    def _of_line(self, numbered: tuple[str, str | Exception]) -> Row:
        name, line = numbered
        if isinstance(line, Exception):
            return Row({}, line, name)
        if self.modality.files_only:
            if not line:
                return Row({"file": line}, ValueError(f"{name}: no file name"), name)
            return Row({"file": line}, Path(line), name, stamp_of(Path(line)))
        return Row({"text": line}, line, name)


def _is_table_name(name: str) -> bool:
    return table_suffix(name) not in ("", ".txt", ".txt.gz")  # a spreadsheet is one, which `read_table` refuses


def stamp_of(path: Path) -> tuple[int, ...]:
    """Size and time of change of a file; of none, it is reported when it is its turn."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return ()
    return stat.st_size, stat.st_mtime_ns


def _stdin_lines() -> Iterator[str | Exception]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield ValueError(f"{STDIN}, line {number}: byte {line[error.start]:#x} is not valid UTF-8")


def _json_object(name: str, line: str | Exception) -> tuple[str, dict[str, Any]]:
    try:
        found = json.loads(line) if isinstance(line, str) else line
    except json.JSONDecodeError as error:
        found = ValueError(f"{name}: invalid JSON ({error})")
    if isinstance(found, Exception):
        raise found
    if not isinstance(found, dict):
        raise ValueError(f"{name}: expected a JSON object, given {type(found).__name__}")
    return name, found


def _named(columns: Sequence[str]) -> str:
    return f"column{'s' * (len(columns) > 1)} {' and '.join(map(repr, columns))}"
