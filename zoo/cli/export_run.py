"""What `zoo export` does: load the model, read the table of examples, write the folder."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from zoo.checkpoints.load import load
from zoo.checkpoints.save import export
from zoo.cli.run_tables import column_of_run, notice_with_flags, with_flags
from zoo.cli.table_options import format_options
from zoo.data.sources.labeled_examples import read_examples
from zoo.models.base import Model
from zoo.preprocessing.modality import of_model
from zoo.utils.escape import say


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    model = load(args.source)
    examples = read_table_of(model, args) if args.table else None
    path = export(model, args.folder, args.format, quantize=args.quantize, examples=examples, tolerance=args.tolerance)
    say(f"{path} is written for {args.format}")
    return 0


def read_table_of(model: Model, args: argparse.Namespace) -> list[tuple[Any, Any]]:
    """The labeled examples of --table; of its columns, those of the run that are in it are the default."""
    flags = {of_model(model)[0].name: "--column", "label": "--label-column"}
    options = format_options(args) | {"notify": notice_with_flags(flags), "usual": partial(column_of_run, args.source)}
    columns = (args.column, args.label_column)
    return with_flags(lambda: read_examples(model, Path(args.table), *columns, **options), flags)
