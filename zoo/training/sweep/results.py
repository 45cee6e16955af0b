"""Results of runs that differ in one setting: paired differences, a table and a plot. Torch-free."""

import csv
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.training.run_dir import write_text
from zoo.utils.atomic import write_atomic
from zoo.utils.escape import markdown
from zoo.utils.plotting import PALETTE, label_text, make_figure, use_fonts_for_all_scripts

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

STYLES, MARKERS = ("-", "--", ":"), "os^Dv"  # curves differ not only by their colors
_LOWER_IS_BETTER = ("loss", "error", "perplexity", "wer", "cer", "rank")


@dataclass
class Trial:
    """One run: a value of the compared setting, and a seed.

    Attributes:
        value, seed: The value and the seed.
        folder: The run folder.
        curves: {metric: [(step, seconds, value), ...]}, as logged by the run.
        result: The content of `metrics.json`.
        measured: `peak_memory` in bytes (of the GPU if there was one, else of the process), `flops` of one item.
        failure: The last line of output of a failed run.
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
        """Read a trial from its run folder; files that do not exist yet are skipped."""
        trial = cls(value, seed, folder, failure=failure)
        if (file := folder / "metrics.csv").is_file():
            with open(file, newline="") as lines:
                for row in csv.DictReader(lines):
                    at = (int(row["step"]), float(row["seconds"] or "nan"))
                    for name, text in row.items():
                        if text and name not in ("step", "seconds"):
                            trial.curves.setdefault(name, []).append((*at, float(text)))
        for name, values in (("metrics.json", trial.result), ("measured.json", trial.measured)):
            if (folder / name).is_file():
                values.update(json.loads((folder / name).read_text()))
        return trial

    def tested(self) -> dict[str, float]:
        """The metrics of the test, by name."""
        found: dict[str, float] = self.result.get("result") or {}
        return found

    def items_per_second(self) -> float | None:
        """Median of the logged items per second."""
        rates = [value for _, _, value in self.curves.get("items_per_second", [])]
        return statistics.median(rates) if rates else None


@dataclass(frozen=True)
class Difference:
    """Mean metric of a value, and its paired difference to the first value with the standard error over seeds."""

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
        recipe, key: The recipe, and the setting that differs.
        values: Values of the setting; the first is the baseline.
        seeds: Seeds that each value was run with.
        trials: One for each value and seed.
        metric: The compared metric.
        folder: Folder with the runs, `comparison.json`, `comparison.md` and `comparison.png`.
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
        """Whether no run failed."""
        return not any(trial.failure for trial in self.trials)

    @property
    def equal_steps(self) -> float:
        """The last step for which every run has logged the metric."""
        return min((curve[-1][0] for curve in self._curves()), default=0)

    @property
    def equal_seconds(self) -> float:
        """The last second of training for which every run has logged the metric."""
        return min((curve[-1][1] for curve in self._curves()), default=0.0)

    @property
    def plot_file(self) -> Path:
        """Plot of the curves over steps and seconds."""
        return self.folder / "comparison.png"

    def at(self, value: str, *, time: bool) -> Difference | None:
        """The metric of a value at equal time or at equal steps, interpolated between logged rows."""
        column, position = (1, self.equal_seconds) if time else (0, self.equal_steps)
        by_seed, baseline = (self._metrics_at(v, column, position) for v in (value, self.values[0]))
        if not by_seed:
            return None
        mean = statistics.fmean(by_seed.values())
        paired = [by_seed[seed] - baseline[seed] for seed in by_seed if seed in baseline]
        if value == self.values[0] or not paired:
            return Difference(mean)
        error = statistics.stdev(paired) / math.sqrt(len(paired)) if len(paired) > 1 else None
        return Difference(mean, statistics.fmean(paired), error)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the table as plain values; None means not measured."""
        return [self._row(value) for value in self.values]

    def _title(self) -> str:
        return f"{self.recipe}: {self.key}, {self._seeds()}"

    def table(self) -> "Table":
        """A table for the terminal."""
        return terminal_table(self._title(), self._caption(), self._head(), self._cells())

    def __rich__(self) -> "Table":
        return self.table()

    def __str__(self) -> str:
        """A Markdown table."""
        lines = markdown_table(self._title(), self._head(), self._cells())
        return "\n".join([*lines, "", markdown(self._caption())])

    def write(self) -> None:
        """Write the table, the numbers and the plot to the folder."""
        write_text(self.folder / "comparison.md", str(self) + "\n")
        metrics = {
            "recipe": self.recipe,
            "key": self.key,
            "metric": self.metric,
            "seeds": self.seeds,
            "rows": self.rows(),
        }
        write_text(self.folder / "comparison.json", json.dumps(metrics, indent=2) + "\n")
        self.plot()

    def plot(self) -> Path:
        """Write the plot of the curves."""
        figure = self.figure()
        write_atomic(self.plot_file, lambda path: figure.savefig(path, format="png"))
        return self.plot_file

    def figure(self) -> "Figure":
        """Plot mean and standard error over seeds, over steps and over seconds."""
        figure = make_figure(12, max(4.0, 1.2 + 0.22 * len(self.values)))
        axes = figure.subplots(1, 2, sharey=True)
        for number, value in enumerate(self.values):
            for column, axis in enumerate(axes):
                self._plot_curve(axis, value, column, number)
        for axis, name, position in zip(axes, ("step", "seconds of training"), (self.equal_steps, self.equal_seconds)):
            axis.axvline(position, color="0.6", linewidth=0.8, linestyle=":")
            axis.set_xlabel(name)
            axis.set_xlim(left=0)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel(label_text(self.metric.replace("_", " ")))
        handles, labels = axes[0].get_legend_handles_labels()
        if handles:  # outside, where it covers no curve
            title = label_text(self.key, 36, keep_end=True)
            figure.legend(handles, labels, title=title, loc="outside right upper", frameon=False, fontsize=9)
        shown = f"mean ± standard error of {self._seeds()}" if len(self.seeds) > 1 else self._seeds()
        figure.suptitle(f"{label_text(self.recipe)}: {shown}; compared at the dotted lines", fontsize=10)
        use_fonts_for_all_scripts(figure)
        return figure

    @property
    def test_metric(self) -> str:
        """The metric as the runs tested it, with their best weights, such as test_accuracy; "" if none did."""
        name = self.metric.replace("val_", "test_", 1)
        return name if any(name in trial.tested() for trial in self.trials) else ""

    def tested(self, value: str) -> tuple[float, float] | None:
        """(mean, standard deviation over the seeds) of `test_metric`; None without a test."""
        found = [t.tested()[self.test_metric] for t in self._complete(value) if self.test_metric in t.tested()]
        return (statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else 0.0) if found else None

    def last_metrics(self, value: str) -> dict[int, float]:
        """{seed: metric of a value at the last step that every run has logged}."""
        return self._metrics_at(value, 0, self.equal_steps)

    # --- numbers --------------------------------------------------------------------------------------------------

    def _complete(self, value: str | None = None) -> list[Trial]:
        """Trials that did not fail and have logged the metric."""
        return [t for t in self.trials if not t.failure and t.curves.get(self.metric) and value in (None, t.value)]

    def _curves(self) -> list[list[tuple[int, float, float]]]:
        return [trial.curves[self.metric] for trial in self._complete()]

    def _metrics_at(self, value: str, column: int, position: float) -> dict[int, float]:
        """{seed: metric at a step (column 0) or second (column 1)}."""
        return {trial.seed: interpolate(trial.curves[self.metric], column, position) for trial in self._complete(value)}

    def _row(self, value: str) -> dict[str, Any]:
        trials = [trial for trial in self.trials if trial.value == value]
        row: dict[str, Any] = {self.key: value}
        for name, time in (("steps", False), ("time", True)):
            result = self.at(value, time=time)
            row[f"at_equal_{name}"] = result.mean if result else None
            row[f"difference_at_equal_{name}"] = result.difference if result else None
            row[f"standard_error_at_equal_{name}"] = result.error if result else None
        if self.test_metric:
            row[self.test_metric], row[f"standard_deviation_of_{self.test_metric}"] = self.tested(value) or (None, None)
        return row | {
            "parameters": _mean([t.result.get("parameters") for t in trials]),
            "flops": _mean([t.measured.get("flops") for t in trials]),
            "peak_memory": _mean([t.measured.get("peak_memory") for t in trials]),
            "items_per_second": _mean([t.items_per_second() for t in trials]),
            "failed": [f"seed {t.seed}: {t.failure}" for t in trials if t.failure],
        }

    # --- text -----------------------------------------------------------------------------------------------------

    def _seeds(self) -> str:
        return f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}"

    def _head(self) -> list[str]:
        name = self.metric.replace("_", " ")
        steps, seconds = f"at step {self.equal_steps:g}", f"after {self.equal_seconds:.0f} s"
        tested = [self.test_metric.replace("_", " ")] if self.test_metric else []
        sizes = ["parameters", "MFLOPs/item", "peak MB", "items/s"]
        return [self.key, f"{name} {steps}", "difference", f"{name} {seconds}", "difference", *tested, *sizes]

    def _cells(self) -> list[list[str]]:
        cells = []
        for value, row in zip(self.values, self.rows(), strict=True):
            results = [self.at(value, time=time) for time in (False, True)]
            metrics = [text for each in results for text in ((f"{each.mean:.4f}", str(each)) if each else ("-", "-"))]
            if self.test_metric:
                mean, spread = self.tested(value) or (None, None)
                metrics.append("-" if mean is None else f"{mean:.4f}" + f" ± {spread:.4f}" * (len(self.seeds) > 1))
            sizes = [
                _number(row["parameters"]),
                _number(row["flops"], 1e6, 1),
                _number(row["peak_memory"], 2**20),
                _number(row["items_per_second"]),
            ]
            cells.append([value + (" (failed)" if row["failed"] else ""), *metrics, *sizes])
        return cells

    def _caption(self) -> str:
        better = "lower" if lower_is_better(self.metric) else "higher"
        caption = f"differences to {self.values[0]}, paired by seed, ± standard error; {better} is better"
        if self.test_metric and len(self.seeds) > 1:
            caption += "; tests ± standard deviation"
        if len(self.seeds) < 2:
            caption += "; there is no standard error for one seed: use seeds=3"
        results = [t.result for t in self.trials if t.result]
        if results and not all(result.get("real", True) for result in results):
            caption += f"; synthetic data ({results[0].get('data')}): the metrics say nothing about real data"
        failures = [f"{t.value}, seed {t.seed}: {t.failure}" for t in self.trials if t.failure]
        return "; ".join([caption, *failures])

    def _plot_curve(self, axis: Any, value: str, column: int, number: int) -> None:
        """Plot the mean curve of a value, up to the end of its shortest run, with a band of one standard error."""
        curves = [trial.curves[self.metric] for trial in self._complete(value)]
        if not curves:
            return
        end = min(curve[-1][column] for curve in curves)
        positions = sorted({point[column] for curve in curves for point in curve if point[column] <= end})
        metrics = [[interpolate(curve, column, position) for curve in curves] for position in positions]
        mean = [statistics.fmean(each) for each in metrics]
        error = [statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else 0.0 for each in metrics]
        color, style = PALETTE[number % len(PALETTE)], STYLES[number // len(PALETTE) % len(STYLES)]
        marker, every = MARKERS[number % len(MARKERS)], max(1, len(positions) // 20)
        axis.plot(positions, mean, color=color, linestyle=style, marker=marker, markersize=4, markevery=every,
                  label=label_text(value, 36, keep_end=True))  # fmt: skip
        low, high = ([m + sign * e for m, e in zip(mean, error)] for sign in (-1, 1))
        axis.fill_between(positions, low, high, color=color, alpha=0.2)


def lower_is_better(metric: str) -> bool:
    """Whether a metric is a loss or an error, judged by its name."""
    return any(word in metric.split("_") for word in _LOWER_IS_BETTER)


def choose_metric(trials: Sequence[Trial], metric: str | None = None) -> str:
    """The metric to compare: `metric` if given, else the one that selected the best step of the runs, else a
    validation metric that is not a loss, else a loss.

    Raises: ValueError if no run has logged `metric`.
    """
    names = sorted({name for trial in trials for name in trial.curves} - {"lr", "items_per_second", "epoch"})
    if metric:
        if names and metric not in names:
            raise ValueError(f"metric={metric}: the runs logged {', '.join(names)}")
        return metric
    monitors = [key.removeprefix("best_") for trial in trials for key in trial.result if key.startswith("best_val_")]
    if monitors and monitors[0] in names:
        return monitors[0]
    validation = [name for name in names if name.startswith("val_")]
    return next(iter([name for name in validation if not lower_is_better(name)] + validation + names), "train_loss")


def interpolate(curve: Sequence[tuple[int, float, float]], column: int, position: float) -> float:
    """A metric at a step (column 0) or second (column 1): linear between logged rows, constant beyond them."""
    return float(np.interp(position, [point[column] for point in curve], [point[2] for point in curve]))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _number(value: float | None, unit: float = 1.0, digits: int = 0) -> str:
    return "not measured" if value is None else f"{value / unit:,.{digits}f}"


def terminal_table(title: str, caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    """A table for the terminal; all columns but the first are numbers."""
    from rich.table import Table

    table = Table(title=title, caption=caption)
    for number, name in enumerate(head):
        # names may be long, and alike but for their ends
        table.add_column(name, justify="right" if number else "left", overflow="ellipsis" if number else "fold")
    for cells in rows:
        table.add_row(*cells)
    return table


def markdown_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table under its title."""
    lines = ["| " + " | ".join(map(markdown, cells)) + " |" for cells in (head, *rows)]
    return [title, "", lines[0], "|---" * len(head) + "|", *lines[1:]]
