"""Plots of a run: learning curves, confusion matrix, attention maps. They need no display."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.data.image.datamodule import ImageDataModule
from zoo.interpret.plot import attention_grid
from zoo.interpret.plot_audio import plot_audio_attention
from zoo.models.base import Model
from zoo.preprocessing.audio_io import soundfile
from zoo.training.class_report import class_names
from zoo.training.metrics_file import MetricsTable
from zoo.utils.escape import figure_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.training.result import Result
    from zoo.training.run import Run

Plot = Callable[["Run", Any, "Result"], "Figure | None"]


def save_plots(run: "Run", task: Any, result: "Result", extra: Mapping[str, Plot] | None = None) -> list[Path]:
    """Save all plots of `PLOTS` and `extra` to the run folder; returns their files. Plots without data are skipped."""
    assert run.folder is not None
    files = []
    for name, plot in {**PLOTS, **(extra or {})}.items():
        figure = plot(run, task, result)
        if figure is not None:
            files.append(run.folder.path / f"{name}.png")
            figure.savefig(files[-1], dpi=110)
    return files


def curves(run: "Run", task: Any, result: "Result") -> "Figure | None":
    """Loss and the monitored metric over the steps."""
    assert run.folder is not None and run.data is not None
    rows = MetricsTable(run.folder.path / "metrics.csv").rows()
    monitor = "val_perplexity" if task.monitor == "val_loss" else task.monitor
    series = {name: _series(rows, name) for name in ("train_loss", "val_loss", monitor)}
    if not series["train_loss"][0] and not series["val_loss"][0]:
        return None
    figure = _figure(11, 4)
    left, right = figure.subplots(1, 2)
    for name, label in (("train_loss", "training"), ("val_loss", "validation")):
        left.plot(*series[name], label=label, marker="." if name == "val_loss" else None, linewidth=1.2)
    left.set(xlabel="step", ylabel="loss", title="loss")
    left.legend(frameon=False)
    right.plot(*series[monitor], marker=".", color="tab:green")
    name = monitor.removeprefix("val_")
    test_value = result.metrics.get(f"test_{name}")
    if test_value is not None:
        formatted = f"{test_value:.2%}" if name in ("accuracy", "f1", "wer") else f"{test_value:.4g}"
        right.axhline(test_value, color="gray", linewidth=0.8, linestyle="--")
        right.annotate(f"test {formatted}", (0.02, test_value), xycoords=("axes fraction", "data"), va="bottom")
    right.set(xlabel="step", ylabel=name, title=f"validation {name}")
    name = run.model_name
    title = f"{name} on {run.data.name}" + ("" if run.data.real else f" ({run.data.source})")
    figure.suptitle(figure_text(title))
    return figure


def confusion(run: "Run", task: Any, result: "Result") -> "Figure | None":
    """Confusion matrix on the test set, as percentages of each true class."""
    counts: Tensor | None = getattr(task, "confusion", None)
    if counts is None:
        return None
    names = [figure_text(name) for name in class_names(task, len(counts))]
    fractions = counts.float() / counts.sum(1, keepdim=True).clamp(min=1)
    side = 3 + 0.42 * len(names)
    figure = _figure(side, side)
    axes = figure.subplots()
    axes.imshow(fractions.numpy(), cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=60, ha="right")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted class", ylabel="true class", title="confusion matrix, test set, %")
    if len(names) <= 20:
        for i in ticks:
            for j in ticks:
                if fractions[i, j] >= 0.005:
                    color = "white" if fractions[i, j] > 0.5 else "black"
                    axes.text(j, i, f"{100 * fractions[i, j]:.0f}", ha="center", va="center", fontsize=8, color=color)
    return figure


def sample(run: "Run", task: Any, result: "Result") -> "Figure | None":
    """Save the first test image or audio clip as a file, to try the model on; returns no figure."""
    assert run.folder is not None
    data: Any = getattr(task.trainer, "datamodule", None)
    if hasattr(data, "first_clip"):
        wave, sampling_rate = data.first_clip()
        soundfile().write(run.folder.path / "sample.wav", wave.numpy(), sampling_rate)
        return None
    if isinstance(data, ImageDataModule):
        from PIL import Image

        pixels = data.splits.test.images[0].permute(1, 2, 0)
        Image.fromarray(pixels.squeeze(-1).numpy()).save(run.folder.path / "sample.png")
    return None


def attention(run: "Run", task: Any, result: "Result", count: int = 6) -> "Figure | None":
    """Attention maps of some test items; skipped, with a message, if a layer has no attention weights."""
    from torch.distributed.fsdp import FSDPModule

    data: Any = getattr(task.trainer, "datamodule", None)
    model = task.evaluated
    if hasattr(data, "sample_spectrograms") and isinstance(model, Model) and not isinstance(model, FSDPModule):
        return audio_attention(model, *data.sample_spectrograms(count))
    if not isinstance(data, ImageDataModule) or not isinstance(model, Model) or isinstance(model, FSDPModule):
        return None  # a sharded model needs all ranks for a forward pass
    if task.augment is None:
        return None
    test = data.splits.test
    labels = test.labels[:count]
    images = test.pixels(torch.arange(len(labels)))
    batch = task.augment({"pixel_values": images, "labels": labels}, seed=0, step=0, train=False)
    try:
        return attention_grid(model, images, batch["pixel_values"], labels=labels.tolist())
    except ValueError as error:
        print(f"attention.png is not saved: {error}")
        return None


def audio_attention(model: Any, values: Tensor, labels: list[int]) -> "Figure | None":
    """Attention maps over time and frequency of spectrograms [B, T, F]."""
    try:
        return plot_audio_attention(model, values, labels=labels)
    except ValueError as error:
        print(f"attention.png is not saved: {error}")
        return None


PLOTS: dict[str, Plot] = {
    "curves": curves,
    "confusion": confusion,
    "sample": sample,
    "attention": attention,
}
"""File name -> function that makes the plot."""


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _series(rows: list[dict[str, str]], name: str) -> tuple[list[int], list[float]]:
    points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
    return [step for step, _ in points], [value for _, value in points]
