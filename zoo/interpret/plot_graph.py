"""Plots of attention on graphs.

    zoo.interpret.plot_graph.plot_graph_attention(model, "citations.npz", around="ann", path="attention.png")

A node has the color of the attention that it receives, an edge that of the attention along it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.interpret.capture import capture
from zoo.interpret.edge_weights import EdgeWeights
from zoo.interpret.plot import save_figure
from zoo.models.eval_mode import eval_mode
from zoo.nn.lengths import place
from zoo.preprocessing.graph_display import layout, nearest_nodes, node_number
from zoo.utils.plotting import label_text, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = 5.4  # inches
COLORS = "YlOrRd"
NAMED = 60  # nodes up to which their names are plotted


def edge_attention(
    model: Any, batch: Mapping[str, Tensor], *, layer: str | None = None, head: int | None = None
) -> EdgeWeights:
    """The edges of a graph with their attention weights [E], on the CPU.

    Args:
        model: A model of graphs.
        batch: One graph, as `model.preprocess` gives it.
        layer: Name of a layer, such as "blocks.0.mixer"; None: the mean of all layers.
        head: Number of a head; None: the mean of all heads.

    Raises: ValueError for a model of other inputs, and a layer or head that does not exist.
    """
    if "edge_index" not in model.inputs:
        raise ValueError(f"{type(model).__name__} does not take graphs, so there is nothing to plot")
    batch = place(dict(batch), model.inputs, next(model.parameters()))
    heads = None if head is None else [head]
    with (
        eval_mode(model),
        torch.no_grad(),
        capture(model, layers=layer or "*", heads=heads, edges=True, reduce=lambda w: w.float().mean(1).cpu()) as maps,
    ):
        model(**batch)
    found = list(maps.values())
    return EdgeWeights(found[0].edge_index.cpu(), torch.stack([each.weights for each in found]).mean(0))


def received(found: EdgeWeights, nodes: int) -> Tensor:
    """The sum of the weights [N] that the other nodes give to each."""
    (source, target), weights = found
    others = source != target
    return torch.zeros(nodes).index_add(0, source[others], weights[others])


def along(found: EdgeWeights, pairs: Tensor, nodes: int) -> Tensor:
    """The weights between nodes [2, P], the mean of both directions where there is an edge in both; [P]."""
    codes = found.edge_index[1] * nodes + found.edge_index[0]  # sorted
    weights, ways = torch.zeros(pairs.shape[1]), torch.zeros(pairs.shape[1])
    for source, target in (pairs, pairs.flip(0)):
        code = target * nodes + source
        at = torch.searchsorted(codes, code).clamp(max=len(codes) - 1)
        weights += torch.where(codes[at] == code, found.weights[at], 0.0)
        ways += codes[at] == code
    return weights / ways.clamp(min=1)


def plot_graph_attention(
    model: Any,
    graph: Any,
    *,
    around: int | str | None = None,
    nodes: int = 60,
    layer: str | None = None,
    head: int | None = None,
    path: str | Path | None = None,
) -> "Figure":
    """Plot a graph, or the part of it around a node, with its nodes and edges colored by attention.

    The model computes the whole graph. A node has the color of the sum of the weights that all other nodes give to it,
    an edge that of the mean of its weights in both directions.

    Args:
        model: A model of graphs.
        graph: One graph for `model.preprocess`.
        around: The name or the number of the node in the middle, which has a ring; default: the first one, without.
        nodes: How many are plotted at most, those the fewest edges away from `around`.
        layer, head: See `edge_attention`.
        path: PNG file to write.

    Raises: ValueError as `edge_attention`, and for a node that is not there.
    """
    batch = model.preprocess(graph)
    found = edge_attention(model, batch, layer=layer, head=head)
    names, edges = model.preprocess.load(graph).node_names(), batch["edge_index"]
    center = 0 if around is None else node_number(names, around)
    shown = nearest_nodes(edges, len(names), center, nodes)
    number = torch.full((len(names),), -1)
    number[shown] = torch.arange(len(shown))
    lines = edges.sort(0).values.unique(dim=1)
    lines = lines[:, (lines[0] != lines[1]) & (number[lines] >= 0).all(0)]
    figure = plot_network(number[lines], along(found, lines, len(names)), received(found, len(names))[shown],
                          [names[i] for i in shown.tolist()], ring=around is not None)  # fmt: skip
    where = f"{layer or 'mean of all layers'}, {'mean of all heads' if head is None else f'head {head}'}"
    figure.axes[0].set_title(where, fontsize=10)
    return save_figure(figure, path)


def plot_network(lines: Tensor, weights: Tensor, values: Tensor, names: Sequence[str], *, ring: bool) -> "Figure":
    """Plot nodes with values [N], and lines [2, P] between them with weights [P]. ring: around the first node."""
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    figure = make_figure(1.2 * SIZE, SIZE)
    axes = figure.subplots()
    places = layout(len(names), lines)
    shares = weights / weights.max().clamp(min=1e-9) if len(weights) else weights
    colors = colormaps[COLORS](0.15 + 0.85 * shares.numpy())
    axes.add_collection(LineCollection(places[lines.T].tolist(), colors=colors, linewidths=2.0, zorder=1))
    x, y = places.T.tolist()
    size = 20.0 + min(4000.0 / len(names), 500.0)
    most = float(values.max()) or 1.0
    found = axes.scatter(
        x, y, c=values.tolist(), cmap=COLORS, vmin=0, vmax=most, s=size, edgecolors="#555555", zorder=2
    )
    if ring:
        axes.scatter(x[:1], y[:1], s=2.2 * size, facecolors="none", edgecolors="#1f77b4", linewidths=2, zorder=3)
    if len(names) <= NAMED:
        for name, a, b in zip(names, x, y, strict=True):
            axes.annotate(
                label_text(name), (a, b), (0, 6), textcoords="offset points", ha="center", fontsize=7, zorder=4
            )
    axes.set_aspect("equal")
    axes.margins(0.08)
    axes.set_axis_off()
    figure.colorbar(found, ax=axes, label="attention from other nodes", shrink=0.8)
    return figure
