"""What the queries and keys of an attention map are: tokens of a text, patches of an image, times of a clip, nodes of a
graph."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.interpret.plot_audio import TICKS, mel_bin
from zoo.preprocessing.alignment import letters_of
from zoo.preprocessing.graph_display import layout, nearest_nodes, node_number


@dataclass(frozen=True)
class Tokens:
    """Positions that are shown as texts."""

    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def first(self, count: int) -> "Tokens":
        return Tokens(self.texts[:count])


@dataclass(frozen=True)
class TileGrid:
    """The tiles that the patches of an image are of; the last column of patches stands for the ends of rows.

    Attributes:
        size: (rows, columns) of the patches of a tile.
        start: The (row, column) of the first patch that is shown, among those of all tiles.
        columns: The number of tiles side by side.
    """

    size: tuple[int, int]
    start: tuple[int, int]
    columns: int


@dataclass(frozen=True, eq=False)
class Patches:
    """Positions that are fields of a grid over an image or a spectrogram, row by row.

    Attributes:
        kind: "image", or "audio" for a spectrogram, whose first row of fields is at the bottom.
        pixels: uint8 [C, H, W], as it is shown: of a spectrogram the low frequencies are at the bottom.
        grid: (rows, columns).
        count: The number of positions, if the last fields of the grid are none.
        name: Of one of several images.
        tiles: The tiles of an image that was cut.
        box: (left, top, right, bottom) of the grid, as fractions of the width and height.
        seconds: Length of a spectrogram.
        hertz: [(fraction of the height from the bottom, frequency)], the ticks of a spectrogram.
    """

    kind: Literal["image", "audio"]
    pixels: Tensor
    grid: tuple[int, int]
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    seconds: float | None = None
    hertz: tuple[tuple[float, float], ...] = ()
    count: int | None = None
    name: str = ""
    tiles: TileGrid | None = None

    def __len__(self) -> int:
        return self.grid[0] * self.grid[1] if self.count is None else self.count

    def first(self, count: int) -> "Patches":
        """The first columns of a grid with one row. Raises ValueError for a grid with several."""
        if self.grid[0] > 1:
            raise ValueError(
                f"the {self.kind} has {self.grid[0]} x {self.grid[1]} patches, which are shown all or not: omit "
                "max_tokens=, choose layers= or heads=, or load the model for a smaller input"
            )
        left, top, right, bottom = self.box
        end = left + (right - left) * count / self.grid[1]
        width = max(1, min(self.pixels.shape[2], math.ceil(end * self.pixels.shape[2])))
        part = width / self.pixels.shape[2]
        return replace(self, pixels=self.pixels[..., :width], grid=(1, count),
                       box=(left / part, top, min(1.0, end / part), bottom),
                       seconds=None if self.seconds is None else self.seconds * part)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Places:
    """Positions that are places on a plane, such as the points of a cloud.

    Attributes:
        texts: Names of the places.
        places: [(x, y)], fractions of the width and of the height, from the left and from the top.
        edges: [(source, target)], lines between places.
    """

    texts: tuple[str, ...]
    places: tuple[tuple[float, float], ...]
    edges: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def first(self, count: int) -> "Places":
        edges = tuple(edge for edge in self.edges if max(edge) < count)
        return Places(self.texts[:count], self.places[:count], edges)


@dataclass(frozen=True, eq=False)
class Nodes:
    """Positions that are the nodes of a graph, or the atoms of a molecule.

    Attributes:
        texts: Names of all nodes.
        edge_index: int64 [2, E].
        center: The node around which others are shown.
        shown: Numbers of the nodes that are positions, in their order.
    """

    texts: tuple[str, ...]
    edge_index: Tensor
    center: int
    shown: Tensor

    def __len__(self) -> int:
        return len(self.shown)

    def first(self, count: int) -> "Nodes":
        """The nodes nearest to the center."""
        return replace(self, shown=nearest_nodes(self.edge_index, len(self.texts), self.center, count))

    def around(self, node: int | str) -> "Nodes":
        """The same with another center, a name or a number. Raises ValueError for a node that is not there."""
        return replace(self, center=node_number(self.texts, node))

    @cached_property
    def places(self) -> Places:
        """Places where few edges cross."""
        number = torch.full((len(self.texts),), -1)
        number[self.shown] = torch.arange(len(self.shown))
        edges = number[self.edge_index]
        edges = edges[:, (edges >= 0).all(0)]
        pairs = sorted({(min(pair), max(pair)) for pair in edges.T.tolist() if pair[0] != pair[1]})
        texts = tuple(self.texts[node] for node in self.shown.tolist())
        return Places(texts, on_page(layout(len(texts), edges)), tuple(pairs))


Part = Tokens | Patches | Places | Nodes


@dataclass(frozen=True, eq=False)
class Positions:
    """The positions of one side of a map: parts in their order. total: of the model, if not all are shown."""

    parts: tuple[Part, ...]
    total: int = 0

    def __post_init__(self) -> None:
        if not self.total:
            object.__setattr__(self, "total", len(self))

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def first(self, count: int | None) -> "Positions":
        """The first `count` positions; None for all."""
        if count is None or count >= len(self):
            return self
        parts: list[Part] = []
        for part in self.parts:
            left = count - sum(map(len, parts))
            if left > 0:
                parts.append(part if len(part) <= left else part.first(left))
        return Positions(tuple(parts), self.total)

    @property
    def nodes(self) -> Nodes | None:
        """The part, if all are nodes of a graph."""
        return self.parts[0] if len(self.parts) == 1 and isinstance(self.parts[0], Nodes) else None

    def geometry(self) -> tuple[tuple[int, int] | None, int]:
        """(grid, prefix) for distances: those of patches after other tokens, or (None, 0) for a sequence."""
        *before, last = self.parts or (Tokens(()),)
        if isinstance(last, Patches) and last.count is None and not any(isinstance(part, Patches) for part in before):
            return last.grid, sum(map(len, before))
        return None, 0


def of_graph(texts: Sequence[str], edges: Tensor) -> Positions:
    """The nodes of a graph. edges int64 [2, E]."""
    return Positions((Nodes(tuple(texts), edges, 0, torch.arange(len(texts))),))


def of_points(points: Tensor, cloud: Tensor) -> Positions:
    """Some points [n, 3] of a cloud [N, 3], seen along the axis in which the points of the cloud differ least."""
    rows = F.pad((cloud - cloud.mean(0)).double(), (0, 0, 0, 2))  # a cloud of one point has three axes, too
    axes = torch.linalg.svd(rows, full_matrices=False).Vh
    centered = (points - cloud.mean(0)).double()
    texts = (f"point {i} at ({', '.join(f'{x:.2f}' for x in point)})" for i, point in enumerate(points.tolist()))
    return Positions((Places(tuple(texts), on_page(centered @ axes[:2].T)),))


def of_alignment(msa: Tensor) -> dict[str, Positions]:
    """The residues of the query, the first of the sequences int64 [S, N], and the sequences."""
    residues = tuple(f"{letter}{i}" for i, letter in enumerate(letters_of(msa[:1])[0], 1))
    sequences = ("query", *(f"sequence {i}" for i in range(2, len(msa) + 1)))
    return {"residues": Positions((Tokens(residues),)), "sequences": Positions((Tokens(sequences),))}


def on_page(places: Tensor) -> tuple[tuple[float, float], ...]:
    """Places [N, 2] as fractions of a square, from its top left corner."""
    low, high = places.amin(0), places.amax(0)
    shown = 0.5 + 0.94 * (places - (low + high) / 2) / (high - low).amax().clamp(min=1e-9)
    return tuple((x, 1 - y) for x, y in shown.tolist())


def numbered(count: int, name: str = "") -> Positions:
    """Positions that have only their numbers."""
    return Positions((Tokens(tuple(f"{name} {i}".strip() for i in range(count))),))


def prefix_names(patches: Any) -> Tokens:
    """The tokens before the patches: class token, distillation token, registers."""
    count = getattr(patches, "prefix", 0)
    named = ["[CLS]"] * (getattr(patches, "cls", None) is not None)
    named += ["[DIST]"] * (getattr(patches, "dist", None) is not None)
    return Tokens(tuple([*named, *(f"[REG{i}]" for i in range(count - len(named)))][:count]))


def of_image(patches: Any, pixels: Tensor) -> Positions:
    """The positions of a vision transformer: pixels uint8 [C, H, W], as its patch embedding takes them."""
    grid = patches.grid_for(tuple(pixels.shape[1:])) if hasattr(patches, "grid_for") else patches.grid
    box = grid_box(grid, patches.patch_size, patches.stride or patches.patch_size, tuple(pixels.shape[1:]))
    return Positions((prefix_names(patches), Patches("image", pixels, grid, box)))


def grid_box(
    grid: Sequence[int], patch: Sequence[int], stride: Sequence[int], size: Sequence[int]
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a grid as fractions of (height, width): each field is in the middle of its patch,
    and as large as the step to the next."""
    (top, bottom), (left, right) = (
        ((p - s) / 2 / edge, min(1.0, ((p - s) / 2 + n * s) / edge)) for n, p, s, edge in zip(grid, patch, stride, size)
    )
    return left, top, right, bottom


def of_spectrogram(patches: Any, extractor: Any, values: Tensor) -> Positions:
    """The positions of AST over a spectrogram [T, F]; extractor: its preprocessing."""
    frames, bins = values.shape
    left, low, right, high = grid_box(patches.grid, patches.patch_size, patches.stride, (bins, frames))
    seconds = frames * extractor.frame_shift / 1000
    fields = Patches("audio", spectrogram_pixels(values, extractor), patches.grid, (left, 1 - high, right, 1 - low),
                     seconds, frequency_ticks(extractor, bins))  # fmt: skip
    return Positions((prefix_names(patches), fields))


def of_frames(values: Tensor, extractor: Any, seconds: float, columns: int, total: int, end: float = 1.0) -> Positions:
    """The positions of an encoder over time, over a spectrogram [T, F]. end: where the last one ends in it."""
    ticks = frequency_ticks(extractor, values.shape[1])
    fields = Patches("audio", spectrogram_pixels(values, None), (1, columns), (0.0, 0.0, end, 1.0), seconds, ticks)
    return Positions((fields,), total)


def spectrogram_pixels(values: Tensor, extractor: Any) -> Tensor:
    """A spectrogram [T, F] as gray levels uint8 [1, F, T], low frequencies at the bottom; padding is black."""
    low, high = (values.float().quantile(q) for q in (0.02, 0.995))
    shown = ((values - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    if extractor is not None:
        shown[(values + extractor.mean / extractor.std).abs().amax(1) < 1e-4] = 0
    return (255 * shown.T.flip(0)).round().to(torch.uint8)[None]


def frequency_ticks(extractor: Any, bins: int) -> tuple[tuple[float, float], ...]:
    found = [((mel_bin(extractor, bins, hertz) + 0.5) / bins, float(hertz)) for hertz in TICKS]
    return tuple((place, hertz) for place, hertz in found if 0 <= place <= 1)
