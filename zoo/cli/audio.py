"""The command `zoo timeline`. Torch is imported when it runs."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli.models import load_model
from zoo.utils.console import make_table, stdout_console
from zoo.utils.errors import check_choice
from zoo.utils.escape import printable, say

if TYPE_CHECKING:
    from zoo.models.base import Model

Command = Callable[..., Any]


def add_commands(command: Command) -> None:
    """The parsers; `command(name, run, about, more)` makes one."""
    new = command("timeline", run_timeline, "Labels of a long recording over time, and their mean.",
                  "zoo timeline FOLDER meeting.wav --out meeting.csv")  # fmt: skip
    new.add_argument("source", metavar="MODEL", help="a model or run folder, or a hub repository")
    new.add_argument("file", metavar="FILE", help="an audio file of any length")
    new.add_argument("--out", metavar="FILE", help="a table (.csv, .json) or a plot (.png) to write")
    new.add_argument("--top-k", type=int, default=1, help="labels of each window (1)")
    add_resample(new)


def add_resample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resample", action="store_true", help="resample audio to the model's sampling rate")


def load_audio_model(args: argparse.Namespace) -> "Model":
    model = load_model(args.source)
    if args.resample and hasattr(model.preprocess, "resample"):
        model.preprocess = replace(model.preprocess, resample=True)
    return model


def run_timeline(args: argparse.Namespace) -> int:
    suffix = Path(args.out).suffix.lower() if args.out else ".csv"
    check_choice("the suffix of --out", suffix, (".csv", ".json", ".png"))
    from zoo.inference.timeline import timeline
    from zoo.interpret.plot_timeline import plot_timeline

    found = timeline(load_audio_model(args), args.file, args.top_k)
    if not args.out:
        table = make_table("start", "end", "label", found.unit)
        for row in found.rows:
            table.add_row(f"{row.start:.2f}", f"{row.end:.2f}", printable(row.label), f"{row.probability:.4g}")
        stdout_console().print(table)
    elif suffix == ".png":
        plot_timeline(found, args.out)
    else:
        found.save(args.out)
    mean = ", ".join(f"{label} {value:.4g}" for label, value in found.mean[:5])
    say(f"{args.out or args.file}: {len(found.spans)} windows; mean: {mean}")
    return 0
