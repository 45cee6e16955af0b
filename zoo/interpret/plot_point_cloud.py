"""Plots of attention over point clouds.

    zoo.interpret.plot_point_cloud.plot_cloud_attention(model, "chair.ply", queries=[0, 40], path="attention.png")

Matplotlib plots in three dimensions that need no display.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.interpret.capture import capture
from zoo.interpret.plot import COLORS, DPI, Panel, color_range, range_text, save_figure
from zoo.models.eval_mode import eval_mode
from zoo.utils.errors import did_you_mean
from zoo.utils.plotting import make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = 3.2  # inches
POOLING = "head.pooling.mixer"  # the attention of the seeds of a set transformer


def plot_cloud_attention(
    model: Any,
    cloud: Any,
    *,
    queries: Sequence[int] = (),
    layer: str | None = None,
    head: int | None = None,
    path: str | Path | None = None,
) -> "Figure":
    """Plot a cloud in three dimensions, its points colored by the attention that they receive.

    Args:
        model: A model of point clouds.
        cloud: One cloud for `model.preprocess`, or its points [N, F] or [1, N, F] as the model takes them.
        queries: Numbers of points, a panel for each: the attention of that point, which has a ring. Without any: the
            attention that pools the cloud, a panel for each seed; of a model without seeds one panel, the mean of all
            points.
        layer: Name of a layer, such as "blocks.0.mixer"; default: the first one that attends to all points. Through
            induced points, the attention of a point is what it pays to each of them times what that one pays to the
            points.
        head: Number of a head, or of a channel of vector attention; None: their mean.
        path: PNG file to write.

    Raises ValueError for a model of other inputs, a query, head or layer that does not exist, and a layer that attends
    to other points, as the later stages of a point transformer do.
    """
    if "points" not in model.inputs:
        raise ValueError(f"{type(model).__name__} does not take point clouds, so there is nothing to plot")
    points = cloud_of(model, cloud)
    heads = None if head is None else [head]
    with eval_mode(model), torch.no_grad(), capture(model, heads=heads) as maps:
        model(points=points.to(model.device, model.dtype))
    found = {name: weights[0].float().mean(0).cpu() for name, weights in maps.items()}  # queries, keys
    attention, titles = attention_of(found, len(points[0]), queries, layer)
    return save_figure(plot_panels(points[0, :, :3].float().cpu(), attention, titles, queries), path)


def cloud_of(model: Any, cloud: Any) -> Tensor:
    """The points [1, N, F] of one cloud. Raises ValueError for several."""
    is_input = isinstance(cloud, Tensor) and cloud.ndim == 3
    points: Tensor = cloud if is_input else model.preprocess(cloud)["points"]
    if len(points) != 1:
        raise ValueError(f"given {len(points)} point clouds, expected one")
    return points


def attention_of(
    maps: Mapping[str, Tensor], count: int, queries: Sequence[int], layer: str | None
) -> tuple[Tensor, list[str]]:
    """(attention [P, N] to the points, relative to uniform attention; titles of the P panels)."""
    if wrong := [query for query in queries if not 0 <= query < count]:
        raise ValueError(
            f"queries={list(queries)}: {wrong[0]} is out of range, the cloud has the points 0 to {count - 1}"
        )
    over_points = {
        name: whole for name, part in maps.items() if (whole := through_induced(maps, name)).shape[1] == count
    }
    inner = ".induced."
    usual = [name for name in over_points if inner not in name]
    if layer is None:
        pools = not queries and POOLING in over_points
        layer = POOLING if pools else next(name for name in usual if len(over_points[name]) == count)
    if layer not in over_points:
        near = did_you_mean(layer, maps)
        reason = f"attends to {maps[layer].shape[1]} points of {count}" if layer in maps else f"does not exist{near}"
        raise ValueError(f"layer={layer!r} {reason}: choose among {', '.join(usual)}")
    weights = over_points[layer] * count
    if not queries:
        if layer == POOLING:
            return weights, [f"seed {seed}" for seed in range(len(weights))]
        return weights.mean(0, keepdim=True), ["all points"]
    if len(weights) != count:
        raise ValueError(f"layer={layer!r} has {len(weights)} queries that are not points: omit queries=")
    return weights[list(queries)], [f"point {query}" for query in queries]


def through_induced(maps: Mapping[str, Tensor], name: str) -> Tensor:
    """The map of a layer; through induced points, the product of both maps."""
    inner = maps.get(f"{name}.induced.mixer")
    return maps[name] if inner is None else maps[name] @ inner


def plot_panels(places: Tensor, attention: Tensor, titles: list[str], queries: Sequence[int]) -> "Figure":
    """Plot places [N, 3] once for each row of attention [P, N]; `queries`: the points that have a ring."""
    from matplotlib.cm import ScalarMappable

    figure = make_figure(PANEL * len(titles) + 1.0, PANEL + 0.4, DPI)
    limits = color_range([Panel(heat=attention)])
    assert limits is not None
    low, high = (float(end) for end in (places.amin(), places.amax()))
    axes: list[Any] = [figure.add_subplot(1, len(titles), i + 1, projection="3d") for i in range(len(titles))]
    for i, (axis, title) in enumerate(zip(axes, titles)):
        strength = ((attention[i] - limits[0]) / (limits[1] - limits[0])).clamp(0, 1)
        x, y, z = places.T.numpy()
        axis.scatter(
            x, y, z, c=strength.numpy(), cmap=COLORS, vmin=0, vmax=1, s=8 + 22 * strength.numpy(), linewidths=0
        )
        if queries:
            axis.scatter(*places[queries[i]].tolist(), s=90, facecolors="none", edgecolors="tab:cyan", linewidths=1.5)
        axis.set(xlim=(low, high), ylim=(low, high), zlim=(low, high), xticklabels=[], yticklabels=[], zticklabels=[])
        axis.set_title(f"{title}\n{range_text(limits)}", fontsize=9)
    bar = figure.colorbar(ScalarMappable(cmap=COLORS), ax=axes, shrink=0.7, aspect=16, pad=0.04)
    bar.set_ticks([0, 1], labels=["least", "most"], fontsize=8)
    bar.set_label("attention (1× is uniform)", fontsize=8)
    return figure
