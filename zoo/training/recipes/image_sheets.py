"""Sheets of images of a run: originals beside their reconstructions."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.data.image.datamodule import ImageDataModule
from zoo.models.dvae.model import DiscreteVAE
from zoo.models.eval_mode import eval_mode
from zoo.training.parse import SettingsError
from zoo.training.run import Run
from zoo.utils.plotting import make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.training.result import Result

ROWS, COLUMNS = 6, 5  # pairs of images in the sheet
GAP = 2  # pixels between the images


def tokenizer_model(run: Run) -> DiscreteVAE:
    """The tokenizer to train, with its preprocessing. Raises: SettingsError for a model of another family."""
    model = run.build_model(head="decoder")
    if not isinstance(model, DiscreteVAE):
        name = run.config.model.source or run.config.model.name
        raise SettingsError(f"{name} is a {model.family} model: expected an image tokenizer, such as vqvae_tiny or "
                            f"dvae_tiny, or a folder of this recipe")  # fmt: skip
    model.preprocess = model.preprocess or model.default_preprocess()
    return model


@torch.no_grad()
def reconstructions(run: Run, task: Any, result: "Result") -> "Figure | None":
    """Test images, each with its reconstruction from the tokens at its right."""
    data, model = getattr(task.trainer, "datamodule", None), task.evaluated
    if not isinstance(data, ImageDataModule):
        return None
    test = data.splits.test
    rows = torch.linspace(0, len(test) - 1, min(ROWS * COLUMNS, len(test))).long()
    originals = test.pixels(rows)
    batch = data.augment({"pixel_values": originals, "labels": test.labels[rows]}, seed=0, step=0, train=False)
    with eval_mode(model):
        decoded = model.decode(model.tokenize(batch["pixel_values"].to(model.device, model.dtype)))
    title = f"{run.model_name}: test images, and at their right what {model.grid[0]} x {model.grid[1]} tokens keep"
    psnr = result.metrics.get("test_psnr")
    return sheet(originals, task.processor.to_images(decoded.cpu()), title + (f" ({psnr:.1f} dB)" if psnr else ""))


def sheet(originals: Tensor, decoded: Tensor, title: str) -> "Figure":
    """A figure of pairs of uint8 images [B, C, H, W]."""
    pairs = torch.cat([originals, decoded], 3)  # B C H 2W
    pairs = torch.nn.functional.pad(pairs, (GAP, 3 * GAP, GAP, GAP), value=255)
    full = [row for row in pairs.split(COLUMNS) if len(row) == COLUMNS] or [pairs]
    lines = [torch.cat(list(row), 2) for row in full]
    image = torch.cat(lines, 1).permute(1, 2, 0).expand(-1, -1, 3)
    height, width = image.shape[:2]
    figure = make_figure(9.0, 9.0 * height / width + 0.4)
    axes = figure.subplots()
    axes.imshow(image.numpy(), interpolation="nearest")
    axes.set_axis_off()
    figure.suptitle(title, fontsize=9)
    return figure
