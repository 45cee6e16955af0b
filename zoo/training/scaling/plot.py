"""The plot of a scaling law: losses over tokens and over compute, with the fit."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.training.scaling.fit import Fit
from zoo.training.scaling.parabola import SAME_BUDGET, Parabola
from zoo.training.scaling.runs import ScalingError, ScalingRun, sizes_of
from zoo.training.sweep.results import MARKERS
from zoo.utils.console import format_count
from zoo.utils.plotting import PALETTE, label_text, make_figure, use_fonts_for_all_scripts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = 100  # of each curve


def figure_of(
    runs: Sequence[ScalingRun], held_out: Sequence[str], fit: Fit, parabolas: Sequence[Parabola] = ()
) -> "Figure":
    """Loss of each size over tokens and over training FLOPs: points are runs, hollow ones held out, lines the fit.

    Over FLOPs also the lowest loss for each amount of compute. With parabolas, on the right the loss over the size for
    each budget: the parabola as a line, the fit dashed, and the minimum of each.
    """
    from matplotlib.ticker import NullFormatter

    figure = make_figure(17 if parabolas else 12, 4.8)
    left, right, *more = figure.subplots(1, 3 if parabolas else 2, sharey=True)
    runs = [run for run in runs if not run.failure]
    for number, size in enumerate(sizes_of(runs)):
        own = [run for run in runs if run.size == size]
        _plot_size(left, right, fit, own, number, held=size in held_out)
    flops = np.geomspace(min(run.flops for run in runs), max(run.flops for run in runs) * 2, _POINTS)
    try:
        best = [fit.optimum(float(value)).loss for value in flops]
        right.plot(flops, best, color="0.3", linewidth=1.2, linestyle=(0, (1, 1.5)), label="best size")
    except ScalingError:  # the loss depends on one of size and tokens alone
        right.plot([], [])
    for number, each in enumerate(parabolas):
        _plot_parabola(more[0], fit, [run for run in runs if run.size not in held_out], each, number)
    axes = [(left, "training tokens D"), (right, "training FLOPs, 6 N D"), *((axis, "parameters N") for axis in more)]
    for axis, name in axes:
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())  # labels between powers of ten overlap
        axis.set_xlabel(name)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("held-out loss, nats per token")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, title="parameters", loc="outside right upper", frameon=False, fontsize=9)
    values = ", ".join(f"{name} {value:.3g}" for name, value in fit.parameters.items())
    figure.suptitle(label_text(f"{fit.law.equation}: {values}", 120), fontsize=10)
    use_fonts_for_all_scripts(figure)
    return figure


def _plot_size(left: Any, right: Any, fit: Fit, runs: list[ScalingRun], number: int, *, held: bool) -> None:
    color, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
    tokens = np.array([run.tokens for run in runs], dtype=np.float64)
    n = float(runs[0].parameters)
    range_ = np.geomspace(tokens.min() / 1.3, tokens.max() * 1.3, _POINTS)
    curve = fit.curve(np.full(_POINTS, n), range_)
    label = format_count(runs[0].parameters) + (", held out" if held else "")
    for axis, scale in ((left, 1.0), (right, 6 * n)):
        axis.plot(range_ * scale, curve, color=color, linewidth=1.2, linestyle="--" if held else "-")
        axis.plot(tokens * scale, [run.loss for run in runs], color=color, marker=marker, linestyle="", markersize=6,
                  markerfacecolor="white" if held else color, label=label)  # fmt: skip


def _plot_parabola(axis: Any, fit: Fit, runs: Sequence[ScalingRun], parabola: Parabola, number: int) -> None:
    color, low, high = PALETTE[number % len(PALETTE)], *parabola.range
    own = [run for run in runs if parabola.budget / SAME_BUDGET <= run.flops <= parabola.budget * SAME_BUDGET]
    n = np.geomspace(low / 1.2, high * 1.2, _POINTS)
    axis.plot([run.parameters for run in own], [run.loss for run in own], color=color, linestyle="",
              marker=MARKERS[number % len(MARKERS)], markersize=6, label=f"{parabola.budget:.2g} FLOPs")  # fmt: skip
    axis.plot(n, [parabola.loss(float(each)) for each in n], color=color, linewidth=1.2)
    axis.plot(n, fit.curve(n, parabola.budget / (6 * n)), color=color, linewidth=1.2, linestyle="--")
    if parabola.inside:
        axis.plot([parabola.parameters], [parabola.loss(parabola.parameters)], color=color, marker="x", markersize=9)
    axis.legend(frameon=False, fontsize=9, title=f"lines: parabolas, dashed: {fit.law.name}")
