"""Plots of `zoo.timeline`: the waveform of a recording, the labels of its windows below it, and their mean beside."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from zoo.inference.timeline import Timeline
from zoo.interpret.plot import COLORS, DPI, save_figure
from zoo.utils.plotting import PALETTE, label_text, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = 10  # labels that are shown
POINTS = 2000  # points of the waveform that are shown


def plot_timeline(timeline: Timeline, path: str | Path | None = None, labels: int = LABELS) -> "Figure":
    """Plot the waveform of a recording and, below it, the probabilities of its windows, with the mean on the right.

    labels: number of labels that are shown, those with the highest probability in any window. path: PNG file to write.
    The values of a regression are plotted as steps. The last window, which overlaps the one before, is shown from the
    end of that one.
    """
    outputs, names = timeline.outputs, timeline.labels
    regression = timeline.unit == "value"
    best = range(len(names)) if regression else outputs.amax(0).argsort(descending=True)[:labels].tolist()
    height = 2.0 if regression else max(1.0, 0.3 * len(best))
    figure = make_figure(9, height + 1.9, DPI)
    shape: dict[str, Any] = dict(height_ratios=[0.9, height], width_ratios=[1, 0.01 if regression else 0.22])
    axes = figure.subplots(2, 2, squeeze=False, sharex="col", gridspec_kw=shape)
    axes[0, 1].set_axis_off()
    plot_waveform(axes[0, 0], timeline)
    axes[0, 0].set_title(label_text(Path(timeline.name).name, 100, keep_end=True), fontsize=9)
    shown = outputs[:, list(best)].T
    if regression:
        plot_values(axes[1, 0], timeline)
        axes[1, 1].set_axis_off()
    else:
        plot_probabilities(axes[1, 0], timeline, shown)
        axes[1, 0].set_yticks(range(len(best)), [label_text(names[i], 40, keep_end=True) for i in best], fontsize=8)
        plot_mean(axes[1, 1], shown.mean(1).tolist())
    colors = "; dashed: mean" if regression else "; probabilities are from 0 (black) to 1 (yellow)"
    axes[1, 0].set_xlabel(f"{format_seconds(axes[1, 0], timeline.spans[-1][1])}{colors}", fontsize=8)
    return save_figure(figure, path)


def edges(timeline: Timeline) -> list[float]:
    """Where the windows begin in the plot, and the end of the last one, in seconds."""
    begin = [0.0, *(end for _, end in timeline.spans[:-1])]
    return [*begin, timeline.spans[-1][1]]


def format_seconds(axis: "Axes", end: float) -> str:
    """Limit the time axis to the recording, with ticks at whole minutes in a long one; returns its unit."""
    axis.set_xlim(0, end)
    if end < 120:
        return "seconds"
    step = next(s for s in (30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, math.inf) if end / s <= 9)
    step = end if step == math.inf else step
    ticks = [i * step for i in range(int(end / step) + 1)]
    axis.set_xticks(ticks, [f"{int(tick) // 60}:{int(tick) % 60:02d}" for tick in ticks])
    return "minutes:seconds"


def plot_waveform(axis: "Axes", timeline: Timeline) -> None:
    """Plot the peaks of the waveform, mirrored, in at most POINTS points."""
    times, peaks = timeline.envelope.T
    if len(peaks) > POINTS:
        peaks = F.adaptive_max_pool1d(peaks[None], POINTS)[0]
        times = F.adaptive_avg_pool1d(times[None], POINTS)[0]
    axis.fill_between(times.tolist(), (-peaks).tolist(), peaks.tolist(), color="tab:gray", linewidth=0)
    axis.set_yticks([])
    axis.tick_params(labelsize=7)


def plot_probabilities(axis: "Axes", timeline: Timeline, shown: torch.Tensor) -> None:
    """Plot probabilities [C, W] as colors from 0 to 1, with the first label at the top."""
    rows = [i - 0.5 for i in range(len(shown) + 1)]
    axis.pcolormesh(edges(timeline), rows, shown.numpy(), cmap=COLORS, vmin=0, vmax=1)
    axis.invert_yaxis()
    axis.tick_params(labelsize=7)


def plot_values(axis: "Axes", timeline: Timeline) -> None:
    """Plot the values of a regression as steps, with the mean of each as a dashed line."""
    for i, name in enumerate(timeline.labels):
        values = timeline.outputs[:, i]
        color = PALETTE[i % len(PALETTE)]
        axis.stairs(values.tolist(), edges(timeline), baseline=None, color=color, linewidth=1.4,
                    label=label_text(name, 24, keep_end=True))  # fmt: skip
        axis.axhline(float(values.mean()), color=color, linestyle="--", linewidth=0.8)
    axis.tick_params(labelsize=7)
    axis.set_ylabel("value", fontsize=8)
    axis.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, frameon=False)


def plot_mean(axis: "Axes", mean: list[float]) -> None:
    """Plot the mean of each label as a bar with its number."""
    bars = axis.barh(range(len(mean)), mean, color="tab:orange")
    axis.bar_label(bars, [f"{value:.1%}" for value in mean], fontsize=7, padding=2)
    axis.set(xlim=(0, 1.3), ylim=(len(mean) - 0.5, -0.5), yticks=[])
    axis.set_xticks([0, 1], ["0", "1"], fontsize=7)
    axis.set_xlabel("mean", fontsize=8)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)
