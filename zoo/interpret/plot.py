"""Plots of attention maps over images.

    with zoo.capture(model) as maps:
        model(**model.preprocess("cat.png"))
    zoo.plot_attention("cat.png", maps, model=model, path="cat-attention.png")

Matplotlib plots that need no display; `path=` writes a PNG.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.interpret.attention_maps import AttentionMaps, rollout
from zoo.interpret.capture import capture
from zoo.interpret.edge_weights import EdgeWeights
from zoo.interpret.hooks import unwrap
from zoo.preprocessing import image_io
from zoo.utils.files import write_atomic
from zoo.utils.plotting import display_width, label_text, make_figure, use_fonts_for_all_scripts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Maps = Tensor | Sequence[Tensor] | Mapping[str, Any]
Query = Literal["cls", "mean"] | int

PANEL = 1.7  # inches
DPI = 120
COLORS = "inferno"
MIN_RANGE = 0.2  # minimum width of a color range, relative to uniform attention


@dataclass(frozen=True)
class PatchLayout:
    """Positions of the patches: a grid (rows, columns) after `prefix` other tokens, cls: with a class token or not."""

    grid: tuple[int, int]
    prefix: int
    cls: bool


@dataclass(frozen=True)
class Panel:
    """An image uint8 [C, H, W], and attention [rows, columns] over it, relative to uniform attention."""

    image: Tensor | None = None
    heat: Tensor | None = None


def plot_attention(
    images: Any,
    maps: Maps,
    *,
    model: nn.Module | None = None,
    grid: tuple[int, int] | None = None,
    prefix: int | None = None,
    query: Query | None = None,
    heads: bool = False,
    titles: Sequence[str] | None = None,
    tokens: Sequence[str] | None = None,
    path: str | Path | None = None,
) -> "Figure":
    """Plot the attention of the class token, or of the mean patch, over images: a row per image, a column per map.

    images: one or several images (PIL images, paths, uint8 [C, H, W] or [B, C, H, W]); None plots the maps as matrices,
        with queries as rows and the labels `tokens`.
    maps: from `zoo.capture`, or one or several maps [B, H, N, M], or [B, N, M] without heads (`zoo.rollout`).
    model: gives the positions of the patches and the crop of the images; without it, give grid=(rows, columns) and
        prefix, the number of tokens before the patches.
    query: "cls", "mean" (over patches) or the index of a patch, row by row; default: "cls" if there is a class token.
    heads: plot all heads of one image, a row per map, instead of their mean.
    titles: one per image. path: PNG file to write.

    Each column has its own color range, printed above it, relative to uniform attention: 5× is five times 1 / tokens.
    A line below names the layers without attention weights that `zoo.capture` has left out.
    """
    named = {short_name(name): by_head(name, weights) for name, weights in by_name(maps).items()}
    batch = len(next(iter(named.values())))
    if heads and batch != 1:
        raise ValueError(f"heads=True plots one row of the batch, the maps have {batch}: choose one with rows=")
    if images is None:
        shown: list[Tensor | None] = [None] * batch
        heats = {name: w * w.shape[-1] for name, w in named.items()}
    else:
        shown = list(load_images(model, images))
        layout = patch_layout(model, grid, prefix)
        heats = {name: over_patches(w, layout, query) for name, w in named.items()}
    if len(shown) != batch:
        raise ValueError(f"{len(shown)} images and maps of {batch}: expected equal numbers")
    before = [] if images is None else [Panel(shown[0])]
    if heads:
        rows = [before + [Panel(shown[0], head) for head in heat[0]] for heat in heats.values()]
        columns = [""] * len(before) + [f"head {h}" for h in range(max(w.shape[1] for w in heats.values()))]
        return save_figure(noted(plot_panels(rows, columns, list(heats), tokens), maps), path)
    rows = [
        ([Panel(image)] if before else []) + [Panel(image, heat[i].mean(0)) for heat in heats.values()]
        for i, image in enumerate(shown)
    ]
    figure = plot_panels(rows, [""] * len(before) + list(heats), list(titles or [""] * batch), tokens)
    return save_figure(noted(figure, maps), path)


def attention_grid(
    model: nn.Module,
    images: Tensor,
    pixel_values: Tensor,
    path: str | Path | None = None,
    labels: Sequence[int] | None = None,
    layers: int = 3,
) -> "Figure":
    """Plot images with the attention of several layers and, in the last column, the rollout over all layers.

    images: uint8 [n, C, H, W]; pixel_values: the same images preprocessed for the model. labels: true classes, shown
    with the predictions beside the images. layers: number of layers, evenly spaced from the first to the last.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), capture(model, layers="*.mixer", reduce=lambda w: w.mean(1)) as maps:
            logits = model(pixel_values)
    finally:
        model.train(training)
    names = list(maps)
    spread = sorted({round(i * (len(names) - 1) / max(layers - 1, 1)) for i in range(layers)})
    chosen = {names[i]: maps[names[i]] for i in spread}
    every = "all (rollout)" if not maps.missing else "attention (rollout)"
    chosen[every] = rollout([w[:, None] for w in maps.values()])
    titles = prediction_titles(unwrap(model), logits, labels)
    return plot_attention(images, AttentionMaps(chosen, maps.missing), model=model, titles=titles, path=path)


def prediction_titles(model: Any, logits: Any, labels: Sequence[int] | None) -> list[str] | None:
    """Titles of images: the predicted class, its probability and, if the prediction is wrong, the true class."""
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return None
    names = getattr(model, "labels", None) or [str(i) for i in range(logits.shape[1])]
    best = logits.float().softmax(-1).max(-1)
    titles = [f"{names[i]}\n{p:.0%}" for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
    if labels is None:
        return titles
    wrong = [int(true) != i for true, i in zip(labels, best.indices.tolist(), strict=True)]
    return [f"{t}\n(is {names[int(true)]})" if w else t for t, true, w in zip(titles, labels, wrong, strict=True)]


def noted(figure: "Figure", maps: Maps) -> "Figure":
    """The figure, with the layers below it of which there are no maps."""
    if isinstance(maps, AttentionMaps) and maps.missing:
        figure.supxlabel(maps.note(), fontsize=7)
    return figure


# --- maps and images --------------------------------------------------------------------------------------------


def by_name(maps: Maps) -> dict[str, Any]:
    if isinstance(maps, Mapping):
        named = dict(maps)
    else:
        several = [maps] if isinstance(maps, Tensor) else list(maps)
        named = {f"map {i}" if len(several) > 1 else "": weights for i, weights in enumerate(several)}
    if not named:
        raise ValueError("no maps given: run the model inside `with zoo.capture(model) as maps:` to capture them")
    return named


def by_head(name: str, weights: Any) -> Tensor:
    """[B, H, N, M], float32 on the CPU."""
    if isinstance(weights, list):
        raise ValueError(f"{name} has {len(weights)} maps, one per call of the model: give one of them")
    if isinstance(weights, EdgeWeights):
        raise ValueError(f"{name} has weights of edges: expected maps of all pairs, as of zoo.capture(model, "
                         "edges=False), or zoo.interpret.plot_graph.plot_graph_attention")  # fmt: skip
    if weights.ndim not in (3, 4):
        raise ValueError(f"{name or 'the map'} is {list(weights.shape)}; expected [B, H, N, M] or [B, N, M]")
    return (weights if weights.ndim == 4 else weights[:, None]).detach().float().cpu()


def short_name(name: str) -> str:
    """The title of a column: `blocks.3.mixer` -> `block 3`."""
    found = re.fullmatch(r"(.*?\.)?blocks\.(\d+)\.(mixer|cross)", name)
    if not found:
        return name
    return f"{found[1] or ''}block {found[2]}" + (" cross" if found[3] == "cross" else "")


def patch_layout(model: nn.Module | None, grid: tuple[int, int] | None, prefix: int | None) -> PatchLayout:
    """The positions of the patches, from a model or as given."""
    tower: Any = None if model is None else getattr(unwrap(model), "image", None) or unwrap(model)
    patches: Any = getattr(tower, "patches", None)
    if grid is None and patches is None:
        raise ValueError("give model=, or grid=(rows, columns) of the patches and prefix=, the tokens before them")
    before = prefix if prefix is not None else getattr(patches, "prefix", 0)
    cls = before > 0 if patches is None else getattr(patches, "cls", None) is not None
    return PatchLayout(grid or patches.grid, before, cls)


def over_patches(weights: Tensor, layout: PatchLayout, query: Query | None) -> Tensor:
    """Maps [B, H, N, N] -> attention of `query` to the patches [B, H, rows, columns], relative to uniform attention.

    For attention pooling with a learned query, [B, H, 1, N], it is the attention of that query.
    """
    rows, columns = layout.grid
    tokens = weights.shape[-1]
    if tokens != layout.prefix + rows * columns or weights.shape[-2] not in (tokens, 1):
        raise ValueError(
            f"a map of {list(weights.shape[-2:])} does not fit {layout.prefix} tokens and {rows} x {columns} patches"
        )
    query = query if query is not None else ("cls" if layout.cls else "mean")
    if weights.shape[-2] == 1:
        row = weights[:, :, 0]
    elif query == "cls":
        if not layout.cls:
            raise ValueError("query='cls': the model has no class token; use query='mean' or the index of a patch")
        row = weights[:, :, 0]
    elif query == "mean":
        row = weights[:, :, layout.prefix :].mean(2)
    elif isinstance(query, int) and 0 <= query < rows * columns:
        row = weights[:, :, layout.prefix + query]
    else:
        raise ValueError(f"query={query!r}: expected 'cls', 'mean', or a patch from 0 to {rows * columns - 1}")
    return row[:, :, layout.prefix :].unflatten(-1, layout.grid) * tokens


def load_images(model: nn.Module | None, images: Any) -> Tensor | list[Tensor]:
    """The images, uint8 [C, H, W] each, cropped as the model's preprocessing does."""
    preprocess = None if model is None else getattr(unwrap(model), "preprocess", None)
    preprocess = getattr(preprocess, "image", preprocess)
    if isinstance(images, Tensor):
        if images.dtype != torch.uint8 or images.ndim not in (3, 4):
            raise ValueError(
                f"expected images uint8 [C, H, W] or [B, C, H, W], got {images.dtype} {list(images.shape)}"
            )
        return (images if images.ndim == 4 else images[None]).cpu()
    several = list(images) if isinstance(images, list | tuple) else [images]
    if preprocess is not None:
        return torch.stack([preprocess.pixels(image) for image in several])
    return [load_image(image) for image in several]


def load_image(image: Any) -> Tensor:
    """An image as a tensor [C, H, W]."""
    import numpy
    from PIL import Image

    if isinstance(image, Tensor):
        return image.cpu()
    if isinstance(image, str | Path | Image.Image):
        image = image_io.read(image).convert("RGB")
    values = numpy.array(image)
    return torch.from_numpy(values[..., None] if values.ndim == 2 else values).permute(2, 0, 1)


# --- plots --------------------------------------------------------------------------------------------------------


def plot_panels(
    rows: list[list[Panel]], columns: list[str], titles: list[str], tokens: Sequence[str] | None
) -> "Figure":
    """Plot panels in rows and columns with a color bar. Each column has its own color range, printed above it."""
    from matplotlib.cm import ScalarMappable

    ncols = max(map(len, rows))
    ranges = [color_range([row[j] for row in rows if j < len(row)]) for j in range(ncols)]
    first = rows[0][0].image
    shape = 1.0 if first is None else first.shape[1] / first.shape[2]
    size = PANEL * (1.6 if first is None else 1.0)
    titles = [title_text(title) for title in titles]
    margin = 0.085 * max(display_width(line) for title in titles for line in title.split("\n"))
    figure = make_figure(size * ncols + 1.6 + margin, size * shape * len(rows) + 0.8, DPI)
    axes = figure.subplots(len(rows), ncols, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            plot_panel(axes[i, j], panel, ranges[j], tokens)
        axes[i, 0].set_ylabel(titles[i], rotation=0, ha="right", va="center", fontsize=9, labelpad=6)
    for j, column in enumerate(columns):
        axes[0, j].set_title(
            "\n".join(filter(None, (label_text(column, 22, keep_end=True), range_text(ranges[j])))), fontsize=9
        )
    bar = figure.colorbar(
        ScalarMappable(cmap=COLORS), ax=axes, shrink=min(1.0, 3 / (size * shape * len(rows))), aspect=16, pad=0.02
    )
    bar.set_ticks([0, 1], labels=["least", "most"], fontsize=8)
    bar.set_label("attention (1× is uniform)", fontsize=8)
    return figure


def title_text(title: str) -> str:
    """A title beside a row; each of its lines is limited in length."""
    return "\n".join(label_text(line, 28, keep_end=True) for line in title.split("\n"))


def color_range(panels: list[Panel]) -> tuple[float, float] | None:
    """The color range of a column: from the 0.5th to the 99.5th percentile.

    The upper end is at least a quarter of the maximum, so that peaks stay visible, and the range has a minimum width,
    so that the noise of uniform attention does not look like a pattern.
    """
    heats = [panel.heat.flatten() for panel in panels if panel.heat is not None]
    if not heats:
        return None
    values = torch.cat(heats).sort().values
    rare = round(0.005 * len(values))
    low, high = float(values[rare]), max(float(values[len(values) - 1 - rare]), float(values[-1]) / 4)
    return low, max(high, low + MIN_RANGE)


def range_text(limits: tuple[float, float] | None) -> str:
    return "" if limits is None else " to ".join(f"{round(end, 2):.2g}×" for end in limits)


def plot_panel(axis: "Axes", panel: Panel, limits: tuple[float, float] | None, tokens: Sequence[str] | None) -> None:
    if panel.image is None:
        assert panel.heat is not None and limits is not None
        if tokens is not None:
            tokens = [label_text(token, 20) for token in tokens]
            axis.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=7)
            axis.set_yticks(range(len(tokens)), tokens, fontsize=7)
        axis.imshow(panel.heat, cmap=COLORS, vmin=limits[0], vmax=limits[1], interpolation="nearest")
        return
    height, width = panel.image.shape[1:]
    if panel.heat is None or limits is None:
        axis.imshow(rgb(panel.image), interpolation="nearest")
        return
    axis.imshow(panel.image.float().mean(0), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    fine = (max(height, 128), max(width, round(128 * width / height)))
    smooth = F.interpolate(panel.heat[None, None], fine, mode="bicubic", align_corners=False)[0, 0]
    strength = ((smooth - limits[0]) / (limits[1] - limits[0])).clamp(0, 1)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axis.imshow(strength, cmap=COLORS, vmin=0, vmax=1, alpha=0.4 + 0.45 * strength, extent=extent)


def rgb(image: Tensor) -> Any:
    """uint8 [C, H, W] -> [H, W, 3]; other numbers of channels become gray."""
    if image.shape[0] != 3:
        image = image.float().mean(0, keepdim=True).round().to(torch.uint8).expand(3, -1, -1)
    return image.permute(1, 2, 0).numpy()


def save_figure(figure: "Figure", path: str | Path | None) -> "Figure":
    use_fonts_for_all_scripts(figure)
    if path is not None:
        write_atomic(path, lambda part: figure.savefig(part, format="png"))
    return figure
