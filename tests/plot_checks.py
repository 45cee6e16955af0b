"""Checks of plots: texts that overlap or leave the figure, and lines of a legend."""

from itertools import combinations
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text


def check_texts(figure: Any) -> list[str]:
    """Check that all texts of a figure are inside of it and do not overlap; returns them."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    inside = figure.bbox.padded(1)
    boxes, hidden = {}, _hidden(figure)
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in hidden:
            boxes[text] = text.get_window_extent(canvas.get_renderer())
    for text, box in boxes.items():
        assert inside.x0 <= box.x0 and box.x1 <= inside.x1, f"{text.get_text()!r} leaves the figure"
        assert inside.y0 <= box.y0 and box.y1 <= inside.y1, f"{text.get_text()!r} leaves the figure"
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        across, up = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across < 1 or up < 1, f"{one.get_text()!r} overlaps {other.get_text()!r}"
    return [text.get_text() for text in boxes]


def check_frames(figure: Any) -> None:
    """Check that titles and legends are outside of the frames, and that lines of legends are lines that are shown."""
    renderer = figure.canvas.get_renderer()
    for axis in figure.axes:
        if (legend := axis.get_legend()) is None:
            continue
        box, frame = legend.get_window_extent(renderer), axis.get_window_extent(renderer)
        assert box.y0 >= frame.y1 - 1 or box.x0 >= frame.x1 - 1, "the legend covers data"
        shown = {line.get_label(): line for line in axis.get_lines()}
        for text in legend.get_texts():
            line = shown[text.get_text()]
            values = [float(y) for y in line.get_ydata() if y == y]
            assert values, f"{text.get_text()} stands in the legend without a line"
            assert len(values) > 1 or line.get_marker() not in (None, "None", ""), "a single point without a marker"


def _hidden(figure: Any) -> set[Any]:
    """Labels of ticks outside of their axis, or of an axis that is off, which matplotlib does not show."""
    hidden: set[Any] = set()
    for axes in figure.axes:
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not axes.axison or not min(limits) <= tick.get_loc() <= max(limits):
                    hidden |= {tick.label1, tick.label2}
    return hidden
