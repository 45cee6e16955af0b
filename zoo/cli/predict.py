"""The command `zoo predict`. Torch is imported when it runs."""

import argparse
from collections.abc import Callable
from typing import Any

from zoo.cli.table_options import add_format_flags


def add_command(command: Callable[..., Any]) -> None:
    """The parser; `command(name, run, about, more)` makes one."""
    new = command("predict", run_predict, "Predict labels with probabilities, or write translations and transcripts.",
                  "Inputs are texts, image or audio files, folders of them, tables, or lines of standard input: "
                  'zoo predict MODEL "a text", or MODEL reviews.csv --text-column review --out labels.csv')  # fmt: skip
    new.add_argument("source", metavar="MODEL", help="a model or run folder, or a hub repository")
    new.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="texts, image files, audio files of any length, folders (searched recursively), tables (.csv .tsv .jsonl "
        ".json .parquet), or - for standard input: a text or a path in each line, or JSON lines with --text-column",
    )
    new.add_argument(
        "--pair",
        nargs=2,
        action="append",
        default=[],
        metavar="TEXT",
        help="a pair of texts, or a question and its context (repeatable)",
    )
    add_column_flags(new)
    add_output_flags(new)
    new.add_argument(
        "--batch-size", type=int, metavar="N", help="inputs that are computed at once (default: by length)"
    )
    new.add_argument(
        "--on-error",
        choices=("raise", "skip", "label"),
        default="raise",
        help="for an input that cannot be predicted: stop (default), omit it, or write the error beside it; "
        "how many and which is printed at the end",
    )
    new.add_argument(
        "--truncation",
        action=argparse.BooleanOptionalAction,
        help="truncate texts that are too long, or refuse them (default: as the model was trained)",
    )
    new.add_argument(
        "--aggregation-strategy",
        choices=("first", "simple"),
        help="how tokens become entities: by the first token of each word (default), or each token by itself",
    )
    new.add_argument("--handle-impossible-answer", action="store_true",
                     help="question answering: the answer may be empty, if the context does not have it")  # fmt: skip
    new.add_argument("--generate-kwargs", metavar="key=value", action="append", default=[],
                     help="how a model that writes texts does it (repeatable): num_beams=4, max_new_tokens=142, of "
                     "Whisper language=de")  # fmt: skip
    new.add_argument(
        "--source-prefix",
        metavar="TEXT",
        default="",
        help="what stands before each text of a model that writes texts, such as 'summarize: ' of T5",
    )
    new.add_argument("--resample", action="store_true", help="resample audio to the model's sampling rate")
    new.set_defaults(rest="inputs")


def add_column_flags(parser: argparse.ArgumentParser) -> None:
    """The columns of tables, and their format."""
    columns = parser.add_argument_group(
        "tables (default: the column of the run, or with a common name; format as found)"
    )
    one = columns.add_mutually_exclusive_group()
    one.add_argument("--column", metavar="NAME", help="inputs of any model")
    one.add_argument("--text-column", metavar="NAME", help="texts; two names for pairs: premise,hypothesis")
    one.add_argument("--image-column", metavar="NAME", help="image files, relative to the table, or their bytes")
    one.add_argument("--audio-column", metavar="NAME", help="audio files, relative to the table, or their bytes")
    add_format_flags(columns)


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """--out, --overwrite, --json and --top-k."""
    output = parser.add_argument_group("output (default: a table on the screen)")
    output.add_argument("--out", metavar="FILE", help="write the inputs with their predictions to a .csv, .tsv, .jsonl "
                        "or .parquet file; the same command resumes an interrupted run. Contacts of proteins: also a "
                        ".png file, with their contact maps")  # fmt: skip
    output.add_argument("--overwrite", action="store_true", help="replace an existing FILE, or unfinished work for it")
    output.add_argument("--json", action="store_true", help="print one JSON object a line, as soon as it is computed")
    output.add_argument(
        "--top-k",
        type=int,
        help="labels for each input (default: 5 on the screen; with --out or --json 1, "
        "or of multi-label classification those of at least 50 %%)",
    )


def run_predict(args: argparse.Namespace) -> int:
    if not args.inputs and not args.pair:
        raise ValueError(
            'give at least one image, audio file, text, folder or table: zoo predict MODEL cat.png, or MODEL "a text", '
            "or MODEL reviews.csv --text-column review"
        )
    for name, value in (("--top-k", args.top_k), ("--batch-size", args.batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value}: expected at least 1")
    if args.out and args.json:
        raise ValueError("--out and --json: choose one; a .jsonl file has the same lines as --json prints")
    if args.overwrite and not args.out:
        raise ValueError("--overwrite is for --out FILE: give both, or omit it")
    from zoo.cli.predict_run import run

    return run(args)
