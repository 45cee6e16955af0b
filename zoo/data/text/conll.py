"""Files in the CoNLL format: a word in each line with its tag in the last column, a blank line between sentences."""

import re
from pathlib import Path

from zoo.data.sources.tables import Table, read_table, read_text, table_suffix
from zoo.utils.console import announce
from zoo.utils.errors import DataError
from zoo.utils.lines import split_lines

SUFFIXES = (".conll", ".conll2003", ".txt", ".tsv", ".iob", ".iob1", ".iob2", ".bio", ".bioes", "")
TABLES = (".jsonl", ".json", ".parquet")
DOCUMENT = "-DOCSTART-"  # begins a document in the files of CoNLL-2003


def read_tagged(file: Path, *, encoding: str = "auto", **table_format: object) -> Table:
    """Read sentences and their tags, one sentence a row: a CoNLL file, or a table in JSON, JSON lines or parquet.

    A CoNLL file gives the columns `tokens` and `tags`. Raises: DataError, with the line.
    """
    kind = table_suffix(file).removesuffix(".gz")
    if kind == ".csv":
        raise DataError(f"{file}: a CSV file has no lists of words and tags: expected a CoNLL file (a word and its tag "
                        f"in each line, separated by a blank or a tab), or a table in {', '.join(TABLES)}")  # fmt: skip
    if any(value != "auto" for value in table_format.values()):
        raise DataError(f"{file}: header= and sep= are for CSV files; the columns of a CoNLL file are separated by "
                        f"blanks or tabs, and have no header: omit them")  # fmt: skip
    if kind in TABLES:
        return read_table(file, encoding=encoding)
    if not file.is_file():
        raise DataError(f"{file} is a folder, expected a file" if file.is_dir() else f"{file} does not exist")
    return read_conll(read_text(file, encoding=encoding), str(file))


def read_conll(text: str, where: str) -> Table:
    """The sentences of the text of a CoNLL file, with the columns `tokens` and `tags`.

    Columns are separated by tabs if the first line has one, else by blanks. Lines that begin a document and comments
    (which begin with # and have another number of columns) are left out, with a message that counts them.
    """
    lines = [line.rstrip("\r") for line in split_lines(text)]
    first = next((line for line in lines if line.strip() and not line.startswith((DOCUMENT, "#"))), "")
    tabs = "\t" in first
    width = len(_cells(first, tabs))
    if width < 2:
        raise DataError(f"{where}: expected a word and its tag in each line, separated by a blank or a tab, got "
                        f"{first.strip()!r:.60}" if first else f"{where} has no sentences")  # fmt: skip
    words: list[list[str]] = []
    tags: list[list[str]] = []
    starts: list[int] = []
    comments, inside = 0, False
    for number, line in enumerate(lines, 1):
        cells = _cells(line, tabs)
        if not line.strip() or cells[0] == DOCUMENT:
            inside = False
            continue
        if len(cells) != width and line.startswith("#"):
            comments += 1
            continue
        if len(cells) != width or not (cells[0].strip() and cells[-1].strip()):
            raise DataError(f"{where}, line {number}: {len(cells)} columns, expected {width} as in the first sentence, "
                            f"with a word in the first and its tag in the last: {line!r:.60}")  # fmt: skip
        if not inside:
            words.append([])
            tags.append([])
            starts.append(number)
        inside = True
        words[-1].append(cells[0])
        tags[-1].append(cells[-1].strip())
    separator = "tabs" if tabs else "blanks"
    more = f"; {comments} lines of comments are left out" if comments else ""
    announce(f"{Path(where).name}: {len(words):,} sentences from {width} columns separated by {separator}, words from "
             f"the first, tags from the last{more}")  # fmt: skip
    return Table({"tokens": words, "tags": tags}, where, starts)


def _cells(line: str, tabs: bool) -> list[str]:
    return line.split("\t") if tabs else re.split(r"[ \t]+", line.strip(" \t"))
