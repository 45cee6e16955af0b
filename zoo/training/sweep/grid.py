"""`zoo compare` with two settings: every value of the first at every value of the second. Torch-free.

    zoo compare long_recall mechanism=softmax,linear length=32,64,128 seeds=3

For each value of the second setting the values of the first are compared in a folder of their own; the table has a row
for each value of the first setting and a column for each of the second.
"""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.training.run_dir import write_text
from zoo.training.sweep.results import MARKERS, STYLES, Comparison, markdown_table, terminal_table
from zoo.utils.atomic import write_atomic
from zoo.utils.escape import markdown
from zoo.utils.plotting import PALETTE, label_text, make_figure, use_fonts_for_all_scripts

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table


@dataclass
class Grid:
    """Comparisons of one setting at each value of another; prints as a table.

    Attributes:
        key: The setting whose values are the columns.
        comparisons: {value of `key`: the comparison at this value}.
        folder: Folder with those of the comparisons, `grid.json`, `grid.md` and `grid.png`.
    """

    key: str
    comparisons: dict[str, Comparison]
    folder: Path

    @property
    def first(self) -> Comparison:
        """The comparison at the first value of `key`."""
        return next(iter(self.comparisons.values()))

    @property
    def ok(self) -> bool:
        """Whether no run failed."""
        return all(comparison.ok for comparison in self.comparisons.values())

    @property
    def plot_file(self) -> Path:
        """Plot of the metric over the values of `key`."""
        return self.folder / "grid.png"

    def cell(self, value: str, column: str) -> tuple[float, float] | None:
        """(mean, standard deviation over the seeds) of the metric at the last common step; None without a result."""
        comparison = self.comparisons[column]
        found = list(comparison.last_metrics(value).values())
        return (statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else 0.0) if found else None

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the table as plain values; None means that no run has ended."""
        return [{self.first.key: value, **{column: self.cell(value, column) for column in self.comparisons}}
                for value in self.first.values]  # fmt: skip

    def _head(self) -> list[str]:
        return [self.first.key, *(f"{self.key.rpartition('.')[2]}={column}" for column in self.comparisons)]

    def _cells(self) -> list[list[str]]:
        several = len(self.first.seeds) > 1
        text = lambda cell: "-" if cell is None else f"{cell[0]:.4f}" + (f" ± {cell[1]:.4f}" if several else "")  # noqa: E731
        return [
            [value, *(text(self.cell(value, column)) for column in self.comparisons)] for value in self.first.values
        ]

    def _title(self) -> str:
        count = len(self.first.seeds)
        seeds = f"mean ± standard deviation of {count} seeds" if count > 1 else "1 seed"
        return f"{self.first.recipe}: {self.first.metric.replace('_', ' ')}, {seeds}"

    def _failures(self) -> list[str]:
        return [f"{self.key}={column}, {trial.value}, seed {trial.seed}: {trial.failure}"
                for column, one in self.comparisons.items() for trial in one.trials if trial.failure]  # fmt: skip

    def table(self) -> "Table":
        """A table for the terminal."""
        caption = "\n".join([*(f"failed: {line}" for line in self._failures()), f"table and plot in {self.folder}"])
        return terminal_table(self._title(), caption, self._head(), self._cells())

    def __rich__(self) -> "Table":
        return self.table()

    def __str__(self) -> str:
        """A Markdown table."""
        lines = markdown_table(self._title(), self._head(), self._cells())
        return "\n".join([*lines, *(f"\nfailed: {markdown(line)}" for line in self._failures())])

    def write(self) -> None:
        """Write the table, the numbers and the plot to the folder."""
        write_text(self.folder / "grid.md", str(self) + "\n")
        values = {"recipe": self.first.recipe, "key": self.first.key, "columns": self.key, "metric": self.first.metric,
                  "seeds": self.first.seeds, "rows": self.rows()}  # fmt: skip
        write_text(self.folder / "grid.json", json.dumps(values, indent=2) + "\n")
        figure = self.figure()
        write_atomic(self.plot_file, lambda path: figure.savefig(path, format="png"))

    def figure(self) -> "Figure":
        """Plot mean and standard deviation of the metric over the values of `key`, a line for each of the other."""
        figure = make_figure(8, max(4.0, 1.2 + 0.26 * len(self.first.values)))
        axis = figure.subplots()
        names = list(self.comparisons)
        for number, value in enumerate(self.first.values):
            cells = [(x, cell) for x, column in enumerate(names) if (cell := self.cell(value, column)) is not None]
            axis.errorbar([x for x, _ in cells], [cell[0] for _, cell in cells], [cell[1] for _, cell in cells],
                          color=PALETTE[number % len(PALETTE)], marker=MARKERS[number % len(MARKERS)], markersize=5,
                          linestyle=STYLES[number // len(PALETTE) % len(STYLES)], capsize=2,
                          label=label_text(value, 36))  # fmt: skip
        axis.set_xticks(range(len(names)), [label_text(name, 20) for name in names])
        axis.set_xlabel(label_text(self.key.rpartition(".")[2]))
        axis.set_ylabel(label_text(self.first.metric.replace("_", " ")))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        figure.legend(title=label_text(self.first.key, 36, keep_end=True), loc="outside right upper", frameon=False,
                      fontsize=9)  # fmt: skip
        figure.suptitle(label_text(self._title(), 80), fontsize=10)
        use_fonts_for_all_scripts(figure)
        return figure
