"""How a CSV file is written: its separator, its quotes, and whether its first row is a header.

`csv.Sniffer` is not used: it takes frequent letters for separators, and texts for headers.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
_NO_SEPARATOR = "\x1f"  # of a file with a single column
_SAMPLE_ROWS, _SAMPLE = 500, 1 << 20  # rows and characters that the choice looks at
_NUMBER = re.compile(r"\s*[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?\s*%?\s*")
_FILE = re.compile(r".*\.(wav|flac|mp3|ogg|opus|m4a|png|jpe?g|webp|gif|bmp|tiff?)", re.I)
_EXCEL = re.compile(r'"?sep=(.)"?\r?\n', re.I)

HEADER_NAMES = {
    "text", "sentence", "sentence1", "sentence2", "review", "content", "body", "comment", "tweet", "document",
    "title", "question", "answer", "premise", "hypothesis", "caption", "captions", "transcription", "transcript",
    "label", "labels", "target", "class", "category", "sentiment", "stars", "rating", "score", "file", "file_name",
    "filename", "path", "file_path", "filepath", "image", "img", "audio", "wav", "id", "idx", "index", "name",
    "speaker", "group", "date", "url",
}  # fmt: skip
"""Names of columns that mark a header."""


@dataclass(frozen=True)
class CsvFormat:
    """How a CSV file is written.

    Attributes:
        sep: The separator of its cells.
        quote: The character around cells with separators or line breaks; None if quotes are letters like others.
        escape: The character before a quote inside of a quoted cell; None if such quotes are doubled.
        first: Number of lines before the table: 1 for the line `sep=;` of Excel.
    """

    sep: str
    quote: str | None = '"'
    escape: str | None = None
    first: int = 0

    @property
    def one_column(self) -> bool:
        """Whether the file has a single column, and no separator."""
        return self.sep == _NO_SEPARATOR

    def rows(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """(first line, cells) of each row; blank lines are skipped. Raises: csv.Error with the line in `line`."""
        stream = io.StringIO(text, newline="")
        for _ in range(self.first):
            stream.readline()
        reader = csv.reader(stream, delimiter=self.sep, quotechar=self.quote, escapechar=self.escape,
                            doublequote=self.escape is None, strict=True,
                            quoting=csv.QUOTE_NONE if self.quote is None else csv.QUOTE_MINIMAL)  # fmt: skip
        start = 1
        try:
            for cells in reader:
                if len(cells) > 1 or (cells and cells[0].strip()):
                    yield start + self.first, cells
                start = reader.line_num + 1
        except csv.Error as error:
            raise CsvLineError(str(error), start + self.first) from None


class CsvLineError(csv.Error):
    """A row that cannot be read; `line` is where it starts."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def find_format(text: str, preferred: str, sep: str = "auto") -> CsvFormat:
    """How a file is written: with the separator by which all rows have the same number of cells.

    Args:
        text: The text of the file.
        preferred: The separator that its suffix stands for, which is chosen if several fit.
        sep: The separator, if it is known.
    """
    excel = _EXCEL.match(text)
    seps = [preferred, *(c for c in SEPARATORS.values() if c != preferred)]
    if sep != "auto":
        seps = [sep]
    elif excel:
        seps = [excel[1]]
    base = CsvFormat(preferred, first=1 if excel else 0)
    lines = text[:_SAMPLE].splitlines()
    opening = next((line for line in lines[base.first :] if line.strip()), "").strip()
    styles = [replace(base, quote="'")] if len(opening) > 2 and opening[0] == opening[-1] == "'" else []
    styles += [base, *([replace(base, escape="\\")] if '\\"' in text[:_SAMPLE] else [])]
    tabs = _Sample.of(text, replace(base, sep="\t", quote=None)) if "\t" in seps else None
    samples = {}
    for style in styles:
        samples[style] = [_Sample.of(text, replace(style, sep=sep)) for sep in seps]
        if fitting := [s for s in samples[style] if s.fits and (style.quote == '"' or s.all_quoted)]:
            if preferred == "\t" and tabs and tabs.fits and all(s.fmt.sep != "\t" for s in fitting):
                return tabs.fmt
            # max() keeps the first of equals, which is the preferred one
            return max(fitting, key=lambda s: s.typed).fmt
    plain = samples[base]
    if tabs and tabs.fits:
        return tabs.fmt
    if len(seps) == 1:
        return plain[0].fmt
    if several := [s for s in plain if s.width > 1] or [s for s in plain if s.below_fits]:
        return max(several, key=lambda s: s.share).fmt
    return replace(base, sep=_NO_SEPARATOR)


def read_rows(text: str, fmt: CsvFormat) -> tuple[CsvFormat, list[tuple[int, list[str]]]]:
    """(format, rows) of a file. Quotes are letters if cells are separated by tabs and its lines say so.

    Most programs that write tables separated by tabs know no quotes (Tatoeba, OPUS, GLUE). Where two lines begin and
    end a text with a quote, reading quotes would make one cell of all that is between them, without an error.

    Raises: CsvLineError.
    """
    plain = replace(fmt, quote=None, escape=None)
    if fmt.sep != "\t" or fmt.quote is None or fmt.quote not in text:
        return fmt, list(fmt.rows(text))
    unquoted = list(plain.rows(text))
    width = len(unquoted[0][1]) if unquoted else 0
    one_per_line = width > 1 and all(len(cells) == width for _, cells in unquoted)
    try:
        rows = list(fmt.rows(text))
    except CsvLineError:
        if one_per_line:
            return plain, unquoted
        raise
    return (plain, unquoted) if one_per_line and len(unquoted) != len(rows) else (fmt, rows)


@dataclass(frozen=True)
class _Sample:
    """The first rows of a file as a format reads them.

    Attributes:
        rows: The rows.
        complete: Whether the format could read them all.
    """

    fmt: CsvFormat
    rows: list[list[str]]
    complete: bool

    @classmethod
    def of(cls, text: str, fmt: CsvFormat) -> "_Sample":
        rows: list[list[str]] = []
        try:
            for _, cells in islice(fmt.rows(text[:_SAMPLE]), _SAMPLE_ROWS):
                rows.append(cells)
        except CsvLineError:
            if len(text) <= _SAMPLE or not rows:
                return cls(fmt, rows, complete=False)
        if len(text) > _SAMPLE and 1 < len(rows) < _SAMPLE_ROWS:
            rows.pop()  # cut by the end of the sample
        return cls(fmt, rows, complete=True)

    @property
    def width(self) -> int:
        return len(self.rows[0]) if self.rows else 0

    @property
    def share(self) -> float:
        """Fraction of the rows that have as many cells as the first."""
        fitting = sum(fits(row, self.rows[0]) for row in self.rows)
        return fitting / (len(self.rows) + (not self.complete))

    @property
    def fits(self) -> bool:
        return self.width > 1 and self.share == 1.0

    @property
    def below_fits(self) -> bool:
        """Whether all rows but the first have the same number of cells, which is how lines above a header look."""
        widths = {len(row) for row in self.rows[1:]}
        return self.complete and len(widths) == 1 and widths != {1}

    @property
    def all_quoted(self) -> bool:
        """Whether no quote is left in the cells of the first row."""
        return not any(cell.startswith(self.fmt.quote or '"') for cell in self.rows[0])

    @property
    def typed(self) -> float:
        """Fraction of the cells that are numbers: the wrong one of two separators cuts through numbers."""
        cells = [cell for row in self.rows for cell in row if cell.strip()]
        return sum(bool(_NUMBER.fullmatch(cell)) for cell in cells) / max(1, len(cells))


def fits(row: Sequence[str], first: Sequence[str]) -> bool:
    """Whether a row has the cells of the first one; empty cells at the ends of both do not count."""
    named = len(first)
    while named and not first[named - 1].strip():
        named -= 1
    return len(row) == len(first) or (len(row) >= named and not any(cell.strip() for cell in row[named:]))


def has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns, as it does in most files.

    It does not if one of its cells is a number in a column of numbers, is repeated below it as labels are, is a file
    in a column of files, or is as long a text as those below it; unless other cells are names beyond doubt: common
    ones, or texts over numbers.
    """
    first = rows[0]
    below = [row for row in rows[1 : 1 + _SAMPLE_ROWS] if len(row) == len(first)]
    if not below:
        return True
    columns = [[row[i].strip() for row in below if i < len(row) and row[i].strip()] for i in range(len(first))]
    cells = [(cell.strip(), column) for cell, column in zip(first, columns) if cell.strip() and column]
    if any(cell.lower() in HEADER_NAMES and cell not in column for cell, column in cells):
        return True
    numeric = [(cell, _is_number(cell)) for cell, column in cells if all(map(_is_number, column))]
    if any(not number for _, number in numeric) or _consecutive([cell for cell, _ in numeric]):
        return True
    return not numeric and not any(_is_value(cell, column) for cell, column in cells)


def _is_number(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell))


def _consecutive(cells: Sequence[str]) -> bool:
    """Whether at least three names count columns or years: 0, 1, 2."""
    numbers = [int(cell) for cell in cells if cell.isdigit()]
    return len(numbers) == len(cells) > 2 and all(b - a == 1 for a, b in pairwise(numbers))


def _is_value(cell: str, column: Sequence[str]) -> bool:
    """Whether a cell is like those below it: a label that is repeated, a file, or a text of several words."""
    if cell in column:
        return True
    if _FILE.fullmatch(cell) and all(map(_FILE.fullmatch, column)):
        return True
    words = sorted(len(value.split()) for value in column)
    return len(cell.split()) >= 3 and words[0] <= len(cell.split()) <= words[-1] and words[len(words) // 2] >= 3
