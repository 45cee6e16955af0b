"""The recipe of image tokenizers from its command line: what it leaves behind, what it refuses, and that it resumes."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from recipe_calls import RESUMED, caller, check_resumed_run, result

import zoo
from zoo.data import UnlabeledImageSettings, load_unlabeled_images
from zoo.data.synthetic.object_scenes import SPLITS
from zoo.models.dvae import DiscreteVAE
from zoo.preprocessing.image import ImageProcessor
from zoo.training.recipes.image_config import TokenizerSettings
from zoo.utils.errors import DataError

call = caller({"image_tokenizer": TokenizerSettings})
TINY = ("widths=[8,12]", "depth=1", "vocab_size=16", "image_size=24", "batch_size=8", "max_train_samples=40",
        "max_test_samples=6", "accelerator=cpu", "precision=fp32", "progress=false", "log_every=1")  # fmt: skip


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPLITS, "validation", 8)


def test_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("image_tokenizer", tmp_path / "run", *TINY, "steps=2") == 0
    said = capsys.readouterr().out
    for text in ("Synthetic data", "generated scenes", "40 training and 6 test items", "vqvae_tiny", "test psnr",
                 "codebook_use", "m.tokenize("):  # fmt: skip
        assert text in said, text
    assert "attention.png" not in said
    folder = tmp_path / "run"
    assert {"curves.png", "reconstructions.png", "sample.png", "model"} <= {p.name for p in folder.iterdir()}
    assert {"test_loss", "test_psnr", "test_codebook_use", "test_perplexity"} == result(folder)["result"].keys()
    model = zoo.load(folder)
    assert isinstance(model, DiscreteVAE) and model.grid == (6, 6) and not result(folder)["real"]
    ids = model.tokenize(model.preprocess(folder / "sample.png")["pixel_values"])
    assert model.preprocess.to_images(model.decode(ids)).shape == (1, 3, 24, 24)


@pytest.mark.parametrize("model", ["vqvae_tiny", "dvae_tiny"])
def test_it_resumes_bit_for_bit(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_resumed_run(
        lambda folder: call("image_tokenizer", folder, *TINY, f"model={model}", *RESUMED), tmp_path, monkeypatch
    )


def test_a_folder_of_images(tmp_path: Path) -> None:
    for i in range(12):
        file = tmp_path / "photos" / ("more" if i % 2 else "") / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20 + i), (20 * i, 0, 0)).save(file)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    settings = UnlabeledImageSettings(name=str(tmp_path / "photos"))
    images = load_unlabeled_images(settings, processor=ImageProcessor(size=(16, 16)))
    assert len(images.train) + len(images.test) == 12 and len(images.test) == 1
    assert images.train.images.shape[1:] == (3, 16, 16)
    found = torch.cat([images.train.images, images.test.images])[:, 0, 0, 0]
    assert sorted(found.tolist()) == [20 * i for i in range(12)]
    for part in ("train", "test"):
        (tmp_path / "split" / part).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "split" / part / f"{part}.png")
    images = load_unlabeled_images(UnlabeledImageSettings(name=str(tmp_path / "split")))
    assert len(images.train) == len(images.test) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images: expected files of"):
        load_unlabeled_images(UnlabeledImageSettings(name=str(tmp_path / "empty")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["image_size=30"], "image_size=30 is not a multiple of 4"),
        (["model=vit_cifar_tiny"], "expected an image tokenizer|head='decoder'|no field"),
        (["mixup=0.2"], "blend two images"),
        (["data=no_such_data"], "no_such_data"),
        (["kl_weight=-1"], "kl_weight=-1"),
        (["gradient_checkpointing=true"], "no transformer blocks to recompute"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {word.partition("=")[0] for word in words}
    others = [word for word in TINY if word.partition("=")[0] not in given]
    assert call("image_tokenizer", tmp_path / "run", *others, "steps=1", *words) == 2
    said = capsys.readouterr().err.strip()
    assert re.search(message, said) and "Traceback" not in said
