"""Plots of attribution over tokens, images and spectrograms, and of deletion and insertion curves.

Matplotlib plots that need no display.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo.interpret.plot import DPI, save_figure
from zoo.interpret.scored_inputs import Part
from zoo.utils.plotting import PALETTE, label_text, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIVERGING = "PuOr"  # orange and purple, which color-blind readers can distinguish
TOKENS, ROWS = 60, 8  # that are plotted
GRAY = "#777777"


def plot_attribution(found: Any, path: str | Path | None = None) -> "Figure":
    """Plot scores, a row for each input (up to 8) and a column for each part.

    Tokens are bars; patches are colors over the image or spectrogram, purple for scores above 0, orange below.

    found: an `Attribution`. path: PNG file to write.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    rows = min(len(found.targets), ROWS)
    width = sum(2.6 if found.part(name).is_image else 5.2 for name in found.scores)
    figure = make_figure(1.2 + width, 0.5 + 2.4 * rows, DPI)
    axes = figure.subplots(rows, len(found.scores), squeeze=False)
    over = False
    for row in range(rows):
        for column, (name, scores) in enumerate(found.scores.items()):
            axis, part = axes[row, column], found.part(name)
            own = scores[row]
            if part.cells is None or part.cells.ndim == 1:
                plot_bars(axis, part, row, own)
            else:
                plot_over(axis, part, found.inputs.batch[part.key][row].float().cpu(), own)
                over = True
            axis.set_title(
                label_text(f"{found.targets[row]}: {found.method} of {name}", 34 if part.is_image else 60), fontsize=8
            )
    if over:
        bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), cmap=DIVERGING), ax=axes, shrink=0.6, aspect=20)
        bar.set_ticks([-1, 0, 1], labels=["against", "0", "for"], fontsize=8)
    return save_figure(figure, path)


def plot_bars(axis: "Axes", part: Part, row: int, scores: Tensor) -> None:
    """Plot the scores [n] of tokens or frames as bars; of more than 60 tokens, those with the largest scores."""
    places = part.keep[row].nonzero()[:, 0].cpu()
    if part.labels is not None and len(places) > TOKENS:
        places = places[scores[places].abs().topk(TOKENS).indices.sort().values]
    values = scores[places].tolist()
    axis.bar(range(len(values)), values, color=[PALETTE[0] if value >= 0 else PALETTE[1] for value in values])
    axis.axhline(0, color=GRAY, linewidth=0.6)
    axis.tick_params(labelsize=7)
    if part.labels is not None:
        names = [label_text(part.labels[row][i], 14) for i in places.tolist()]
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)


def plot_over(axis: "Axes", part: Part, values: Tensor, scores: Tensor) -> None:
    """Plot the scores [n] of patches over an image [C, H, W] or a spectrogram, which is gray."""
    assert part.cells is not None
    gray, places = values.mean(0) if part.is_image else values, part.cells.cpu()
    if part.time_axis == 0:  # spectrograms are plotted with time to the right
        gray, places = gray.T, places.T
    origin, aspect = ("upper", "equal") if part.is_image else ("lower", "auto")
    options: dict[str, Any] = dict(origin=origin, aspect=aspect)
    axis.imshow(gray, cmap="gray", interpolation="nearest", **options)
    heat = (scores / scores.abs().max().clamp(min=1e-12))[places]
    axis.imshow(
        heat, cmap=DIVERGING, vmin=-1, vmax=1, alpha=0.7 * heat.abs().sqrt(), interpolation="nearest", **options
    )
    axis.set(xticks=[], yticks=[])


def plot_faithfulness(result: Any, path: str | Path | None = None) -> "Figure":
    """Plot deletion (left) and insertion curves (right), means over the inputs; random order is gray and dashed.

    result: a `FaithfulnessResult`. path: PNG file to write.
    """
    figure = make_figure(8.6, 3.4, DPI)
    axes = figure.subplots(1, 2, squeeze=False, sharey=True)[0]
    rows = result.rows
    for axis, name in zip(axes, ("deletion", "insertion")):
        for number, row in enumerate(rows):
            chance = number == len(rows) - 1
            style: dict[str, Any] = dict(color=GRAY if chance else PALETTE[number % len(PALETTE)])
            label = f"{label_text(row['order'], 30)} ({row[name]:.2f})"
            axis.plot(result.fractions, row[f"{name}_curve"], linestyle="--" if chance else "-", label=label, **style)
        what = "removed" if name == "deletion" else "there"
        better = "lower" if name == "deletion" else "higher"
        axis.set_title(f"{name}: {better} is better", fontsize=9)
        axis.set_xlabel(f"fraction of {result.part} {what}", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=7)
    axes[0].set_ylabel("probability of the target", fontsize=8)
    return save_figure(figure, path)
