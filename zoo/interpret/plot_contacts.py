"""Plots of contact maps of proteins: predictions above the diagonal, true contacts or another map below it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.interpret.plot import DPI, save_figure
from zoo.utils.plotting import label_text, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = "Blues"
SIDE = 3.6  # inches of one map
LETTERS = 40  # up to this many residues, each is written at both axes


def plot_contacts(
    predicted: Tensor | Sequence[Tensor],
    true: Tensor | Sequence[Tensor | None] | None = None,
    *,
    names: tuple[str, str] = ("predicted", "true"),
    titles: Sequence[str] | None = None,
    sequences: Sequence[str] | None = None,
    min_separation: int = 1,
    path: str | Path | None = None,
) -> "Figure":
    """Plot contact maps side by side, one for each protein.

    predicted: scores or probabilities [N, N] of pairs of residues, or one such map for each protein; shown above the
        diagonal. true: shown below it: contacts [N, N] of 0 and 1, or any other map, such as an attention map; None
        shows `predicted` on both sides. Each side has its own range of colors, from its least to its largest value.
    names: what stands above and below the diagonal. titles: one for each map. sequences: residues, for the axes of maps
        of up to 40. min_separation: pairs i, j with |i - j| below it are left white. path: PNG file to write.

    Raises ValueError for maps that are not square, of two sizes, without finite values, or of unequal numbers.
    """
    maps = [predicted] if isinstance(predicted, Tensor) else list(predicted)
    below = [true] * len(maps) if true is None else [true] if isinstance(true, Tensor) else list(true)
    if not maps or len(below) != len(maps):
        raise ValueError(f"{len(maps)} predicted maps and {len(below)} below the diagonal: expected equal numbers")
    for what, given in (("titles", titles), ("sequences", sequences)):
        if given is not None and len(given) != len(maps):
            raise ValueError(f"{len(given)} {what} for {len(maps)} maps: expected one for each")
    figure = make_figure(SIDE * len(maps) + 0.3, SIDE + 0.4, DPI)
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for number, (axis, upper, lower) in enumerate(zip(axes, maps, below)):
        if upper.ndim != 2 or upper.shape[0] != upper.shape[1] or (lower is not None and lower.shape != upper.shape):
            shapes = [tuple(each.shape) for each in (upper, lower) if each is not None]
            raise ValueError(f"contact maps {shapes}: expected [N, N], the same size on both sides of the diagonal")
        plot_triangles(axis, upper, upper if lower is None else lower, min_separation)
        sequence = None if sequences is None else sequences[number]
        if sequence is not None and len(sequence) != len(upper):
            raise ValueError(f"sequence {number} has {len(sequence)} residues, its map {len(upper)}: expected as many")
        if sequence is not None and len(sequence) <= LETTERS:
            axis.set_xticks(range(1, len(sequence) + 1), list(sequence), fontsize=6)
            axis.set_yticks(range(1, len(sequence) + 1), list(sequence), fontsize=6)
        both = names[0] if lower is None else f"{names[0]} above, {names[1]} below"
        axis.set_xlabel(label_text(both, 44), fontsize=8)
        axis.tick_params(labelsize=6 if sequence is not None and len(sequence) <= LETTERS else 7)
        if titles is not None:
            axis.set_title(label_text(titles[number], 40), fontsize=9)
    return save_figure(figure, path)


def plot_triangles(axis: Any, upper: Tensor, lower: Tensor, min_separation: int) -> None:
    """Two maps [N, N] on one axis: `upper` above the diagonal, `lower` below it, each scaled to 0 ... 1. Residues are
    numbered from 1, as in the names of contacts."""
    from matplotlib.ticker import MaxNLocator

    size = len(upper)
    places = torch.arange(size)
    shown = torch.full((size, size), torch.nan)
    for values, side in ((upper, places[None] > places[:, None]), (lower, places[None] < places[:, None])):
        side = side & ((places[None] - places[:, None]).abs() >= min_separation)
        own = values.detach().float().cpu()[side]
        if own.numel() and not own.isfinite().all():
            raise ValueError("the contact map has values that are not finite: expected numbers")
        if own.numel():
            low, high = own.min().clamp(max=0), own.max()
            shown[side] = (own - low) / (high - low).clamp(min=torch.finfo(torch.float).tiny)
    extent = (0.5, size + 0.5, size + 0.5, 0.5)
    axis.imshow(shown.numpy(), cmap=COLORS, vmin=0, vmax=1, interpolation="nearest", extent=extent)
    for side_axis in (axis.xaxis, axis.yaxis):
        side_axis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
