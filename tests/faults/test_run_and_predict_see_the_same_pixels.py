"""The images that a run is evaluated on are, pixel for pixel, what its saved model makes of the same files."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from recipe_calls import caller

import zoo
from zoo.data import Augment, AugmentSettings, load_images
from zoo.data.config import PairDataSettings
from zoo.data.image.decode import decode_image
from zoo.data.keyed_batches import Keys
from zoo.data.pairs.datamodule import ImageBatch
from zoo.data.pairs.images import ResizeAndCrop
from zoo.data.pairs.load import load_pairs
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.image_io import read
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
    ("size", "orientation", "options"),
    [
        pytest.param((32, 32), None, (), id="the size of the model"),
        pytest.param((150, 201), None, (), id="another size"),
        pytest.param((150, 201), None, ("image_size=48",), id="another size of the model"),
        pytest.param((150, 201), None, ("in_chans=1",), id="gray"),
        pytest.param((32, 32), 6, (), id="EXIF orientation"),
    ],
)
def test_a_run_is_evaluated_on_what_predict_takes(
    size: tuple[int, int],
    orientation: int | None,
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = image_folder(tmp_path / "data", size, orientation)
    evaluated: list[torch.Tensor] = []
    usual = zoo.Model.__call__

    def noted(self: zoo.Model, *args, **batch):
        if not self.training and batch["pixel_values"].shape[0] == len(files):
            evaluated.append(batch["pixel_values"].detach().clone())
        return usual(self, *args, **batch)

    monkeypatch.setattr(zoo.Model, "__call__", noted)
    assert call("vit_cifar", tmp_path / "run", *TINY, *options, f"data={tmp_path / 'data'}") == 0
    processor = zoo.load(tmp_path / "run").preprocess
    pixels, std = processor([str(file) for file in files])["pixel_values"], torch.tensor(processor.std).view(-1, 1, 1)
    apart = ((pixels[:, None] - evaluated[-1][None]) * std * 255).abs().amax((2, 3, 4))  # in gray levels, of all pairs
    assert apart.amin(1).max() < 0.5


@pytest.mark.parametrize("backend", ["pil", "tensor"])
@pytest.mark.parametrize(
    "options",
    [
        {"fit": "shortest", "resize_to": (40, 40)},
        {"fit": "squash", "interpolation": "bilinear", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)},
        {"fit": "longest", "interpolation": "lanczos"},
        {"rescale": 1.0, "mean": (100.0, 110.0, 120.0), "std": (60.0, 50.0, 40.0)},
        {"channels": 1, "mean": (0.4,), "std": (0.2,)},
    ],
    ids=["crop", "squash", "longest", "pixels up to 255", "gray"],
)
def test_data_of_pairs_and_classes_are_what_the_processor_makes(
    backend: Literal["pil", "tensor"], options: dict[str, Any], tmp_path: Path
) -> None:
    files = image_folder(tmp_path, (50, 67), orientation=6)
    processor = ImageProcessor(**{"size": (32, 32), "mean": (0.5,), "std": (0.25,), "backend": backend} | options)
    expected = processor([str(file) for file in files])["pixel_values"]
    none = AugmentSettings(crop=0, flip=0.0)

    sets = load_images(str(tmp_path), processor=processor)
    augment = Augment(none, *processor.statistics())
    batch = {"pixel_values": sets.test.pixels(torch.arange(len(files))), "labels": sets.test.labels}
    made = augment(batch, seed=0, step=0, train=False)["pixel_values"]
    assert torch.allclose(made, expected, atol=1e-4)

    (tmp_path / "captions.csv").write_text("file,caption\n" + "".join(f"{file},x\n" for file in files))
    data = PairDataSettings(name=str(tmp_path), test=str(tmp_path / "captions.csv"))
    pairs = load_pairs(data, size=(32, 32), fit=ResizeAndCrop(processor)).test
    prepare, rows = ImageBatch(none, processor, torch.ones(len(files), dtype=torch.bool)), torch.arange(len(files))
    raw = {"pixel_values": pairs.items, "index": rows, "epoch": torch.tensor(0)}
    assert torch.allclose(prepare(raw, seed=0, step=0, train=False)["pixel_values"], expected, atol=1e-4)


@pytest.mark.parametrize("options", [{"size": (48, 48)}, {"size": (32, 32), "resize_to": (36, 36)}, {"channels": 1}])
def test_data_sets_of_one_size_are_resized_as_files_are(options: dict[str, Any], tmp_path: Path) -> None:
    processor = ImageProcessor(**{"size": (32, 32), "mean": (0.5,), "std": (0.25,)} | options)
    test = load_images("synthetic", processor=processor, max_train_samples=20, max_test_samples=8).test
    for i, stored in enumerate(test.images):
        Image.fromarray(stored.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    expected = torch.stack([processor.pixels(tmp_path / f"{i}.png") for i in range(8)])
    assert torch.equal(test.pixels(torch.arange(8)), expected)
    assert torch.equal(test.__getitems__(Keys([3, 1], 0))["pixel_values"], expected[[3, 1]])
    assert torch.equal(test[2]["pixel_values"], expected[2])


def test_synthetic_pairs_are_resized_as_files_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TRAIN", "VALIDATION", "TEST"):
        monkeypatch.setattr(f"zoo.data.synthetic.scenes.{name}", 8)
    processor = ImageProcessor(size=(32, 32), channels=1, mean=(0.5,), std=(0.25,))
    colored = load_pairs(size=(32, 32)).test.items
    gray = load_pairs(size=(32, 32), fit=ResizeAndCrop(processor)).test.items
    Image.fromarray(colored[0].permute(1, 2, 0).numpy()).save(tmp_path / "0.png")
    assert torch.equal(gray[0, :1], processor.pixels(tmp_path / "0.png"))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "I;16"])
def test_the_fast_reader_of_png_is_the_reader(mode: str, tmp_path: Path) -> None:
    image_folder(tmp_path, (30, 41))
    file = tmp_path / "test" / "fine" / "0.png"
    with Image.open(file) as opened:
        gray = Image.fromarray(np.array(opened.convert("L")).astype(np.uint16) * 257)
        (gray if mode == "I;16" else opened.convert(mode)).save(file)
    expected = torch.from_numpy(np.array(read(file).convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(decode_image(file), expected)
