"""What came out of several runs that differ in one setting: paired differences, a table, a picture. Torch-free."""

import csv
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_LOWER_IS_BETTER = ("loss", "error", "perplexity", "wer", "cer", "rank")


@dataclass
class Trial:
    """One run: a value of the compared setting, and a seed.

    Attributes:
        curves: {figure: [(step, seconds, value), ...]} as the run logged them.
        result: Its `metrics.json`.
        measured: `peak_memory` in bytes (of the GPU if there was one, else of the process), `flops` of one item.
        failure: The last words of a run that ended in an error.
    """

    value: str
    seed: int
    folder: Path
    curves: dict[str, list[tuple[int, float, float]]] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, float | None] = field(default_factory=dict)
    failure: str = ""

    @classmethod
    def read(cls, value: str, seed: int, folder: Path, failure: str = "") -> "Trial":
        """From the run's folder; whatever is not there yet stays empty."""
        trial = cls(value, seed, folder, failure=failure)
        if (file := folder / "metrics.csv").is_file():
            with open(file, newline="") as lines:
                for row in csv.DictReader(lines):
                    at = (int(row["step"]), float(row["seconds"] or "nan"))
                    for name, text in row.items():
                        if text and name not in ("step", "seconds"):
                            trial.curves.setdefault(name, []).append((*at, float(text)))
        for name, place in (("metrics.json", trial.result), ("measured.json", trial.measured)):
            if (folder / name).is_file():
                place.update(json.loads((folder / name).read_text()))
        return trial

    def rate(self) -> float | None:
        """Median of the items per second that the run logged."""
        rates = [value for _, _, value in self.curves.get("items_per_second", [])]
        return statistics.median(rates) if rates else None


@dataclass(frozen=True)
class Difference:
    """Mean figure of a value, and its paired difference to the first value with the standard error over seeds."""

    mean: float
    difference: float | None = None
    error: float | None = None

    def __str__(self) -> str:
        if self.difference is None:
            return "-"
        return f"{self.difference:+.4f}" + (f" ± {self.error:.4f}" if self.error is not None else "")


@dataclass
class Comparison:
    """Runs of one recipe that differ in one setting; prints as a table.

    Attributes:
        recipe, key: What was run, and the setting that differs.
        values: Of the setting; the first is what the others are compared with.
        trials: One for each value and seed.
        metric: The compared figure.
        folder: Holds the runs, `comparison.json`, `comparison.md` and `comparison.png`.
    """

    recipe: str
    key: str
    values: list[str]
    seeds: list[int]
    trials: list[Trial]
    metric: str
    folder: Path

    @property
    def ok(self) -> bool:
        """Whether every run came to its end."""
        return not any(trial.failure for trial in self.trials)

    @property
    def equal_steps(self) -> float:
        """The last step that every run has a figure for."""
        return min((curve[-1][0] for curve in self._curves()), default=0)

    @property
    def equal_seconds(self) -> float:
        """The last second of training that every run has a figure for."""
        return min((curve[-1][1] for curve in self._curves()), default=0.0)

    @property
    def picture(self) -> Path:
        """Curves against steps and seconds."""
        return self.folder / "comparison.png"

    def at(self, value: str, *, time: bool) -> Difference | None:
        """A value's figure at equal time or at equal steps; a figure between two logged ones is interpolated."""
        column, place = (1, self.equal_seconds) if time else (0, self.equal_steps)
        mine, first = (self._figures(v, column, place) for v in (value, self.values[0]))
        if not mine:
            return None
        mean = statistics.fmean(mine.values())
        paired = [mine[seed] - first[seed] for seed in mine if seed in first]
        if value == self.values[0] or not paired:
            return Difference(mean)
        error = statistics.stdev(paired) / math.sqrt(len(paired)) if len(paired) > 1 else None
        return Difference(mean, statistics.fmean(paired), error)

    def rows(self) -> list[dict[str, Any]]:
        """The table's figures as plain values; None is not measured."""
        return [self._row(value) for value in self.values]

    def table(self) -> "Table":
        """For a terminal."""
        from rich.table import Table

        table = Table(title=f"{self.recipe}: {self.key}, {self._seeds()}", caption=self._caption())
        for number, name in enumerate(self._head()):
            table.add_column(name, justify="right" if number else "left")
        for cells in self._cells():
            table.add_row(*cells)
        return table

    def __rich__(self) -> "Table":
        return self.table()

    def __str__(self) -> str:
        """A Markdown table."""
        head = self._head()
        lines = [
            f"{self.recipe}: {self.key}, {self._seeds()}",
            "",
            "| " + " | ".join(head) + " |",
            "|---" * len(head) + "|",
        ]
        lines += ["| " + " | ".join(cells) + " |" for cells in self._cells()]
        return "\n".join([*lines, "", self._caption()])

    def write(self) -> None:
        """Write table, figures and picture into the folder."""
        from zoo.training.run_dir import write_text

        write_text(self.folder / "comparison.md", str(self) + "\n")
        figures = {
            "recipe": self.recipe,
            "key": self.key,
            "metric": self.metric,
            "seeds": self.seeds,
            "rows": self.rows(),
        }
        write_text(self.folder / "comparison.json", json.dumps(figures, indent=2) + "\n")
        self.draw()

    def draw(self) -> Path:
        """Draw mean and standard error over seeds against steps and against seconds."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for number, value in enumerate(self.values):
            for column, axis in enumerate(axes):
                self._draw_curve(axis, value, column, f"C{number}")
        for axis, name, place in zip(axes, ("step", "seconds of training"), (self.equal_steps, self.equal_seconds)):
            axis.axvline(place, color="0.6", linewidth=0.8, linestyle=":")
            axis.set_xlabel(name)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel(self.metric.replace("_", " "))
        axes[0].legend(title=self.key, frameon=False)
        figure.suptitle(
            f"{self.recipe}: mean ± standard error of {self._seeds()}; compared at the dotted lines", fontsize=10
        )
        from zoo.utils.files import write_atomic

        write_atomic(self.picture, lambda path: FigureCanvasAgg(figure).print_png(str(path)))
        return self.picture

    # --- figures --------------------------------------------------------------------------------------------------

    def _good(self, value: str | None = None) -> list[Trial]:
        """Trials that came to their end and have the metric."""
        return [t for t in self.trials if not t.failure and t.curves.get(self.metric) and value in (None, t.value)]

    def _curves(self) -> list[list[tuple[int, float, float]]]:
        return [trial.curves[self.metric] for trial in self._good()]

    def _figures(self, value: str, column: int, place: float) -> dict[int, float]:
        """{seed: the metric at a step (column 0) or second (column 1)}."""
        return {trial.seed: interpolate(trial.curves[self.metric], column, place) for trial in self._good(value)}

    def _row(self, value: str) -> dict[str, Any]:
        trials = [trial for trial in self.trials if trial.value == value]
        row: dict[str, Any] = {self.key: value}
        for name, time in (("steps", False), ("time", True)):
            found = self.at(value, time=time)
            row[f"at_equal_{name}"] = found.mean if found else None
            row[f"difference_at_equal_{name}"] = found.difference if found else None
            row[f"standard_error_at_equal_{name}"] = found.error if found else None
        return row | {
            "parameters": _mean([t.result.get("parameters") for t in trials]),
            "flops": _mean([t.measured.get("flops") for t in trials]),
            "peak_memory": _mean([t.measured.get("peak_memory") for t in trials]),
            "items_per_second": _mean([t.rate() for t in trials]),
            "failed": [f"seed {t.seed}: {t.failure}" for t in trials if t.failure],
        }

    # --- words ----------------------------------------------------------------------------------------------------

    def _seeds(self) -> str:
        return f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}"

    def _head(self) -> list[str]:
        name = self.metric.replace("_", " ")
        steps, seconds = f"at step {self.equal_steps:g}", f"after {self.equal_seconds:.0f} s"
        sizes = ["parameters", "MFLOPs/item", "peak MB", "items/s"]
        return [self.key, f"{name} {steps}", "difference", f"{name} {seconds}", "difference", *sizes]

    def _cells(self) -> list[list[str]]:
        cells = []
        for value, row in zip(self.values, self.rows(), strict=True):
            found = [self.at(value, time=time) for time in (False, True)]
            figures = [text for each in found for text in ((f"{each.mean:.4f}", str(each)) if each else ("-", "-"))]
            sizes = [
                _number(row["parameters"]),
                _number(row["flops"], 1e6, 1),
                _number(row["peak_memory"], 2**20),
                _number(row["items_per_second"]),
            ]
            cells.append([value + (" (failed)" if row["failed"] else ""), *figures, *sizes])
        return cells

    def _caption(self) -> str:
        better = "lower" if lower_is_better(self.metric) else "higher"
        words = f"differences to {self.values[0]}, paired by seed, ± standard error; {better} is better"
        if len(self.seeds) < 2:
            words += "; one seed gives no standard error: take seeds=3"
        facts = [t.result for t in self.trials if t.result]
        if facts and not all(fact.get("real", True) for fact in facts):
            words += f"; NOT REAL DATA: {facts[0].get('data')} is made by the program"
        failures = [f"{t.value}, seed {t.seed}: {t.failure}" for t in self.trials if t.failure]
        return "; ".join([words, *failures])

    def _draw_curve(self, axis: Any, value: str, column: int, color: str) -> None:
        """One value's mean curve, up to where its shortest run goes, in a band of one standard error."""
        curves = [trial.curves[self.metric] for trial in self._good(value)]
        if not curves:
            return
        end = min(curve[-1][column] for curve in curves)
        places = sorted({point[column] for curve in curves for point in curve if point[column] <= end})
        figures = [[interpolate(curve, column, place) for curve in curves] for place in places]
        mean = [statistics.fmean(each) for each in figures]
        error = [statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else 0.0 for each in figures]
        axis.plot(places, mean, color=color, label=value, marker="o", markersize=3)
        axis.fill_between(
            places, [m - e for m, e in zip(mean, error)], [m + e for m, e in zip(mean, error)], color=color, alpha=0.2
        )


def lower_is_better(metric: str) -> bool:
    """Whether a figure is a loss or an error, by its name."""
    return any(word in metric.split("_") for word in _LOWER_IS_BETTER)


def choose_metric(trials: Sequence[Trial], wanted: str | None = None) -> str:
    """The figure to compare: the wanted one, else that by which the runs knew their best step, else a validation figure
    that is no loss, else a loss.

    Raises: ValueError when no run has logged the wanted one.
    """
    names = sorted({name for trial in trials for name in trial.curves} - {"lr", "items_per_second", "epoch"})
    if wanted:
        if names and wanted not in names:
            raise ValueError(f"metric={wanted}: the runs logged {', '.join(names)}")
        return wanted
    monitors = [key.removeprefix("best_") for trial in trials for key in trial.result if key.startswith("best_val_")]
    if monitors and monitors[0] in names:
        return monitors[0]
    validation = [name for name in names if name.startswith("val_")]
    return next(iter([name for name in validation if not lower_is_better(name)] + validation + names), "train_loss")


def interpolate(curve: Sequence[tuple[int, float, float]], column: int, place: float) -> float:
    """A figure at a step (column 0) or second (column 1), linear between the logged ones, constant beyond."""
    before = [point for point in curve if point[column] <= place]
    after = [point for point in curve if point[column] > place]
    if not before or not after:
        return before[-1][2] if before else curve[0][2]
    left, right = before[-1], after[0]
    share = (place - left[column]) / (right[column] - left[column])
    return left[2] + share * (right[2] - left[2])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _number(value: float | None, unit: float = 1.0, digits: int = 0) -> str:
    return "not measured" if value is None else f"{value / unit:,.{digits}f}"
