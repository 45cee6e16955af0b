"""The command `zoo scaling`."""

import argparse
from collections.abc import Callable
from typing import Any

from zoo.utils.console import stdout_console


def add_command(command: Callable[..., Any]) -> None:
    """The parser; `command(name, run, about, more)` makes one."""
    new = command("scaling", run_scaling, "Fit scaling laws to runs of several sizes and numbers of tokens.",
                  "zoo scaling configs/sweeps/scaling_laws.yaml --budget 1e14 runs what is missing, and predicts the "
                  "largest size from the others.")  # fmt: skip
    new.add_argument("source", metavar="SOURCE", help="a sweep (.yaml), which is run or resumed; the folder of its "
                     "runs; or a table (.csv) with the columns parameters, tokens, loss")  # fmt: skip
    new.add_argument("--budget", metavar="FLOPS", type=float, action="append", default=[],
                     help="training FLOPs 6 N D to find the best size and tokens for; may be repeated")  # fmt: skip
    new.add_argument("--held-out", metavar="SIZES", help="names of the sizes to predict, separated by commas; `none` "
                     "fits all (default: those of the sweep, of a table the largest)")  # fmt: skip
    new.add_argument("--skip-failed", action="store_true", help="leave out runs that diverged or failed")
    new.add_argument("--samples", type=int, default=200, help="bootstrap samples of the runs, for intervals (200)")
    new.add_argument("--level", type=float, default=0.95, help="probability of the intervals (0.95)")
    new.add_argument("--out", metavar="FOLDER", help="folder of runs, tables and plot (runs/scaling-RECIPE; of a "
                     "folder of runs and a table: where they are)")  # fmt: skip


def run_scaling(args: argparse.Namespace) -> int:
    from zoo.training.scaling.report import scaling

    named = None if args.held_out is None else [name.strip() for name in args.held_out.split(",") if name.strip()]
    held_out = [] if named == ["none"] else named
    report = scaling(args.source, held_out=held_out, out=args.out, budgets=args.budget, skip_failed=args.skip_failed,
                     samples=args.samples, level=args.level)  # fmt: skip
    for table in report.tables():
        stdout_console().print(table)
    return 0 if report.ok else 1
