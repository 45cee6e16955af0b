"""Warnings of this library as lines of a program."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.utils.escape import printable

PACKAGE = Path(__file__).resolve().parent.parent


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print warnings of this library, and of the script that runs, as "warning: ..." without a place in the code.

    A user of a command did not write that code. Warnings of other libraries keep their places.
    """
    before = warnings.formatwarning

    def plain(message: Any, category: Any, filename: str, lineno: int, line: str | None = None) -> str:
        file = Path(filename).resolve()
        own = PACKAGE in file.parents or file == Path(sys.argv[0]).resolve()
        if own and category is UserWarning:
            return f"warning: {printable(str(message))}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = before
