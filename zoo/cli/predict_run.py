"""What `zoo predict` does: load the model, read the inputs, predict window by window, print or write.

With --out, finished windows stand in a journal beside the file: a run that is killed and started again writes the same
bytes as an uninterrupted one.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from zoo.checkpoints.load import load
from zoo.cli.predict_inputs import Inputs, Reader, Row
from zoo.cli.predict_maps import check_plot, plot_maps
from zoo.cli.predict_outputs import PLOT, PredictionColumns, check_out, columns_for, joined, json_line, write_table
from zoo.cli.settings import options_of
from zoo.cli.table_options import format_options
from zoo.data.text import parallel, summaries
from zoo.inference.point_predictions import predicts_points
from zoo.inference.predict import check_model
from zoo.inference.predictor import Predictor, Window
from zoo.inference.probabilities import Prediction
from zoo.inference.text_generation import writes_texts
from zoo.models.base import Model
from zoo.preprocessing.modality import MODALITIES, Modality, of_model
from zoo.retrieval.encode import fingerprint
from zoo.utils.console import make_table, stdout_console
from zoo.utils.escape import printable, say
from zoo.utils.journal import Journal, journal_folder
from zoo.utils.progress import progress

SHORT = 60  # characters of a text that the table on the screen shows


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if args.out:
        check_out(Path(args.out), [], args.overwrite)
    model = load(args.source)
    problem = model.config.resolved_problem_type if model.config.head == "classify" else None
    if args.top_k and (model.config.head == "token" or problem == "regression" or writes_texts(model)):
        elements = "nodes of a graph" if "graph_sizes" in model.inputs else "entities of a text"
        elements = "points of a cloud" if predicts_points(model) else elements
        what = f"the model finds all {elements}" if problem is None else "the model predicts numbers"
        what = "the model writes one text for each input" if writes_texts(model) else what
        raise ValueError(f"--top-k is for labels, and {what}: omit it")
    listed = problem == "multi_label_classification" and bool(args.out or args.json) and not args.top_k
    top_k = args.top_k or (model.config.num_classes if listed else 1 if args.out or args.json else 5)
    check_model(model, top_k)
    plot = Path(args.out) if args.out and Path(args.out).suffix.lower() == PLOT else None
    if plot is not None:
        check_plot(model, args)
    modality = _modality(model, args)
    generate_kwargs = options_of(args.generate_kwargs)
    if args.source_prefix:
        generate_kwargs["source_prefix"] = args.source_prefix
    predictor = Predictor(
        model, top_k, batch_size=args.batch_size, on_error=args.on_error, truncation=args.truncation,
        aggregation_strategy=args.aggregation_strategy, handle_impossible_answer=args.handle_impossible_answer,
        generate_kwargs=generate_kwargs,
    )  # fmt: skip
    column = args.column or getattr(args, f"{modality.name}_column", None) or ""
    common = (*summaries.SOURCE_NAMES, *parallel.SOURCE_NAMES) if writes_texts(model) else ()
    reader = Reader(modality, args.source, column_flag(modality, args), column, common, format_options(args))
    inputs = reader.read(args.inputs, [tuple(pair) for pair in args.pair])
    columns = columns_for(model, top_k, inputs.columns, args.on_error == "label", listed)
    if columns.prefix and (args.out or args.json):
        say(f"the input has a column of that name: predictions are in {columns.names[0]} and so on", file=sys.stderr)
    work = Work(predictor, inputs, columns)
    if plot is not None:
        check_out(plot, inputs.files, args.overwrite)
        plot_maps(model, inputs.rows, plot)
    elif args.out:
        work.write(Path(args.out), _plan(model, args, top_k), args.overwrite)
    elif args.json:
        work.print_json()
    else:
        work.print_table()
    return 0


def _modality(model: Model, args: argparse.Namespace) -> Modality:
    """The modality of the model's inputs, which the options must fit. Sets the resampling of audio."""
    modality = of_model(model)[0]
    if args.resample:
        if "resample" not in modality.options:
            raise ValueError(f"--resample is for audio, and the model takes {', '.join(model.inputs)}")
        model.preprocess = replace(model.preprocess, resample=True)
    if args.pair and modality.name != "text":
        raise ValueError(f"--pair is two texts, and the model takes {', '.join(model.inputs)}")
    for name in MODALITIES:
        if getattr(args, f"{name}_column", None) and name != modality.name:
            raise ValueError(f"--{name}-column: the model takes {modality.plural}, use {column_flag(modality, args)}")
    return modality


def column_flag(modality: Modality, args: argparse.Namespace) -> str:
    """The flag of the column of inputs: its own, if the modality has one."""
    return f"--{modality.name}-column" if hasattr(args, f"{modality.name}_column") else "--column"


def _plan(model: Model, args: argparse.Namespace, top_k: int) -> dict[str, Any]:
    """What the predictions depend on beside the inputs."""
    names = hashlib.blake2b(json.dumps(model.labels).encode(), digest_size=16).hexdigest()
    return {
        "model": fingerprint(model), "labels": names, "--top-k": top_k, "--batch-size": args.batch_size,
        "--on-error": args.on_error, "--truncation": args.truncation,
        "--aggregation-strategy": args.aggregation_strategy,
        "--handle-impossible-answer": args.handle_impossible_answer, "--resample": args.resample,
        "--generate-kwargs": " ".join(sorted(args.generate_kwargs)) or None,
        "--source-prefix": args.source_prefix or None,
    }  # fmt: skip


# Options that the error of an input names as the way out: no input that is finished under --on-error raise needs them.
WAYS_OUT = {"--on-error": ("skip", "label"), "--truncation": (True,), "--resample": (True,)}


class PredictionJournal(Journal):
    """The finished windows of a run: {number of the window: (digest of its inputs, predictions)}."""

    def __init__(self, path: Path, plan: dict[str, Any]) -> None:
        super().__init__(path, plan)
        self.windows: dict[int, tuple[str, Window]] = {}

    def changed(self, former: Any) -> list[str]:
        """As for any journal, but for the ways out of an error."""
        stopped = isinstance(former, dict) and former.get("--on-error") == "raise"
        ways_out = [name for name, values in WAYS_OUT.items() if stopped and self.plan.get(name) in values]
        return [name for name in super().changed(former) if name not in ways_out]

    @property
    def inputs(self) -> int:
        """Number of inputs of the finished windows."""
        return sum(len(window.predictions) for _, window in self.windows.values())

    def reset(self) -> None:
        """Start without finished windows."""
        self.windows = {}

    def restore(self, entries: list[Any]) -> bool:
        """Take over the windows of these lines; a later line replaces an earlier one."""
        for entry in entries:
            failures, truncated = ({int(i): v for i, v in entry[name].items()} for name in ("failures", "truncated"))
            unfinished = {int(i): v for i, v in entry.get("unfinished", {}).items()}
            predictions = [None if p is None else [tuple(pair) for pair in p] for p in entry["predictions"]]
            self.windows[entry["window"]] = entry["digest"], Window(predictions, failures, truncated, unfinished)
        return True

    def keep(self, number: int, digest: str, window: Window) -> None:
        """Write a finished window."""
        self.windows[number] = digest, window
        self.note_done({"window": number, "digest": digest} | asdict(window))
        self.write()


@dataclass
class Work:
    """The predictions for all inputs, window by window."""

    predictor: Predictor
    inputs: Inputs
    columns: PredictionColumns

    def windows(
        self, journal: PredictionJournal | None = None, overwrite: bool = False
    ) -> Iterator[tuple[list[Row], Window]]:
        """The rows of each window with their predictions; finished ones come from the journal."""
        source, report, number = iter(self.inputs.rows), self.predictor.report(), 0
        resumed = 0 if journal is None else journal.inputs
        with progress("predicting", self.inputs.total, resumed) as advance:
            while rows := list(islice(source, self.predictor.window_size)):
                names, found = [row.name for row in rows], self._finished(rows, number, journal, overwrite)
                if found is None:
                    found = self._predict(rows, report.inputs, names, kept=journal is not None)
                    advance(len(rows))
                    if journal is not None:
                        journal.keep(number, digest_of(rows), found)
                report.add(found, names)
                yield rows, found
                number += 1
        if not report.inputs:
            raise ValueError("there is nothing to predict: the input is empty")
        if report.inputs == report.failed and self.predictor.on_error == "skip":
            raise ValueError(f"none of {report.inputs} inputs can be predicted; the first: {report.failures[0]}")
        for message in report.messages():
            say(message, file=sys.stderr)

    def _predict(self, rows: list[Row], first: int, names: list[str], kept: bool) -> Window:
        try:
            return self.predictor.window([row.item for row in rows], first, names)
        except ValueError as error:
            if self.predictor.on_error != "raise" or len(rows) + first == 1:
                raise
            resume = "; finished work is kept, the same command resumes there" if kept else ""
            raise type(error)(
                f"{error}. Fix or remove it, omit such inputs with --on-error skip, or write their errors beside them "
                f"with --on-error label{resume}"
            ) from error

    def _finished(
        self, rows: list[Row], number: int, journal: PredictionJournal | None, overwrite: bool
    ) -> Window | None:
        if journal is None or number not in journal.windows:
            return None
        digest, window = journal.windows[number]
        if digest == digest_of(rows):
            return window
        if overwrite:
            return None
        raise ValueError(
            f"the inputs from {rows[0].name} have changed since the unfinished run, whose work is kept in "
            f"{journal.path}: start again with --overwrite, or give another --out"
        )

    def write(self, out: Path, plan: dict[str, Any], overwrite: bool) -> None:
        """Write a file; resumes what an interrupted run left."""
        check_out(out, self.inputs.files, overwrite)
        journal = PredictionJournal(journal_folder(out), plan)
        former = journal.former_plan()
        if former is not None and (changed := journal.changed(former)) and not overwrite:
            raise ValueError(
                f"there is unfinished work for {out} with another value of {', '.join(changed)}: give the same command "
                "to resume it, --overwrite to start again, or another --out"
            )
        written: list[dict[str, Any]] = []
        nested = out.suffix.lower() == ".jsonl"
        with journal.held():
            try:
                for rows, window in self.windows(journal, overwrite):
                    written += self._kept(rows, window, nested)
            except BaseException as error:
                if not journal.windows:
                    journal.remove()  # there is nothing to resume
                elif isinstance(error, KeyboardInterrupt):
                    say(f"interrupted after {journal.inputs:,} inputs: the same command resumes there", file=sys.stderr)
                raise
            new = list(self.columns.nested(None) if nested else self.columns.row_names)
            before = [name for row in written for name in row if name not in new]  # JSON lines may differ in theirs
            left_out = write_table(out, [*dict.fromkeys([*self.inputs.columns, *before]), *new], written)
            journal.remove()
        say(f"{out}: {len(written):,} rows with {', '.join(new)}")
        if left_out:
            say(f"left out, since {out.suffix} holds no bytes: {', '.join(left_out)}", file=sys.stderr)

    def print_json(self) -> None:
        """Print a JSON object for each input, as soon as its window is computed."""
        for rows, window in self.windows():
            for row in self._kept(rows, window, nested=True):
                sys.stdout.write(json_line(row) + "\n")
            sys.stdout.flush()

    def _kept(self, rows: list[Row], window: Window, nested: bool) -> Iterator[dict[str, Any]]:
        """The columns of rows and predictions, without rows that were skipped."""
        for i, (row, prediction) in enumerate(zip(rows, window.predictions, strict=True)):
            if prediction is not None:
                error = window.failures.get(i)
                made = [self.columns.nested(prediction, error)] if nested else self.columns.rows(prediction, error)
                yield from (joined(row.values, each) for each in made)

    def print_table(self) -> None:
        """Print a table for the screen."""
        number = bool(self.columns.values)
        names = [name for name in self.columns.fields if name not in ("start", "end", "probability")]
        table = make_table("", *names, "number" if number else "probability")
        table.columns[-1].justify = "right"
        none: Prediction = [dict.fromkeys(self.columns.fields, "")]  # of a text without entities
        for rows, window in self.windows():
            for row, prediction in zip(rows, window.predictions, strict=True):
                found = [dict(zip(self.columns.fields, one)) for one in prediction or ()]
                for i, cells in enumerate(found or (none if prediction is not None else [])):
                    value = cells["probability"]
                    unknown = value == "" or math.isnan(value)
                    amount = "" if unknown else f"{value:,.6g}" if number else f"{value:.1%}"
                    table.add_row("" if i else printable(shown(row)), *(printable(cells[n]) for n in names), amount)
        stdout_console().print(table)


def shown(row: Row) -> str:
    """A row in the table on the screen: its file, or its text, shortened."""
    if "file" in row.values:
        file = str(row.values["file"])
        return row.name if row.name.startswith(file) else file  # with the name of its record, of a file of several
    if not isinstance(row.item, str | tuple):
        return row.name
    text = row.item if isinstance(row.item, str) else " | ".join(row.item)
    return text if len(text) <= SHORT else f"{text[:SHORT]} ..."


def digest_of(rows: list[Row]) -> str:
    """32 hexadecimal digits that change with the rows and with the files that they name."""
    text = repr([(row.values, row.name, row.stamp) for row in rows])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
