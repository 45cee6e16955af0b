"""What goes to the terminal: tables, notices, numbers and durations in words."""

import os
import re
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from zoo.utils import distributed

if TYPE_CHECKING:
    from rich.console import Console


def announce(text: str) -> None:
    """Say something that must not be overlooked, once for all processes of a run."""
    if int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) == 0:
        from rich.console import Console
        from rich.text import Text

        Console(file=sys.stderr, soft_wrap=True).print(Text(f" {text} ", style="bold black on yellow"))


def console() -> "Console":
    """Where a run talks; silent on every rank but 0."""
    from rich.console import Console

    return Console(highlight=False, quiet=distributed.rank() != 0, soft_wrap=True)


def clock_time(seconds_from_now: float) -> str:
    """`14:05`, with the day where it is another one."""
    now = datetime.now()
    then = now + timedelta(seconds=seconds_from_now)
    return then.strftime("%H:%M" if then.date() == now.date() else "%a %H:%M")


EXPONENT = re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+")  # 1e-6 is a number; YAML takes it for a word


def scaled(number: int) -> str:
    """86567656 -> `86.6 M`."""
    value, units = float(number), ["", "k", "M", "G", "T", "P"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def spoken(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return " x ".join(map(str, value)) if all(isinstance(v, int) for v in value) else ", ".join(map(str, value))
    return str(value)


def screen() -> "Console":
    """Where tables go; what is piped into a file is not cut at 80 columns."""
    from rich.console import Console

    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 140)


def make_table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for i, column in enumerate(columns):
        table.add_column(column, style="bold" if i == 0 else None, no_wrap=i == 0, overflow="fold")
    return table
