"""What a model attends to in sounds: over time and frequency.

    zoo.interpret.plot_audio.plot_audio_attention(model, ["dog.wav", "bell.wav"], path="attention.png")

Figures of matplotlib that need no display.
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
from zoo.interpret.plot import COLORS, DPI, over_patches, said_of, saved, scale, told, where
from zoo.interpret.plot import Panel as Patch
from zoo.models.eval_mode import eval_mode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, TALL = 4.2, 1.9  # inches of a spectrogram
TICKS = (125, 250, 500, 1000, 2000, 4000, 8000, 16000)  # Hz
FINE = 4  # points per frame and bin of the colored maps


def plot_audio_attention(
    model: Any, sounds: Any, path: str | Path | None = None, labels: Sequence[int] | None = None
) -> "Figure":
    """One page: spectrograms, and over them what the model attends to through all its layers (`zoo.rollout`).

    sounds: what `model.preprocess` takes, or the spectrograms that it makes, [B, T, F]. labels: the true classes;
    beside each sound stands what the model says. path: where to write a PNG.

    A row per sound: its spectrogram; the same in gray under the attention, with its means over frequency (above) and
    over time (right), where 1x is what each place would get if all got the same.

    Raises ValueError for a model without spectrogram patches, or with a layer that has no weights.
    """
    if "input_values" not in model.inputs or not hasattr(model, "patches"):
        raise ValueError(f"{type(model).__name__} has no spectrogram patches to draw attention over")
    values = sounds if isinstance(sounds, Tensor) else model.preprocess(sounds)["input_values"]
    with eval_mode(model), torch.no_grad(), capture(model, layers="blocks.*.mixer") as maps:
        scores = model(values.to(model.device, model.dtype))
    together = rollout({name: weights.float().cpu() for name, weights in maps.items()})
    heats = over_patches(together[:, None], where(model, None, None), None)[:, 0]  # [B, rows, columns], bins upwards
    titles = said_of(model, scores.cpu(), labels) or [""] * len(values)
    return saved(figure_of(model, values.float().cpu(), heats, titles), path)


def figure_of(model: Any, values: Tensor, heats: Tensor, titles: list[str]) -> "Figure":
    """Sounds [B, T, F], each as it is and, beside it, with the attention [B, rows, columns] over it."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    count = len(values)
    figure = Figure((2 * WIDE + 2.2, (TALL + 0.75) * count + 0.5), dpi=DPI, layout="constrained")
    shape: dict[str, Any] = dict(height_ratios=[0.22, 1] * count, width_ratios=[1, 1, 0.14])
    axes = figure.subplots(2 * count, 3, squeeze=False, gridspec_kw=shape)
    for i in range(count):
        for corner in (axes[2 * i, 0], axes[2 * i, 2]):
            corner.set_axis_off()
        first, second = axes[2 * i + 1, 0], axes[2 * i + 1, 1]
        spectrogram(first, model, values[i], "magma")
        first.set_ylabel(f"{titles[i]}\n\nkHz", fontsize=9)
        spectrogram(second, model, values[i], "gray")
        overlay(second, model, heats[i])
        over_time(axes[2 * i, 1], second, model, heats[i].mean(0))
        over_frequency(axes[2 * i + 1, 2], second, model, heats[i].mean(1))
    axes[0, 0].set_title("spectrogram", fontsize=9)
    axes[0, 1].set_title("attention of all layers (rollout), and its means over frequency and time", fontsize=9)
    for axis in axes[-1, :2]:
        axis.set_xlabel("seconds", fontsize=8)
    bar = figure.colorbar(ScalarMappable(cmap=COLORS), ax=axes, shrink=min(1.0, 2.5 / (TALL * count)), aspect=16)
    bar.set_ticks([0, 1], labels=["least", "most"], fontsize=8)
    return figure


def spectrogram(axis: "Axes", model: Any, values: Tensor, colors: str) -> None:
    """[T, F] with low frequencies at the bottom; padding, which is no sound, is left white."""
    hearer = model.preprocess
    frames, bins = values.shape
    shown = values.T.clone()
    if hearer is not None:
        empty = (values + hearer.mean / hearer.std).abs().amax(1) < 1e-4
        shown[:, empty] = torch.nan
    low, high = (values.quantile(q).item() for q in (0.02, 0.995))
    axis.imshow(shown, cmap=colors, vmin=low, vmax=high, origin="lower", aspect="auto", interpolation="nearest")
    axis.tick_params(labelsize=7)
    if hearer is None:
        return
    seconds = hearer.frame_shift / 1000
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 60) if frames * seconds / s <= 8 or s == 60)
    places = [i * step for i in range(int(frames * seconds / step) + 1)]
    axis.set_xticks([p / seconds - 0.5 for p in places], [f"{p:g}" for p in places])
    spots = [(hertz, bin_of(hearer, bins, hertz)) for hertz in TICKS]
    kept = [(hertz, spot) for hertz, spot in spots if 0 <= spot <= bins - 1]
    axis.set_yticks([spot for _, spot in kept], [f"{hertz / 1000:g}" for hertz, _ in kept])


def bin_of(hearer: Any, bins: int, hertz: float) -> float:
    """The mel bin, counted from 0, whose filter stands at a frequency."""
    mel = lambda f: 1127 * math.log(1 + f / 700)  # noqa: E731
    low, high = mel(hearer.low_freq), mel(hearer.high_freq or hearer.sampling_rate / 2)
    return (mel(hertz) - low) / (high - low) * (bins + 1) - 1


def sides(model: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the grid of patches begins and ends: in frames, and in bins. A patch stands at its middle."""
    pairs = zip(model.patches.grid, model.patches.patch_size, model.patches.proj.stride)
    (bottom, top), (left, right) = (((p - s) / 2 - 0.5, (p - s) / 2 - 0.5 + n * s) for n, p, s in pairs)
    return (left, right), (bottom, top)


def overlay(axis: "Axes", model: Any, heat: Tensor) -> None:
    """Attention [rows, columns] over a spectrogram, clear where it is least; its scale stands in the corner."""
    ends = scale([Patch(heat=heat)])
    assert ends is not None
    across, up = sides(model)
    size = [max(2, round(FINE * (side[1] - side[0]))) for side in (up, across)]
    smooth = F.interpolate(heat[None, None], size, mode="bicubic", align_corners=False)[0, 0]
    share = ((smooth - ends[0]) / (ends[1] - ends[0])).clamp(0, 1)
    limits = axis.get_xlim(), axis.get_ylim()
    axis.imshow(share, cmap=COLORS, vmin=0, vmax=1, alpha=0.75 * share.sqrt(), extent=(*across, *up), origin="lower",
                aspect="auto")  # fmt: skip
    axis.set(xlim=limits[0], ylim=limits[1])
    box = dict(facecolor="white", alpha=0.7, linewidth=0, pad=1.5)
    axis.text(0.99, 0.97, told(ends), transform=axis.transAxes, ha="right", va="top", fontsize=7, bbox=box)


def over_time(axis: "Axes", below: "Axes", model: Any, share: Tensor) -> None:
    """A curve of attention [columns], above the picture that it belongs to."""
    left, right = sides(model)[0]
    width = (right - left) / len(share)
    axis.bar([left + (i + 0.5) * width for i in range(len(share))], share.tolist(), width, color="tab:orange")
    axis.axhline(1, color="gray", linewidth=0.6)
    axis.set(xlim=below.get_xlim(), xticks=[])
    tidy(axis, "y")


def over_frequency(axis: "Axes", beside: "Axes", model: Any, share: Tensor) -> None:
    """The same over frequency [rows], at the right; nothing for patches that hold all bins."""
    if len(share) == 1:
        axis.set_axis_off()
        return
    bottom, top = sides(model)[1]
    height = (top - bottom) / len(share)
    axis.barh([bottom + (i + 0.5) * height for i in range(len(share))], share.tolist(), height, color="tab:orange")
    axis.axvline(1, color="gray", linewidth=0.6)
    axis.set(ylim=beside.get_ylim(), yticks=[])
    tidy(axis, "x")


def tidy(axis: "Axes", which: str) -> None:
    """A side axis of sums: no frame, and the ticks of none and of an even share."""
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)
    getattr(axis, f"set_{which}ticks")([0, 1], ["0", "1×"], fontsize=6)
    axis.tick_params(length=0)
