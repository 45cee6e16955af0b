"""Attention maps as pictures.

    with zoo.capture(model) as maps:
        model(**model.preprocess("cat.png"))
    zoo.plot_attention("cat.png", maps, model=model, path="cat-attention.png")

Figures of matplotlib that need no display; `path=` writes a PNG.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.interpret.attention_maps import rollout
from zoo.interpret.capture import capture, inner
from zoo.utils.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Maps = Tensor | Sequence[Tensor] | Mapping[str, Any]
Query = Literal["cls", "mean"] | int

PANEL = 1.7  # inches
DPI = 120
COLORS = "inferno"
EVEN = 0.2  # the least width of a scale, in even shares


@dataclass(frozen=True)
class Place:
    """Where the patches stand among the tokens: a grid (rows, columns) behind `prefix` other tokens."""

    grid: tuple[int, int]
    prefix: int
    cls: bool


@dataclass(frozen=True)
class Panel:
    """An image uint8 [C, H, W], and over it what is attended to [rows, columns], in multiples of the even share."""

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
    """What the class token, or the mean patch, attends to, over the images: a row per image, a column per map.

    images: one or several pictures (PIL images, paths, uint8 [C, H, W] or [B, C, H, W]); None draws the maps as
        matrices, queries downwards, with `tokens` written beside them.
    maps: what `zoo.capture` filled, one map or several, [B, H, N, M], or [B, N, M] without heads (`zoo.rollout`).
    model: says where the patches are and how it crops pictures; without one give grid=(rows, columns) and prefix, the
        number of tokens before the patches.
    query: "cls", "mean" (over patches) or the number of a patch, row by row; default "cls" where there is one.
    heads: all heads of one image, a row per map, instead of their mean.
    titles: one per image. path: where to write a PNG.

    Each column has a scale of its own, told above it: 5× is five times what each token would get if all got the same.
    """
    named = {short(name): by_head(name, weights) for name, weights in by_name(maps).items()}
    batch = len(next(iter(named.values())))
    if heads and batch != 1:
        raise ValueError(f"heads=True shows all heads of one row; the maps have {batch}: choose one with rows=")
    if images is None:
        pictures: list[Tensor | None] = [None] * batch
        heats = {name: w * w.shape[-1] for name, w in named.items()}
    else:
        pictures = list(seen_by(model, images))
        place = where(model, grid, prefix)
        heats = {name: over_patches(w, place, query) for name, w in named.items()}
    if len(pictures) != batch:
        raise ValueError(f"{len(pictures)} images and maps of {batch}: expected as many of both")
    before = [] if images is None else [Panel(pictures[0])]
    if heads:
        rows = [before + [Panel(pictures[0], head) for head in heat[0]] for heat in heats.values()]
        columns = [""] * len(before) + [f"head {h}" for h in range(max(w.shape[1] for w in heats.values()))]
        return saved(figure_of(rows, columns, list(heats), tokens), path)
    rows = [
        ([Panel(image)] if before else []) + [Panel(image, heat[i].mean(0)) for heat in heats.values()]
        for i, image in enumerate(pictures)
    ]
    return saved(figure_of(rows, [""] * len(before) + list(heats), list(titles or [""] * batch), tokens), path)


def attention_grid(
    model: nn.Module,
    images: Tensor,
    pixel_values: Tensor,
    path: str | Path | None = None,
    labels: Sequence[int] | None = None,
    layers: int = 3,
) -> "Figure":
    """One page: images, what `layers` of the model's layers attend to (evenly spread, first and last), and all of them.

    images: uint8 [n, C, H, W], as people see them; pixel_values: the same as the model takes them. labels: the true
    classes; beside each image stands what the model says. The last column is `zoo.rollout` over all layers.
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
    together = rollout([w[:, None] for w in maps.values()])
    titles = said_of(inner(model), logits, labels)
    return plot_attention(images, chosen | {"all (rollout)": together}, model=model, titles=titles, path=path)


def said_of(model: Any, logits: Any, labels: Sequence[int] | None) -> list[str] | None:
    """What stands beside each image: the predicted class, its probability and, where it is another, the true one."""
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return None
    names = getattr(model, "labels", None) or [str(i) for i in range(logits.shape[1])]
    best = logits.float().softmax(-1).max(-1)
    titles = [f"{names[i]}\n{p:.0%}" for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
    if labels is None:
        return titles
    wrong = [int(true) != i for true, i in zip(labels, best.indices.tolist(), strict=True)]
    return [f"{t}\n(is {names[int(true)]})" if w else t for t, true, w in zip(titles, labels, wrong, strict=True)]


# --- maps and images, put in order --------------------------------------------------------------------------------


def by_name(maps: Maps) -> dict[str, Any]:
    if isinstance(maps, Mapping):
        named = dict(maps)
    else:
        several = [maps] if isinstance(maps, Tensor) else list(maps)
        named = {f"map {i}" if len(several) > 1 else "": weights for i, weights in enumerate(several)}
    if not named:
        raise ValueError("no maps given; they fill as the model runs inside `with zoo.capture(model) as maps:`")
    return named


def by_head(name: str, weights: Any) -> Tensor:
    """[B, H, N, M], float32 on the CPU."""
    if isinstance(weights, list):
        raise ValueError(f"{name} holds {len(weights)} maps, one per call of the model: give one of them")
    if weights.ndim not in (3, 4):
        raise ValueError(f"{name or 'the map'} is {list(weights.shape)}; expected [B, H, N, M] or [B, N, M]")
    return (weights if weights.ndim == 4 else weights[:, None]).detach().float().cpu()


def short(name: str) -> str:
    """`blocks.3.mixer` -> `block 3`, as it stands above a column."""
    found = re.fullmatch(r"(.*?\.)?blocks\.(\d+)\.(mixer|cross)", name)
    if not found:
        return name
    return f"{found[1] or ''}block {found[2]}" + (" cross" if found[3] == "cross" else "")


def where(model: nn.Module | None, grid: tuple[int, int] | None, prefix: int | None) -> Place:
    sees: Any = None if model is None else getattr(inner(model), "image", None) or inner(model)  # one tower of several
    patches: Any = getattr(sees, "patches", None)
    if grid is None and patches is None:
        raise ValueError("give model=, or grid=(rows, columns) of the patches and prefix= (tokens before them)")
    behind = prefix if prefix is not None else getattr(patches, "prefix", 0)
    cls = behind > 0 if patches is None else getattr(patches, "cls", None) is not None
    return Place(grid or patches.grid, behind, cls)


def over_patches(weights: Tensor, place: Place, query: Query | None) -> Tensor:
    """Maps [B, H, N, N] -> what `query` gives each patch [B, H, rows, columns], in multiples of the even share.

    Of a head that pools by a learned query, [B, H, 1, N], it is what that gives.
    """
    rows, columns = place.grid
    tokens = weights.shape[-1]
    if tokens != place.prefix + rows * columns or weights.shape[-2] not in (tokens, 1):
        raise ValueError(
            f"a map of {list(weights.shape[-2:])} does not fit {place.prefix} tokens and {rows} x {columns} patches"
        )
    query = query if query is not None else ("cls" if place.cls else "mean")
    if weights.shape[-2] == 1:
        row = weights[:, :, 0]
    elif query == "cls":
        if not place.cls:
            raise ValueError("query='cls': the model has no class token; use query='mean' or the number of a patch")
        row = weights[:, :, 0]
    elif query == "mean":
        row = weights[:, :, place.prefix :].mean(2)
    elif isinstance(query, int) and 0 <= query < rows * columns:
        row = weights[:, :, place.prefix + query]
    else:
        raise ValueError(f"query={query!r}: expected 'cls', 'mean', or a patch from 0 to {rows * columns - 1}")
    return row[:, :, place.prefix :].unflatten(-1, place.grid) * tokens


def seen_by(model: nn.Module | None, images: Any) -> Tensor | list[Tensor]:
    """The pictures, uint8 [C, H, W] each, cropped as the model does where it knows how."""
    preprocess = None if model is None else getattr(inner(model), "preprocess", None)
    preprocess = getattr(preprocess, "image", preprocess)
    if isinstance(images, Tensor):
        if images.dtype != torch.uint8 or images.ndim not in (3, 4):
            raise ValueError(f"images are uint8 [C, H, W] or [B, C, H, W], given {images.dtype} {list(images.shape)}")
        return (images if images.ndim == 4 else images[None]).cpu()
    several = list(images) if isinstance(images, list | tuple) else [images]
    if preprocess is not None:
        pixels = preprocess(several)["pixel_values"]
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocess.mean, preprocess.std))
        return ((pixels * std + mean) / preprocess.rescale).round().clamp(0, 255).to(torch.uint8)
    return [opened(picture) for picture in several]


def opened(picture: Any) -> Tensor:
    import numpy
    from PIL import Image

    if isinstance(picture, Tensor):
        return picture.cpu()
    if isinstance(picture, str | Path):
        picture = Image.open(picture)
    values = numpy.array(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
    return torch.from_numpy(values[..., None] if values.ndim == 2 else values).permute(2, 0, 1)


# --- figures ------------------------------------------------------------------------------------------------------


def figure_of(rows: list[list[Panel]], columns: list[str], titles: list[str], tokens: Sequence[str] | None) -> "Figure":
    """Panels in rows and columns, and the bar of their colors. Each column has a scale, named above it."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    wide = max(map(len, rows))
    scales = [scale([row[j] for row in rows if j < len(row)]) for j in range(wide)]
    first = rows[0][0].image
    shape = 1.0 if first is None else first.shape[1] / first.shape[2]
    size = PANEL * (1.6 if first is None else 1.0)
    figure = Figure((size * wide + 1.6, size * shape * len(rows) + 0.8), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(rows), wide, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            paint(axes[i, j], panel, scales[j], tokens)
        axes[i, 0].set_ylabel(titles[i], rotation=0, ha="right", va="center", fontsize=9, labelpad=6)
    for j, column in enumerate(columns):
        axes[0, j].set_title("\n".join(filter(None, (column, told(scales[j])))), fontsize=9)
    bar = figure.colorbar(
        ScalarMappable(cmap=COLORS), ax=axes, shrink=min(1.0, 3 / (size * shape * len(rows))), aspect=16, pad=0.02
    )
    bar.set_ticks([0, 1], labels=["least", "most"], fontsize=8)
    bar.set_label("attention (1× is the even share)", fontsize=8)
    return figure


def scale(panels: list[Panel]) -> tuple[float, float] | None:
    """The ends of a column's colors: what all but the weakest and the strongest 1 in 200 lie between.

    A spike is not cut to less than a quarter, and even attention not stretched until its noise looks like a pattern.
    """
    heats = [panel.heat.flatten() for panel in panels if panel.heat is not None]
    if not heats:
        return None
    values = torch.cat(heats).sort().values
    rare = round(0.005 * len(values))
    low, high = float(values[rare]), max(float(values[len(values) - 1 - rare]), float(values[-1]) / 4)
    return low, max(high, low + EVEN)


def told(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else " to ".join(f"{round(end, 2):.2g}×" for end in ends)


def paint(axis: "Axes", panel: Panel, ends: tuple[float, float] | None, tokens: Sequence[str] | None) -> None:
    if panel.image is None:
        assert panel.heat is not None and ends is not None
        if tokens is not None:
            axis.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=7)
            axis.set_yticks(range(len(tokens)), tokens, fontsize=7)
        axis.imshow(panel.heat, cmap=COLORS, vmin=ends[0], vmax=ends[1], interpolation="nearest")
        return
    height, width = panel.image.shape[1:]
    if panel.heat is None or ends is None:
        axis.imshow(rgb(panel.image), interpolation="nearest")
        return
    axis.imshow(panel.image.float().mean(0), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    fine = (max(height, 128), max(width, round(128 * width / height)))
    smooth = F.interpolate(panel.heat[None, None], fine, mode="bicubic", align_corners=False)[0, 0]
    share = ((smooth - ends[0]) / (ends[1] - ends[0])).clamp(0, 1)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axis.imshow(share, cmap=COLORS, vmin=0, vmax=1, alpha=0.4 + 0.45 * share, extent=extent)


def rgb(image: Tensor) -> Any:
    """uint8 [C, H, W] -> [H, W, 3]; other numbers of channels become gray."""
    if image.shape[0] != 3:
        image = image.float().mean(0, keepdim=True).round().to(torch.uint8).expand(3, -1, -1)
    return image.permute(1, 2, 0).numpy()


def saved(figure: "Figure", path: str | Path | None) -> "Figure":
    if path is not None:
        write_atomic(path, lambda part: figure.savefig(part, format="png"))
    return figure
