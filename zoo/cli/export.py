"""The command `zoo export`. Torch is imported when it runs."""

import argparse
from collections.abc import Callable
from typing import Any

from zoo.cli.table_options import FORMAT, add_format_flags


def add_command(command: Callable[..., Any]) -> None:
    """The parser; `command(name, run, about, more)` makes one."""
    new = command("export", run_export, "Export a model for another library.")
    new.add_argument("source", metavar="SOURCE", help="a folder, or a hub repository")
    new.add_argument("folder", metavar="FOLDER", help="folder to write")
    new.add_argument(
        "--format",
        type=str.lower,
        default="transformers",
        help="transformers (default), timm, open_clip, torch_geometric or onnx",
    )
    new.add_argument("--quantize", choices=("int8",), help="onnx: int8 weights, measured on --table")
    new.add_argument("--table", metavar="TABLE", help="labeled examples: a table, or a folder of class folders")
    new.add_argument("--tolerance", type=float, help="how much worse the accuracy (or the loss) may be: 0.01")
    table = new.add_argument_group("the table (default: columns of the run, or with a common name; format as found)")
    table.add_argument("--column", default="", help="column of the texts (two for pairs: a,b) or files")
    table.add_argument("--label-column", default="", help="column of the labels (several labels: a,b)")
    add_format_flags(table)


def run_export(args: argparse.Namespace) -> int:
    if args.quantize is None and (args.table or args.tolerance is not None):
        raise ValueError(
            "--table and --tolerance are for int8 weights: add --format onnx --quantize int8, or omit them"
        )
    of_table = {name: getattr(args, name) for name in ("column", "label_column", *FORMAT)}
    if not args.table and (given := [name for name, value in of_table.items() if value not in ("", None)]):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"{flags}: these are options of --table: give the table, too, or omit them")
    if args.quantize is not None and (not args.table or args.tolerance is None):
        raise ValueError(
            "--quantize int8 changes the outputs of the model: give labeled examples to measure it on, and how much "
            "worse it may be, --table validation.csv --tolerance 0.01"
        )
    from zoo.cli.export_run import run

    return run(args)
