"""Terminal output: consoles, tables, notices and formatted numbers."""

import os
import re
import sys
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from zoo.utils import distributed
from zoo.utils.escape import printable

if TYPE_CHECKING:
    from rich.console import Console


def announce(text: str) -> None:
    """Print a highlighted notice to stderr, once per run (on rank 0)."""
    if int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) == 0:
        make_console(file=sys.stderr, soft_wrap=True, markup=False).print(f" {text} ", style="bold black on yellow")


def console() -> "Console":
    """The console of a training run; silent on all ranks but 0."""
    return make_console(quiet=distributed.rank() != 0, soft_wrap=True)


def make_console(**options: Any) -> "Console":
    """A rich console that escapes control characters in what it prints, and leaves `:names:` of emojis as they are."""
    return _console_class()(highlight=False, emoji=False, **options)


@cache
def _console_class() -> "type[Console]":
    from rich.console import Console

    class EscapingConsole(Console):
        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(printable(text, keep="\n\t"), **options)

    return EscapingConsole


def clock_time(seconds_from_now: float) -> str:
    """The time of day in so many seconds, `14:05`; with the weekday if it is another day."""
    now = datetime.now()
    then = now + timedelta(seconds=seconds_from_now)
    return then.strftime("%H:%M" if then.date() == now.date() else "%a %H:%M")


def format_duration(seconds: float) -> str:
    """A duration as text: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


EXPONENT = re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+")  # numbers such as 1e-6, which YAML parses as strings


def format_count(number: int) -> str:
    """86567656 -> `86.6 M`."""
    value, units = float(number), ["", "k", "M", "G", "T", "P"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def format_value(value: Any) -> str:
    """A config value for tables: `-` for None, `224 x 224` for sizes."""
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return " x ".join(map(str, value)) if all(isinstance(v, int) for v in value) else ", ".join(map(str, value))
    return str(value)


def stdout_console() -> "Console":
    """The console for tables on stdout; output to a pipe is not cut at 80 columns."""
    return make_console(markup=False, width=None if sys.stdout.isatty() else 140)


def make_table(*columns: str) -> Any:
    """An empty rich table with these columns."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for i, column in enumerate(columns):
        table.add_column(column, style="bold" if i == 0 else None, no_wrap=i == 0, overflow="fold")
    return table
