"""The progress of long work on stderr: a bar in a terminal, elsewhere a line a minute."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zoo.utils import distributed
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
def progress(
    what: str, total: int | None, done: int = 0, enabled: bool = True, delay: float = 0.0
) -> Iterator[Callable[[int], None]]:
    """Show the progress of `total` items, of which `done` are done; the function that it yields adds a count.

    what: in front of the numbers, such as "predicting". total: None if it is not known. delay: seconds after which a
    bar appears, so that it does not flicker by for short work. Within another progress, and on all ranks but 0, nothing
    is shown.
    """
    if not enabled or is_shown() or distributed.rank() != 0:
        yield lambda count: None
        return
    _shown.append(what)
    console = make_console(file=sys.stderr)
    try:
        yield from _bar(console, what, total, done, delay) if console.is_terminal else _lines(what, total, done)
    finally:
        _shown.pop()


def _bar(console: "Console", what: str, total: int | None, done: int, delay: float) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (what, MofNCompleteColumn(), BarColumn(None), TimeRemainingColumn())
    bar = Progress(*columns, console=console)
    task = bar.add_task("", total=total, completed=done)
    start = time.monotonic()

    def advance(count: int) -> None:
        bar.advance(task, count)
        if not bar.live.is_started and time.monotonic() - start >= delay:
            bar.start()

    if not delay:
        bar.start()
    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()


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
