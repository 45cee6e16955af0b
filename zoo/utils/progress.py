"""The progress of long work on stderr: a bar in a terminal, elsewhere a line a minute."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zoo.utils.console import clock_time, make_console
from zoo.utils.escape import say

if TYPE_CHECKING:
    from rich.console import Console

MINUTE = 60.0  # seconds between two lines without a terminal
_shown: list[str] = []  # of the progress that is on the screen


def is_shown() -> bool:
    """Whether a progress bar is on the screen: a second one would overwrite it."""
    return bool(_shown)


@contextmanager
def progress(what: str, total: int | None, done: int = 0, enabled: bool = True) -> Iterator[Callable[[int], None]]:
    """Show the progress of `total` items, of which `done` are done; the function that it yields adds a count.

    what: in front of the numbers, such as "predicting". total: None if it is not known. Within another progress
    nothing is shown.
    """
    if not enabled or is_shown():
        yield lambda count: None
        return
    _shown.append(what)
    console = make_console(file=sys.stderr)
    try:
        yield from _bar(console, what, total, done) if console.is_terminal else _lines(what, total, done)
    finally:
        _shown.pop()


def _bar(console: "Console", what: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (what, MofNCompleteColumn(), BarColumn(None), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda count: bar.advance(task, count)


def _lines(what: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    start = last = time.monotonic()
    first, now = done, done

    def advance(count: int) -> None:
        nonlocal last, now
        now += count
        clock = time.monotonic()
        if clock - last < MINUTE:
            return
        last = clock
        rate = (now - first) / (clock - start)
        end = f", until about {clock_time((total - now) / rate)}" if total and rate else ""
        of = f" of {total:,}" if total else ""
        say(f"{what}: {now:,}{of}, {rate:,.3g} a second{end}", file=sys.stderr)

    yield advance
