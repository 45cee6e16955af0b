"""The command `zoo infill`. Torch is imported when it runs."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.cli.chat import OPTIONS


def add_command(command: Callable[..., Any]) -> None:
    """Its parser; `command(name, run, about, more)` makes one."""
    new = command(
        "infill", run_infill, "Write what stands between two texts, or a line of a file.",
        "The model must have been trained to fill in, such as by recipes/code_text.py. With --file the text before and "
        "after the line is that of the file, which is not changed.",
    )  # fmt: skip
    new.add_argument("source", metavar="FOLDER", help="a model or run folder, or a hub repository")
    new.add_argument("texts", nargs="*", metavar="PREFIX [SUFFIX]", help=f"the text on both sides; then {OPTIONS}")
    new.add_argument("--file", type=Path, metavar="FILE", help="a file, instead of PREFIX and SUFFIX")
    new.add_argument("--line", type=int, metavar="N", help="number of the line to write, from 1; it may be empty")
    new.set_defaults(rest="texts")


def run_infill(args: argparse.Namespace) -> int:
    from zoo.cli.infill_run import infill_command

    return infill_command(args)
