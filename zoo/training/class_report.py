"""Precision, recall and F1 score of each class on the test set, as files of a run and as a short table."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from zoo.training.run_dir import write_text
from zoo.utils.escape import printable

SHOWN = 10  # classes in the printed table
SCORES = ("precision", "recall", "f1")
COLUMN_SCORES = ("error", "r2", "labels")


@dataclass(frozen=True)
class ClassReport:
    """Scores of the classes of a test set.

    Attributes:
        names: Names of the classes.
        scores: float64 [C, 3]: precision, recall, F1 score; 0 where they are not defined.
        support: Items of each class, int64 [C].
        present: bool [C], whether an item of the class was tested or predicted.
    """

    names: Sequence[str]
    scores: Tensor
    support: Tensor
    present: Tensor

    @classmethod
    def of(cls, counts: Tensor, names: Sequence[str]) -> "ClassReport":
        """The report of the counts [C, 5] that a task keeps of its test; see `Objective.metrics`."""
        true, wrong, _, missed, support = counts.double().unbind(1)
        scores = torch.stack([true / (true + wrong), true / support, 2 * true / (2 * true + wrong + missed)], 1)
        return cls(names, scores.nan_to_num(0.0), counts[:, 4], true + wrong + missed > 0)

    def means(self) -> dict[str, dict[str, float]]:
        """`macro`: the mean over the classes that were tested or predicted; `weighted`: by the items of each class."""
        weights = {"macro": self.present.double(), "weighted": self.support.double()}
        means = {name: (w @ self.scores / w.sum().clamp(min=1)).tolist() for name, w in weights.items()}
        return {name: {score: round(x, 6) for score, x in zip(SCORES, row)} for name, row in means.items()}

    def rows(self) -> list[list[Any]]:
        """[name, precision, recall, F1, support] of each class."""
        scores = self.scores.tolist()
        return [[name, *row, count] for name, row, count in zip(self.names, scores, self.support.tolist(), strict=True)]

    def print(self, out: Console) -> None:
        """Print the classes and the means; of many classes, the worst ones by their F1 score."""
        rows, title = [row for row, present in zip(self.rows(), self.present.tolist()) if present], "by class"
        if len(rows) > SHOWN:
            title = f"the {SHOWN} worst of {len(rows):,} classes"
            rows = sorted(rows, key=lambda row: row[3])[:SHOWN]
        rows += [[name, *means.values(), int(self.support.sum())] for name, means in self.means().items()]
        names = [printable(row[0] if len(row[0]) <= 32 else f"{row[0][:31]}…") for row in rows]
        width = max(map(len, (title, *names))) + 2
        out.print(f"[bold]{title:<{width}}[/bold]precision  recall     f1  items", highlight=False)
        for name, (_, precision, recall, f1, support) in zip(names, rows):
            line = f"{name:<{width}}{precision:>9.1%} {recall:>7.1%} {f1:>6.1%} {support:>6,}"
            out.print(escape(line), highlight=False)


def report_of(task: Any) -> ClassReport | None:
    """The report of the last test of a task; None for a task without classes."""
    counts = getattr(task, "class_counts", None)
    return None if counts is None else ClassReport.of(counts, class_names(task, len(counts)))


def class_names(task: Any, count: int) -> list[str]:
    """The names of the classes that a task predicts: its own, those of its model, else their numbers."""
    names = getattr(task, "class_names", None) or getattr(task.model, "labels", None)
    return list(names or map(str, range(count)))


def column_table(task: Any) -> dict[str, list[float]]:
    """{name: [mean absolute error in its unit, R², labels]} of each value of a regression of several, in its test."""
    columns = getattr(task, "columns", None)
    return {} if columns is None else dict(zip(class_names(task, len(columns)), columns.tolist(), strict=True))


def print_reports(task: Any, out: Console) -> None:
    """Print the classes, or the values, of the last test of a task, as far as it has several."""
    if (report := report_of(task)) is not None:
        report.print(out)
    if table := column_table(task):
        width = max(map(len, ("by column", *table))) + 2
        out.print(f"[bold]{'by column':<{width}}[/bold]     error       r2  labels", highlight=False)
        for name, (error, r2, labels) in table.items():
            line = f"{printable(name):<{width}}{error:>10.4g} {r2:>8.3f} {int(labels):>7,}"
            out.print(escape(line), highlight=False)


def write_reports(folder: Path, task: Any) -> dict[str, Any]:
    """Write `classes.csv` and `confusion.csv`, as far as the task has classes; returns entries of `metrics.json`:
    the means over the classes, the calibration, and the `reports` of the task."""
    if (matrix := getattr(task, "confusion", None)) is not None:
        names = class_names(task, len(matrix))
        rows = [[name, *row] for name, row in zip(names, matrix.tolist(), strict=True)]
        _write_csv(folder / "confusion.csv", [["true class", *names], *rows])
    found: dict[str, Any] = {"calibration": values} if (values := getattr(task, "calibration", {})) else {}
    found |= getattr(task, "reports", {})
    if table := column_table(task):
        found["columns"] = {name: dict(zip(COLUMN_SCORES, scores)) for name, scores in table.items()}
    if (report := report_of(task)) is None:
        return found
    rows = [[name, *(round(score, 6) for score in scores), support] for name, *scores, support in report.rows()]
    _write_csv(folder / "classes.csv", [["class", *SCORES, "support"], *rows])
    return found | {"means_over_classes": report.means()}


def _write_csv(file: Path, rows: list[list[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(file, text.getvalue())
