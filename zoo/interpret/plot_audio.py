"""Plots of attention over spectrograms, by time and frequency.

    zoo.interpret.plot_audio.plot_audio_attention(model, ["dog.wav", "bell.wav"], path="attention.png")

Matplotlib plots that need no display.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.interpret.attention_maps import rollout
from zoo.interpret.capture import capture
from zoo.interpret.plot import (
    COLORS,
    DPI,
    Panel,
    color_range,
    over_patches,
    patch_layout,
    prediction_titles,
    range_text,
    save_figure,
    title_text,
)
from zoo.models.eval_mode import eval_mode
from zoo.utils.plotting import make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, TALL = 4.2, 1.9  # inches of a spectrogram
TICKS = (125, 250, 500, 1000, 2000, 4000, 8000, 16000)  # Hz
RESOLUTION = 4  # pixels of attention per frame and mel bin


def plot_audio_attention(
    model: Any, audio: Any, path: str | Path | None = None, labels: Sequence[int] | None = None
) -> "Figure":
    """Plot spectrograms with the attention rollout over all layers (`zoo.rollout`).

    audio: clips for `model.preprocess`, or its spectrograms [B, T, F]. labels: true classes, shown with the predictions
    beside the clips. path: PNG file to write.

    Each row has the spectrogram of a clip, and the attention over it, with means over frequency (above) and over time
    (right), where 1× is uniform attention.

    Raises ValueError for a model without spectrogram patches, or with a layer without attention weights.
    """
    if "input_values" not in model.inputs or not hasattr(model, "patches"):
        raise ValueError(f"{type(model).__name__} has no spectrogram patches to plot attention over")
    values = audio if isinstance(audio, Tensor) else model.preprocess(audio)["input_values"]
    with eval_mode(model), torch.no_grad(), capture(model, layers="blocks.*.mixer") as maps:
        scores = model(values.to(model.device, model.dtype))
    together = rollout({name: weights.float().cpu() for name, weights in maps.items()})
    attentions = over_patches(together[:, None], patch_layout(model, None, None), None)[:, 0]  # [B, rows, columns]
    titles = prediction_titles(model, scores.cpu(), labels) or [""] * len(values)
    return save_figure(plot_spectrograms(model, values.float().cpu(), attentions, titles), path)


def plot_spectrograms(model: Any, values: Tensor, attentions: Tensor, titles: list[str]) -> "Figure":
    """Plot spectrograms [B, T, F] without and with the attention [B, rows, columns] over them."""
    from matplotlib.cm import ScalarMappable

    count = len(values)
    figure = make_figure(2 * WIDE + 2.2, (TALL + 0.75) * count + 0.5, DPI)
    shape: dict[str, Any] = dict(height_ratios=[0.22, 1] * count, width_ratios=[1, 1, 0.14])
    axes = figure.subplots(2 * count, 3, squeeze=False, gridspec_kw=shape)
    for i in range(count):
        for corner in (axes[2 * i, 0], axes[2 * i, 2]):
            corner.set_axis_off()
        first, second = axes[2 * i + 1, 0], axes[2 * i + 1, 1]
        spectrogram(first, model, values[i], "magma")
        first.set_ylabel(f"{title_text(titles[i])}\n\nkHz", fontsize=9)
        spectrogram(second, model, values[i], "gray")
        plot_attention_over(second, model, attentions[i])
        over_time(axes[2 * i, 1], second, model, attentions[i].mean(0))
        over_frequency(axes[2 * i + 1, 2], second, model, attentions[i].mean(1))
    axes[0, 0].set_title("spectrogram", fontsize=9)
    axes[0, 1].set_title("attention of all layers (rollout), and its means over frequency and time", fontsize=9)
    for axis in axes[-1, :2]:
        axis.set_xlabel("seconds", fontsize=8)
    bar = figure.colorbar(ScalarMappable(cmap=COLORS), ax=axes, shrink=min(1.0, 2.5 / (TALL * count)), aspect=16)
    bar.set_ticks([0, 1], labels=["least", "most"], fontsize=8)
    bar.set_label("attention (1× is uniform)", fontsize=8)
    return figure


def spectrogram(axis: "Axes", model: Any, values: Tensor, colors: str) -> None:
    """Plot a spectrogram [T, F] with low frequencies at the bottom and padding in white."""
    extractor = model.preprocess
    frames, bins = values.shape
    shown = values.T.clone()
    if extractor is not None:
        empty = (values + extractor.mean / extractor.std).abs().amax(1) < 1e-4
        shown[:, empty] = torch.nan
    low, high = (values.quantile(q).item() for q in (0.02, 0.995))
    axis.imshow(shown, cmap=colors, vmin=low, vmax=high, origin="lower", aspect="auto", interpolation="nearest")
    axis.tick_params(labelsize=7)
    if extractor is None:
        return
    seconds = extractor.frame_shift / 1000
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 60) if frames * seconds / s <= 8 or s == 60)
    times = [i * step for i in range(int(frames * seconds / step) + 1)]
    axis.set_xticks([p / seconds - 0.5 for p in times], [f"{p:g}" for p in times])
    ticks = [(hertz, mel_bin(extractor, bins, hertz)) for hertz in TICKS]
    shown_ticks = [(hertz, tick) for hertz, tick in ticks if 0 <= tick <= bins - 1]
    axis.set_yticks([tick for _, tick in shown_ticks], [f"{hertz / 1000:g}" for hertz, _ in shown_ticks])


def mel_bin(extractor: Any, bins: int, hertz: float) -> float:
    """The index of the mel bin, as a fraction, whose filter is centered at a frequency."""
    mel = lambda f: 1127 * math.log(1 + f / 700)  # noqa: E731
    low, high = mel(extractor.low_freq), mel(extractor.high_freq or extractor.sampling_rate / 2)
    return (mel(hertz) - low) / (high - low) * (bins + 1) - 1


def patch_extent(model: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    """The extent of the grid of patches in frames and in bins; each patch is centered on its middle."""
    pairs = zip(model.patches.grid, model.patches.patch_size, model.patches.proj.stride)
    (bottom, top), (left, right) = (((p - s) / 2 - 0.5, (p - s) / 2 - 0.5 + n * s) for n, p, s in pairs)
    return (left, right), (bottom, top)


def plot_attention_over(axis: "Axes", model: Any, attention: Tensor) -> None:
    """Plot attention [rows, columns] over a spectrogram, transparent at its minimum, with its range in the corner."""
    colors = color_range([Panel(heat=attention)])
    assert colors is not None
    across, up = patch_extent(model)
    size = [max(2, round(RESOLUTION * (side[1] - side[0]))) for side in (up, across)]
    smooth = F.interpolate(attention[None, None], size, mode="bicubic", align_corners=False)[0, 0]
    strength = ((smooth - colors[0]) / (colors[1] - colors[0])).clamp(0, 1)
    limits = axis.get_xlim(), axis.get_ylim()
    axis.imshow(strength, cmap=COLORS, vmin=0, vmax=1, alpha=0.75 * strength.sqrt(), extent=(*across, *up),
                origin="lower", aspect="auto")  # fmt: skip
    axis.set(xlim=limits[0], ylim=limits[1])
    box = dict(facecolor="white", alpha=0.7, linewidth=0, pad=1.5)
    axis.text(0.99, 0.97, range_text(colors), transform=axis.transAxes, ha="right", va="top", fontsize=7, bbox=box)


def over_time(axis: "Axes", below: "Axes", model: Any, attention: Tensor) -> None:
    """Plot mean attention over time [columns] above a spectrogram."""
    left, right = patch_extent(model)[0]
    width = (right - left) / len(attention)
    axis.bar([left + (i + 0.5) * width for i in range(len(attention))], attention.tolist(), width, color="tab:orange")
    axis.axhline(1, color="gray", linewidth=0.6)
    axis.set(xlim=below.get_xlim(), xticks=[])
    format_axis(axis, "y")


def over_frequency(axis: "Axes", beside: "Axes", model: Any, attention: Tensor) -> None:
    """Plot mean attention over frequency [rows] beside a spectrogram; nothing for patches that span all bins."""
    if len(attention) == 1:
        axis.set_axis_off()
        return
    bottom, top = patch_extent(model)[1]
    height = (top - bottom) / len(attention)
    centers = [bottom + (i + 0.5) * height for i in range(len(attention))]
    axis.barh(centers, attention.tolist(), height, color="tab:orange")
    axis.axvline(1, color="gray", linewidth=0.6)
    axis.set(ylim=beside.get_ylim(), yticks=[])
    format_axis(axis, "x")


def format_axis(axis: "Axes", which: str) -> None:
    """Format an axis of means: no frame, ticks at 0 and at uniform attention."""
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)
    getattr(axis, f"set_{which}ticks")([0, 1], ["0", "1×"], fontsize=6)
    axis.tick_params(length=0)
