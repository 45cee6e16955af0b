"""Plots of head roles: layers by heads, a panel for each role."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from zoo.interpret.plot import COLORS, DPI, save_figure
from zoo.interpret.roles.result import SIGNED, HeadRoles
from zoo.utils.plotting import make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL, LEAST = 0.17, 1.5  # inches of a head, least width of a panel
COLUMNS = 5


def plot_roles(found: HeadRoles, path: str | Path | None, roles: list[str]) -> "Figure":
    """Plot the scores of all heads in some roles. Raises ValueError for a role that was not measured."""
    if not roles:
        raise ValueError("no roles to plot: none was measured, or roles= is empty")
    tables = {role: score_table(found, role) for role in roles}
    columns = min(COLUMNS, len(roles))
    rows = math.ceil(len(roles) / columns)
    heads = max(scores.shape[1] for _, scores in tables.values())
    layers = max(scores.shape[0] for _, scores in tables.values())
    figure = make_figure(
        (max(LEAST, CELL * heads) + 0.75) * columns + 0.3, (max(0.8, CELL * layers) + 0.75) * rows + 0.4, DPI
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(roles) :]:
        axis.set_axis_off()
    for axis, (role, (names, scores)) in zip(axes.flat, tables.items()):
        top = max(float(numpy.nanmax(scores)), 0.01)
        signed = role in SIGNED
        top = max(top, -float(numpy.nanmin(scores))) if signed else top
        shown = axis.imshow(scores, cmap="RdBu_r" if signed else COLORS, vmin=-top if signed else 0, vmax=top,
                            aspect="auto", interpolation="nearest")  # fmt: skip
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(labelsize=5 if len(names) > 12 else 6, length=0)
        axis.set_title(
            f"{role}\nchance {found.best(role).chance:.2f}, random weights {found.best_control(role):.2f}", fontsize=7
        )
        bar = figure.colorbar(shown, ax=axis, aspect=14, pad=0.02)
        bar.ax.tick_params(labelsize=6)
    figure.suptitle("Scores of heads: layers down, heads to the right", fontsize=9)
    return save_figure(figure, path)


def score_table(found: HeadRoles, role: str) -> tuple[list[str], numpy.ndarray]:
    """(short names of layers, scores [layers, heads]), NaN for heads that a layer does not have."""
    rows = found.of_role(role)
    layers = list(dict.fromkeys(row.layer for row in found.rows if row.role == role))
    scores = numpy.full((len(layers), 1 + max(row.head for row in rows)), numpy.nan)
    for row in rows:
        scores[layers.index(row.layer), row.head] = row.score
    return [short(layer) for layer in layers], scores


def short(layer: str) -> str:
    """blocks.3.mixer -> 3, decoder.blocks.3.cross -> decoder 3 cross."""
    parts = re.fullmatch(r"(?:(.*)\.)?blocks\.(\d+)\.(mixer|cross)(?:\..*)?", layer)
    if parts is None:
        return layer
    return " ".join(filter(None, (parts[1], parts[2], "cross" if parts[3] == "cross" else "")))
