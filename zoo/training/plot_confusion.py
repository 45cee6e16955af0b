"""The confusion matrix of a run as a figure."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo.training.class_report import class_names
from zoo.utils.plotting import display_width, label_text, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from zoo.training.result import Result
    from zoo.training.run import Run

NUMBERS = 20  # classes up to which the cells have numbers
NAMES = 60  # classes up to which the axes have names
CELL = 0.42  # inches
LONGEST = 12.0  # inches of a side of the matrix


def confusion(run: "Run", task: Any, result: "Result") -> "Figure | None":
    """Confusion matrix on the test set, as percentages of each true class; a class without test items is gray."""
    counts: Tensor | None = getattr(task, "confusion", None)
    if counts is None:
        return None
    names = [label_text(name, keep_end=True) for name in class_names(task, len(counts))]
    support = counts.sum(1, keepdim=True)
    fractions = (counts.float() / support.clamp(min=1)).masked_fill(support == 0, float("nan"))
    side = min(LONGEST, max(1.8, CELL * len(names)))
    margin = 0.8 + (0.09 * max(map(display_width, names)) if len(names) <= NAMES else 0.5)
    figure = make_figure(side + margin, side + margin + 0.4)
    axes = figure.subplots()
    _plot_matrix(axes, fractions)
    if len(names) > NAMES:
        note = f" (0 to {len(names) - 1:,}; names are in confusion.csv)"
    else:
        _label_classes(axes, names, side / len(names))
        note = ""
    axes.set(xlabel="predicted class", ylabel=f"true class{note}")
    if len(names) <= NUMBERS:
        _write_numbers(axes, fractions)
    empty = "" if bool(support.all()) else "\ngray: no test items"
    figure.suptitle(f"confusion matrix (test)\n% of each true class{empty}", fontsize=10)
    return figure


def _plot_matrix(axes: "Axes", fractions: Tensor) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    colors = colormaps["Blues"].with_extremes(bad="0.85")
    # Without "nearest" many small cells blur into each other; "auto" averages those that share a pixel.
    axes.imshow(fractions.numpy(), cmap=colors, vmin=0, vmax=1, interpolation="auto")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(10, integer=True))


def _label_classes(axes: "Axes", names: list[str], cell: float) -> None:
    """Names at the axes, upright where they are too long for a cell of so many inches."""
    size = min(9.0, 55 * cell)
    fits = max(map(display_width, names)) * 0.6 * size / 72 < cell
    axes.set_xticks(range(len(names)), names, rotation=0 if fits else 90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)


def _write_numbers(axes: "Axes", fractions: Tensor) -> None:
    for i, row in enumerate(fractions.tolist()):
        for j, value in enumerate(row):
            if value >= 0.005:
                color = "white" if value > 0.5 else "black"
                axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=color)
