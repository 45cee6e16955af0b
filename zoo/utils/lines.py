"""Lines of text files: they end at LF or CR LF, and nowhere else."""

from collections.abc import Sequence
from pathlib import Path


def split_lines(text: str) -> list[str]:
    """The lines of a text without their ends.

    str.splitlines also cuts at U+2028, U+0085, form feeds and more, which tokens, pairs of merges, JSON strings and
    sentences may contain.
    """
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 file without their ends. A byte order mark at its start is not part of the first line.

    Path.read_text would translate a single CR to LF. Raises OSError, and UnicodeDecodeError for another encoding.
    """
    return split_lines(Path(path).read_bytes().decode("utf-8-sig"))


def around_line(lines: Sequence[str], number: int) -> tuple[str, str]:
    """(text before a line, text after it), with the line feeds next to it; number: of the line, from 0."""
    return "".join(f"{one}\n" for one in lines[:number]), "".join(f"\n{one}" for one in lines[number + 1 :])
