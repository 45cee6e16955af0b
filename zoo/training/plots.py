"""Plots of a run: learning curves, confusion matrix, attention maps. They need no display."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from zoo.data.image.datamodule import ImageDataModule
from zoo.data.splits import balanced_rows
from zoo.interpret.plot import attention_grid
from zoo.interpret.plot_audio import plot_audio_attention
from zoo.models.base import Model
from zoo.nn.attention import Attention
from zoo.parallel.stages import is_divided
from zoo.preprocessing.audio_io import soundfile
from zoo.training.plot_confusion import confusion
from zoo.training.plot_curves import curves
from zoo.utils.plotting import use_fonts_for_all_scripts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.training.result import Result
    from zoo.training.run import Run

Plot = Callable[["Run", Any, "Result"], "Figure | None"]


def save_plots(run: "Run", task: Any, result: "Result", extra: Mapping[str, Plot] | None = None) -> list[Path]:
    """Save all plots of `PLOTS` and `extra` to the run folder; returns their files. Plots without data are skipped.

    So are, with a message, those that call a model that is divided over processes: all of these would have to.
    """
    assert run.folder is not None
    files, plots = [], {**PLOTS, **(extra or {})}
    if is_divided(task.evaluated):
        skipped = ", ".join(name for name in plots if name not in OF_RESULTS)
        print(f"not plotted, because several processes hold parts of the model: {skipped}")
        plots = {name: plot for name, plot in plots.items() if name in OF_RESULTS}
    for name, plot in plots.items():
        figure = plot(run, task, result)
        if figure is not None:
            files.append(run.folder.path / f"{name}.png")
            use_fonts_for_all_scripts(figure)
            figure.savefig(files[-1], dpi=110)
    return files


def sample(run: "Run", task: Any, result: "Result") -> "Figure | None":
    """Save the first test image, audio clip or point cloud as a file, to try the model on; returns no figure."""
    assert run.folder is not None
    data: Any = getattr(task.trainer, "datamodule", None)
    if hasattr(data, "first_clip"):
        wave, sampling_rate = data.first_clip()
        soundfile().write(run.folder.path / "sample.wav", wave.numpy(), sampling_rate)
        return None
    if hasattr(data, "first_cloud"):
        np.save(run.folder.path / "sample.npy", data.first_cloud().numpy())
        return None
    if isinstance(data, ImageDataModule):
        from PIL import Image

        pixels = data.splits.test.images[0].permute(1, 2, 0)
        Image.fromarray(pixels.squeeze(-1).numpy()).save(run.folder.path / "sample.png")
    return None


def attention(run: "Run", task: Any, result: "Result", count: int = 6) -> "Figure | None":
    """Attention maps of test items of as many classes as possible.

    Skipped, with a message, if a layer has no attention weights.
    """
    data: Any = getattr(task.trainer, "datamodule", None)
    model = task.evaluated
    if hasattr(data, "sample_spectrograms") and isinstance(model, Model):
        return audio_attention(model, *data.sample_spectrograms(count))
    if not isinstance(data, ImageDataModule) or not isinstance(model, Model):
        return None
    if task.augment is None or not any(isinstance(module, Attention) for module in model.modules()):
        return None
    test = data.splits.test
    rows = balanced_rows(test.labels, min(count, len(test)), data.seed)
    labels, images = test.labels[rows], test.pixels(rows)
    batch = task.augment({"pixel_values": images, "labels": labels}, seed=0, step=0, train=False)
    return unless_refused("attention", attention_grid, model, images, batch["pixel_values"], labels=labels.tolist())


def audio_attention(model: Any, values: Tensor, labels: list[int]) -> "Figure | None":
    """Attention maps over time and frequency of spectrograms [B, T, F]."""
    return unless_refused("attention", plot_audio_attention, model, values, labels=labels)


def unless_refused(name: str, plot: Callable[..., "Figure"], *args: Any, **options: Any) -> "Figure | None":
    """The figure of a plot; None, with a message, where it raises ValueError: a layer has no attention weights."""
    try:
        return plot(*args, **options)
    except ValueError as error:
        print(f"{name}.png is not saved: {error}")
        return None


PLOTS: dict[str, Plot] = {
    "curves": curves,
    "confusion": confusion,
    "sample": sample,
    "attention": attention,
}
"""File name -> function that makes the plot."""
OF_RESULTS = ("curves", "confusion", "sample")  # plots that do not call the model
