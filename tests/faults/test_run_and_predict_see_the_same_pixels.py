"""The images that a run is evaluated on are, pixel for pixel, what its saved model makes of the same files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recipe_calls import caller

import zoo
from zoo.training.config import ImageSettings

call = caller({"vit_cifar": ImageSettings})
TINY = (
    "width=16", "depth=1", "heads=2", "batch_size=8", "steps=1", "val_fraction=0", "accelerator=cpu", "precision=fp32",
    "plots=false", "progress=false",
)  # fmt: skip


def image_folder(folder: Path, size: tuple[int, int], orientation: int | None = None) -> list[Path]:
    """Waves and noise in folders of classes; returns the files of the test set."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]]
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    for split, count in (("train", 8), ("test", 3)):
        for name, step in (("fine", 3.0), ("coarse", 9.0)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                wave = 127 + 100 * np.sin(x / step + i) * np.cos(y / step) + random.normal(0, 20, x.shape)
                pixels = np.clip(np.stack([wave] * 3, -1), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png", exif=exif)
    return sorted((folder / "test").rglob("*.png"))


@pytest.mark.parametrize(
    ("size", "orientation"),
    [
        pytest.param((32, 32), None, id="the size of the model"),
        pytest.param((150, 201), None, id="another size", marks=pytest.mark.xfail(
            strict=True, raises=AssertionError, reason="a run resizes bilinearly, its saved processor bicubically")),
        pytest.param((32, 32), 6, id="EXIF orientation", marks=pytest.mark.xfail(
            strict=True, raises=AssertionError, reason="a run turns images upright, its saved processor does not")),
    ],
)  # fmt: skip
def test_a_run_is_evaluated_on_what_predict_takes(
    size: tuple[int, int], orientation: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = image_folder(tmp_path / "data", size, orientation)
    evaluated: list[torch.Tensor] = []
    usual = zoo.Model.__call__

    def noted(self: zoo.Model, *args, **batch):
        if not self.training and batch["pixel_values"].shape[0] == len(files):
            evaluated.append(batch["pixel_values"].detach().clone())
        return usual(self, *args, **batch)

    monkeypatch.setattr(zoo.Model, "__call__", noted)
    assert call("vit_cifar", tmp_path / "run", *TINY, f"data={tmp_path / 'data'}") == 0
    processor = zoo.load(tmp_path / "run").preprocess
    pixels, std = processor([str(file) for file in files])["pixel_values"], torch.tensor(processor.std).view(-1, 1, 1)
    apart = ((pixels[:, None] - evaluated[-1][None]) * std * 255).abs().amax((2, 3, 4))  # in gray levels, of all pairs
    assert apart.amin(1).max() < 0.5
