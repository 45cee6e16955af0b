"""Plots of head roles: layers by heads, a panel for each role."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from zoo.interpret.plot import COLORS, DPI, save_figure
from zoo.utils.plotting import make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL, LEAST = 0.17, 1.5  # inches of a head, least width of a panel
COLUMNS = 5


@dataclass(frozen=True, eq=False)
class RolePanel:
    """The scores of all heads in one role [layers, heads], NaN for heads that a layer does not have.

    layers: their names, as in `zoo.capture`. signed: whether scores may be negative.
    """

    title: str
    layers: Sequence[str]
    scores: Tensor
    signed: bool


def plot_roles(panels: Sequence[RolePanel], path: str | Path | None) -> "Figure":
    """Plot panels in rows; each has its own color range. Raises ValueError without panels."""
    if not panels:
        raise ValueError("no roles to plot: none was measured, or roles= is empty")
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    layers, heads = (max(panel.scores.shape[side] for panel in panels) for side in (0, 1))
    width, height = max(LEAST, CELL * heads) + 0.75, max(0.8, CELL * layers) + 0.75
    figure = make_figure(width * columns + 0.3, height * rows + 0.4, DPI)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, panel in zip(axes.flat, panels):
        found = panel.scores.nan_to_num()
        most = max(0.01, float((found.abs() if panel.signed else found).max()))
        shown = axis.imshow(
            panel.scores, cmap="RdBu_r" if panel.signed else COLORS, vmin=-most if panel.signed else 0, vmax=most,
            aspect="auto", interpolation="nearest",
        )  # fmt: skip
        names = [short(layer) for layer in panel.layers]
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(labelsize=5 if len(names) > 12 else 6, length=0)
        axis.set_title(panel.title, fontsize=7)
        figure.colorbar(shown, ax=axis, aspect=14, pad=0.02).ax.tick_params(labelsize=6)
    figure.suptitle("Scores of heads: layers down, heads to the right", fontsize=9)
    return save_figure(figure, path)


def short(layer: str) -> str:
    """blocks.3.mixer -> 3, decoder.blocks.3.cross -> decoder 3 cross."""
    parts = re.fullmatch(r"(?:(.*)\.)?blocks\.(\d+)\.(mixer|cross)(?:\..*)?", layer)
    if parts is None:
        return layer
    return " ".join(filter(None, (parts[1], parts[2], "cross" if parts[3] == "cross" else "")))
