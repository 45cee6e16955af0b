"""Plots of graphs: places of the nodes, and the graph in HTML and with matplotlib."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.preprocessing.graph import Graph, load_graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 300  # nodes in a plot
LAYOUT_STEPS = 100


def layout(nodes: int, edges: Tensor) -> Tensor:
    """Places of nodes [N, 2] within 0 .. 1, near each other where an edge of edges [2, E] joins them (Fruchterman and
    Reingold 1991, by networkx)."""
    import networkx  # which torch brings; it takes 0.2 s

    graph = networkx.Graph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(edges.T.tolist())
    found = networkx.spring_layout(graph, seed=0, iterations=LAYOUT_STEPS)
    places = torch.tensor([[*map(float, found[i])] for i in range(nodes)])
    low, high = places.amin(0), places.amax(0)
    return (places - low) / (high - low).clamp(min=1e-9)


def node_number(names: Sequence[str], node: int | str) -> int:
    """The number of a node that is given by its name or its number. Raises ValueError for one that is not there."""
    number = names.index(node) if node in names else node
    if type(number) is not int or not 0 <= number < len(names):
        raise ValueError(f"around={node!r}: expected the name or the number of a node, such as {names[0]!r}; the graph "
                         f"has {len(names):,} nodes")  # fmt: skip
    return number


def nearest_nodes(edges: Tensor, nodes: int, center: int, count: int) -> Tensor:
    """Numbers of the `count` nodes the fewest edges away from a node, which comes first; int64 [count].

    edges: int64 [2, E], in either direction. Nodes without a path to the center come last, in the order of their
    numbers.
    """
    source, target = edges
    steps = torch.full((nodes,), nodes)
    last = torch.zeros(nodes, dtype=torch.bool)
    steps[center], last[center], found = 0, True, 1
    for step in range(1, nodes):
        reached = torch.zeros(nodes, dtype=torch.bool)
        reached[source[last[target]]] = True
        reached[target[last[source]]] = True
        last = reached & (steps == nodes)
        steps[last] = step
        found += int(last.sum())
        if found >= count or not last.any():
            break
    return steps.sort(stable=True).indices[:count]


def shown_part(item: Any) -> tuple[Graph, Tensor, Tensor]:
    """(the first nodes of a graph, their places [N, 2], the places of the ends of the edges between them [E, 2, 2]).

    An edge that is there in both directions is one line, and an edge from a node to itself none.
    """
    graph = load_graph(item)
    if graph.num_nodes > SHOWN:
        graph = graph.subgraph(torch.arange(graph.num_nodes) < SHOWN)
    places = layout(graph.num_nodes, graph.edge_index)
    ends = graph.edge_index.sort(0).values.unique(dim=1)
    return graph, places, places[ends[:, ends[0] != ends[1]].T]


def graph_html(item: Any, alt: str) -> str:
    """An SVG of the graph, of a large one of its first nodes."""
    _, places, edges = shown_part(item)
    lines = "".join(f'<line x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}" stroke="#9aa3af"/>'
                    for (a, b), (c, d) in (10 + 180 * edges).tolist())  # fmt: skip
    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="#35508a"/>' for a, b in (10 + 180 * places).tolist())
    label = html.escape(alt, quote=True)
    return f'<svg role="img" aria-label="{label}" viewBox="0 0 200 200" width="200" height="200">{lines}{dots}</svg>'


def plot_graph(axes: "Axes", item: Any) -> None:
    """Plot the graph, of a large one its first nodes, colored by class where they are known."""
    from matplotlib.collections import LineCollection

    graph, places, edges = shown_part(item)
    axes.add_collection(LineCollection(edges.tolist(), colors="#9aa3af", linewidths=0.6, zorder=1))
    colors: Any = "#35508a" if graph.labels is None else graph.labels.tolist()
    x, y = places.T.tolist()
    axes.scatter(x, y, c=colors, cmap=None if graph.labels is None else "tab10", s=14, zorder=2)
    axes.set_aspect("equal")
    axes.set_axis_off()
