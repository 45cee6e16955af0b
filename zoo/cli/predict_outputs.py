"""The output of `zoo predict`: the columns of predictions, and files of rows with them."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.inference.contacts import Contact
from zoo.inference.graph_predictions import Node
from zoo.inference.point_predictions import Point, predicts_points
from zoo.inference.probabilities import Prediction
from zoo.inference.question_answering import Answer
from zoo.inference.text_generation import writes_texts
from zoo.inference.token_classification import Entity
from zoo.utils.errors import DataError, did_you_mean
from zoo.utils.files import write_atomic

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
PLOT = ".png"  # of contact maps
FIELDS = {"ctc": ("text", "probability"), "token": Entity._fields, "qa": Answer._fields,
          "contacts": Contact._fields}  # of a prediction, by head  # fmt: skip
ELEMENTS = ("nodes", "points")  # each has a row of its own in a flat table
PREFIX = "predicted_"  # of the columns of predictions, where the input has one of the same name


@dataclass(frozen=True)
class PredictionColumns:
    """The columns of a prediction.

    fields: of each of the `top_k` predictions: label ("text" for speech) and probability. values: of a regression, the
    names of its columns. prefix: before each name. errors: whether there is a column "error". listed: the one column
    that holds a list of all predictions, such as "entities"; "" for none. min_probability: of the listed ones.
    """

    top_k: int
    fields: Sequence[str] = ("label", "probability")
    values: Sequence[str] = ()
    prefix: str = ""
    errors: bool = False
    listed: str = ""
    min_probability: float = 0.0

    @property
    def row_names(self) -> list[str]:
        """Of the rows of `rows`."""
        if self.listed not in ELEMENTS:
            return self.names
        return [f"{self.prefix}{name}" for name in [*self.fields, *["error"] * self.errors]]

    def rows(self, prediction: Prediction | None, error: str | None = None) -> list[dict[str, Any]]:
        """The rows of a prediction in a flat table: of a graph or a cloud one for each node or point, else one."""
        if self.listed not in ELEMENTS:
            return [self.flat(prediction, error)]
        found = (prediction or []) if error is None else []
        cells = [list(one) for one in found] or [[None] * len(self.fields)]
        return [dict(zip(self.row_names, [*row, *[error] * self.errors], strict=True)) for row in cells]

    @property
    def names(self) -> list[str]:
        """Of one row for a prediction: label and probability, label_1, probability_1 and so on, or numbers."""
        ends = [""] if self.top_k == 1 else [f"_{i}" for i in range(1, self.top_k + 1)]
        plain = list(self.values) or [f"{name}{end}" for end in ends for name in self.fields]
        plain = [self.listed] if self.listed else plain
        return [f"{self.prefix}{name}" for name in [*plain, *["error"] * self.errors]]

    def flat(self, prediction: Prediction | None, error: str | None = None) -> dict[str, Any]:
        """A prediction as the cells of a row; None where there is none."""
        cells: list[Any] = []
        found = (prediction or []) if error is None else []
        if self.listed and prediction is not None and error is None:
            cells = [[dict(zip(self.fields, one)) for one in found if not one[-1] < self.min_probability]]
        elif not self.listed:
            cells = [cell for one in found for cell in (one[1:] if self.values else one)]
        cells = [None if isinstance(cell, float) and math.isnan(cell) else cell for cell in cells]  # nobody speaks
        cells += [None] * (len(self.names) - self.errors - len(cells)) + [error] * self.errors
        return dict(zip(self.names, cells, strict=True))

    def nested(self, prediction: Prediction | None, error: str | None = None) -> dict[str, Any]:
        """A prediction as keys of a JSON object; several labels are a list."""
        found = self.flat(prediction, error)
        if self.values or self.listed or self.top_k == 1:
            return found
        several = [dict(zip(self.fields, one)) for one in prediction or ()] if error is None else []
        key = f"{self.prefix}error"
        return {f"{self.prefix}predictions": several} | ({key: found[key]} if self.errors else {})


def columns_for(model: Any, top_k: int, given: Sequence[str], errors: bool, listed: bool = False) -> PredictionColumns:
    """The columns of a model's predictions beside the columns `given` of the input.

    listed: one column "labels" of all labels whose probability is at least 0.5, of multi-label classification.
    """
    head = model.config.head
    values: list[str] = []
    if head == "classify" and model.config.resolved_problem_type == "regression":
        values = list(model.labels or [str(i) for i in range(model.config.num_classes)])
        values = ["number"] if len(values) == 1 else values
    elif head == "classify":
        top_k = min(top_k, model.config.num_classes)
    fields = FIELDS.get(head, ("label", "probability"))
    of_nodes = head == "token" and "graph_sizes" in model.inputs
    elements = "nodes" if of_nodes else "points" if predicts_points(model) else "entities"
    fields = {"nodes": Node._fields, "points": Point._fields}.get(elements, fields)
    if writes_texts(model):
        top_k, fields = 1, FIELDS["ctc"] if "input_features" in model.inputs else ("generated_text", "probability")
    for prefix in ("", PREFIX):
        name = elements if head == "token" else "labels" if listed else ""
        columns = PredictionColumns(top_k, fields, values, prefix, errors, name, 0.5 if listed else 0.0)
        new = {*columns.row_names, *columns.nested(None)}
        if not new & set(given):
            return columns
    raise DataError(f"the input has columns named {', '.join(sorted(new & set(given)))}: rename them")


def joined(values: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
    """The columns of an input and of its prediction. Raises DataError for a name that both have."""
    if taken := values.keys() & prediction.keys():
        raise DataError(f"the input has the key {min(taken)!r}, which the prediction has, too: rename it")
    return values | prediction


def json_line(row: dict[str, Any]) -> str:
    """A row as a line of JSON; values that JSON does not have are written as text."""
    text = json.dumps(row, ensure_ascii=False, default=str)
    return text if _is_utf8(text) else json.dumps(row, default=str)


def check_out(out: Path, files: Sequence[Path], overwrite: bool) -> None:
    """Raise ValueError unless the predictions can be written to `out`; files: those of the input."""
    if out.suffix.lower() not in (*SUFFIXES, PLOT):
        near = did_you_mean(out.suffix, SUFFIXES)
        raise ValueError(f"--out {out}: expected a file that ends with {', '.join(SUFFIXES)}{near}, or {PLOT} for "
                         f"contacts of proteins")  # fmt: skip
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder: expected the name of a file to write")
    if out.exists() and any(file.exists() and file.samefile(out) for file in files):
        raise ValueError(f"--out {out} is an input: give another name")
    if out.exists() and not overwrite:
        raise ValueError(f"--out {out} exists: replace it with --overwrite, or give another name")


def write_table(out: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Write rows in one piece; returns the columns that were left out, because they hold bytes."""
    writers: dict[str, Callable[[Path], object]] = {
        ".csv": lambda part: _write_csv(part, kept, rows, ","),
        ".tsv": lambda part: _write_csv(part, kept, rows, "\t"),
        ".jsonl": lambda part: part.write_text(
            "".join(json_line(_kept(row, left_out)) + "\n" for row in rows), "utf-8"
        ),
        ".parquet": lambda part: _write_parquet(part, kept, rows),
    }
    kind = out.suffix.lower()
    left_out = (
        [] if kind == ".parquet" else [name for name in columns if any(_has_bytes(row.get(name)) for row in rows)]
    )
    kept = [name for name in columns if name not in left_out]
    write_atomic(out, writers[kind])
    return left_out


def _kept(row: dict[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in left_out}


def _write_csv(part: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]], delimiter: str) -> None:
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow([_cell(name) for name in columns])
        writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)


def _cell(value: Any) -> Any:
    """A value as a cell of a CSV file; lists and dicts as JSON."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return _utf8(value) if isinstance(value, str) else value


def _write_parquet(part: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays: dict[str, Any] = {}
    for name in columns:
        values = [_utf8(value) if isinstance(value := row.get(name), str) else value for row in rows]
        try:
            arrays[name] = pa.array(values)
        except pa.ArrowException as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"the column {name!r} has values of several types ({reason}): write .csv or .jsonl"
            ) from None
    pq.write_table(pa.table(arrays), part)


def _has_bytes(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, dict) and any(isinstance(v, bytes) for v in value.values()))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _utf8(text: str) -> str:
    """Text with escapes for halves of surrogate pairs, as names of files that are not UTF-8 have them."""
    return text if _is_utf8(text) else text.encode("utf-8", "backslashreplace").decode()
