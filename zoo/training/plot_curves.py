"""The learning curves of a run: loss and monitored metric over the steps, from its `metrics.csv`."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.training.callbacks import monitors
from zoo.training.metrics_file import MetricsTable
from zoo.utils.plotting import BLUE, ORANGE, label_text, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from zoo.training.result import Result
    from zoo.training.run import Run

PERCENTAGES = ("accuracy", "f1", "mean_iou", "wer", "cer")  # metrics that are fractions
SMOOTH_FROM = 100  # points of the training loss from which on their moving mean is plotted over them
FEW = 30  # points up to which each has a marker
LOG_RATIO = 30  # largest to smallest value from which on an axis is logarithmic

Series = tuple[np.ndarray, np.ndarray]  # steps, values


def curves(run: "Run", task: Any, result: "Result") -> "Figure | None":
    """Loss and the monitored metric over the steps."""
    assert run.folder is not None and run.data is not None
    rows = MetricsTable(run.folder.path / "metrics.csv").rows()
    train, val = _series(rows, "train_loss"), _series(rows, "val_loss")
    if not len(train[0]) and not len(val[0]):
        return None
    monitor = _plotted_metric(monitors(task, run.config.trainer.monitor)[0], rows)
    figure = make_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    _plot_training(left, *train)
    _plot_validation(left, *val, "validation")
    _finish(left, "loss", (train[1], val[1]))
    metric = _series(rows, monitor)
    _plot_validation(right, *metric, "validation")
    name = monitor.removeprefix("val_")
    test = result.metrics.get(f"test_{name}", math.nan)
    if math.isfinite(test):
        formatted = f"{test:.2%}" if name in PERCENTAGES else f"{test:.4g}"
        right.axhline(test, color="0.4", linewidth=1, linestyle=(0, (1, 1.5)), label=f"test {formatted}")
    _finish(right, name, (metric[1], np.array([test])))
    last = max(steps[-1] for steps, _ in (train, val, metric) if len(steps))
    for axis in (left, right):
        axis.set_xlim(0, 1.02 * max(last, 1))
    data = label_text(run.data.name, 40, keep_end=True) + ("" if run.data.real else f" ({label_text(run.data.source)})")
    figure.suptitle(f"{label_text(run.model_name, 48, keep_end=True)} on {data}", fontsize=11)
    return figure


def _plotted_metric(monitor: str, rows: list[dict[str, str]]) -> str:
    """The metric of the right side: beside the loss, perplexity says more than the loss again."""
    return "val_perplexity" if monitor == "val_loss" and any(row.get("val_perplexity") for row in rows) else monitor


def _series(rows: list[dict[str, str]], name: str) -> Series:
    points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
    return np.array([step for step, _ in points]), np.array([value for _, value in points])


def _plot_training(axis: "Axes", steps: np.ndarray, values: np.ndarray) -> None:
    """Plot the loss of the logged steps as a line; of many, their moving mean with the points behind it."""
    if not np.isfinite(values).any():
        return
    if len(values) < SMOOTH_FROM:
        axis.plot(
            steps, values, color=BLUE, linewidth=1.2, marker="." if len(values) <= FEW else None, label="training"
        )
        return
    window = max(5, len(values) // 50)
    axis.plot(steps, values, color=BLUE, linewidth=0.6, alpha=0.3)
    axis.plot(steps, moving_mean(values, window), color=BLUE, linewidth=1.6, label=f"training (mean of {window} rows)")


def _plot_validation(axis: "Axes", steps: np.ndarray, values: np.ndarray, label: str) -> None:
    """Plot a metric of the validations, dashed and with markers, so that it differs not only by its color."""
    if np.isfinite(values).any():
        every = max(1, len(values) // FEW)
        axis.plot(steps, values, color=ORANGE, linewidth=1.4, linestyle="--", marker="o", markersize=4.5,
                  markerfacecolor="white", markevery=every, label=label)  # fmt: skip


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The centered mean of the finite values in a window of so many; nan where there is none."""
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    start = np.maximum(np.arange(len(values)) - window // 2, 0)
    end = np.minimum(start + window, len(values))
    number = count[end] - count[start]
    means = (total[end] - total[start]) / np.maximum(number, 1)
    return np.where(finite & (number > 0), means, np.nan)


def _finish(axis: "Axes", name: str, series: Iterable[np.ndarray]) -> None:
    """Labels, scale and legend of an axis; the legend stands above the frame, where it covers no data."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

    values = np.concatenate(list(series))
    finite = values[np.isfinite(values)]
    label = name.replace("_", " ")
    if is_logarithmic(finite) and name not in PERCENTAGES:
        axis.set_yscale("log")
        label += " (log scale)"
    elif name in PERCENTAGES:
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set(xlabel="step", ylabel=label)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if not len(finite):
        axis.set_yticks([])
        text = "no finite values" if np.isnan(values).sum() > 1 else "not measured"
        axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes, color="0.4")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)


def is_logarithmic(values: Sequence[float] | np.ndarray) -> bool:
    """Whether values are all positive and so different in size that a linear axis would hide most of them."""
    values = np.asarray(values)
    return bool(len(values) and values.min() > 0 and values.max() / values.min() >= LOG_RATIO)
