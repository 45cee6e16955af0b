"""Training from pretrained weights takes their image size, and keeps the mean and std that they were trained with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from recipe_calls import caller

import zoo
from zoo.data import load_images
from zoo.tasks import ClassificationTask
from zoo.training.config import ImageSettings

call = caller({"vit_cifar": ImageSettings})
SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 48,
    "patch_size": 8, "id2label": {0: "dog", 1: "cat"}, "label2id": {"dog": 0, "cat": 1},
}  # fmt: skip
QUIET = ("batch_size=8", "steps=1", "accelerator=cpu", "precision=fp32", "plots=false", "progress=false")


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    """The command line: two classes of images of one color and noise, and a ViT for images of 48 x 48 pixels."""
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 3)):
        for name, color in (("cat", (200, 60, 60)), ("dog", (60, 60, 200))):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(np.array(color) + random.normal(0, 25, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{i}.png")
    torch.manual_seed(0)
    transformers.ViTForImageClassification(transformers.ViTConfig(**SHAPE)).save_pretrained(tmp_path / "source")
    transformers.ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(tmp_path / "source")
    return (*QUIET, f"data={tmp_path / 'data'}", f"model.source={tmp_path / 'source'}")


def test_the_size_of_the_weights(words: tuple[str, ...], tmp_path: Path) -> None:
    assert call("vit_cifar", tmp_path / "run", *words) == 0
    assert zoo.load(tmp_path / "run").preprocess.size == (48, 48)


def test_the_statistics_of_the_weights(words: tuple[str, ...], tmp_path: Path) -> None:
    assert call("vit_cifar", tmp_path / "run", *words, "size=48") == 0
    processor, own = zoo.load(tmp_path / "run").preprocess, zoo.load(tmp_path / "source").preprocess
    assert processor.mean == pytest.approx(own.mean) and processor.std == pytest.approx(own.std)


def run_of(tmp_path: Path, words: tuple[str, ...], source: str, *more: str) -> tuple[int, Path]:
    """(exit status, run folder) of the recipe with another folder of weights, or with `model=` of a new model."""
    option = source if source.startswith("model=") else f"model.source={tmp_path / source}"
    return call("vit_cifar", tmp_path / f"run_{len(more)}", *words[:-1], option, *more), tmp_path / f"run_{len(more)}"


def folder_of(kind: str, folder: Path) -> None:
    if kind == "transformers without a head":
        transformers.ViTModel(transformers.ViTConfig(**SHAPE)).save_pretrained(folder)
        transformers.ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder)
    elif kind == "timm":
        shape = {"img_size": 48, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 5}
        model = timm.create_model("vit_tiny_patch16_224", **shape)
        timm.models.save_for_hf(model, folder, model_args=shape)
    else:
        channels = 1 if kind == "gray" else 3
        model = zoo.create_model("vit_cifar_tiny", width=16, depth=1, heads=2, image_size=48, patch_size=8,
                                 in_chans=channels, seed=0)  # fmt: skip
        model.preprocess = replace(model.preprocess, mean=(0.3,), std=(0.2,), interpolation="bilinear")
        zoo.save(model, folder)


@pytest.mark.parametrize("kind", ["transformers without a head", "timm", "zoo", "gray"])
def test_folders_of_every_kind(kind: str, words: tuple[str, ...], tmp_path: Path) -> None:
    folder_of(kind, tmp_path / "weights")
    code, folder = run_of(tmp_path, words, "weights")
    model, own = zoo.load(folder), zoo.load(tmp_path / "weights").preprocess
    assert code == 0 and model.preprocess == own and own.size == (48, 48) and model.labels == ["cat", "dog"]


def save_source(folder: Path, classes: tuple[str, ...], **more: Any) -> None:
    names = {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}
    transformers.ViTForImageClassification(transformers.ViTConfig(**SHAPE | names | more)).save_pretrained(folder)


def test_a_head_for_other_names_is_replaced_and_printed(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_source(tmp_path / "source", ("dog", "fox", "cat"))
    assert run_of(tmp_path, words, "source", "lr=1e-12")[0] == 0
    printed = capsys.readouterr().out
    assert "new, for 2 classes: cat, dog; it replaces that for 3 classes (dog, fox, cat)" in printed
    assert "images are normalized with its own mean (0.500, 0.500, 0.500)" in printed


def test_a_head_where_there_was_none_replaces_nothing(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_of("transformers without a head", tmp_path / "weights")
    assert run_of(tmp_path, words, "weights")[0] == 0
    assert "new, for 2 classes: cat, dog\n" in capsys.readouterr().out


@pytest.mark.parametrize("classes", [("cat", "dog"), ("dog", "cat")])
def test_a_head_for_the_same_names_is_kept(
    classes: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever their order: each row of the weights stays with its name."""
    save_source(tmp_path / "source", classes)
    code, folder = run_of(tmp_path, words, "source", "lr=1e-12")
    source, model = zoo.load(tmp_path / "source"), zoo.load(folder)
    assert code == 0 and "new, for" not in capsys.readouterr().out and model.labels == ["cat", "dog"]
    pixels = torch.randn(2, 3, 48, 48)
    rows = [classes.index(name) for name in model.labels]
    assert torch.allclose(model(pixels), source(pixels)[:, rows], atol=1e-5)


def test_a_multi_label_classifier_becomes_a_single_label_one(words: tuple[str, ...], tmp_path: Path) -> None:
    """Folders have one class for an image: the run measures, and predict gives, probabilities that sum to 1."""
    save_source(tmp_path / "source", ("cat", "dog"), problem_type="multi_label_classification")
    code, folder = run_of(tmp_path, words, "source")
    assert code == 0
    scores = zoo.predict(zoo.load(folder), tmp_path / "data/test/cat/0.png")
    assert sum(score for _, score in scores) == pytest.approx(1)


def test_the_statistics_of_the_data_on_request(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, folder = run_of(tmp_path, words, "source", "statistics=data")
    assert code == 0 and "of the training images, not its own mean (0.500" in capsys.readouterr().out
    sets = load_images(str(tmp_path / "data"), processor=zoo.load(tmp_path / "source").preprocess)
    assert zoo.load(folder).preprocess.mean == pytest.approx(sets.mean)


def test_another_size_of_the_weights(words: tuple[str, ...], tmp_path: Path) -> None:
    code, folder = run_of(tmp_path, words, "source", "image_size=64")
    assert code == 0 and zoo.load(folder).preprocess.size == (64, 64)
    assert run_of(tmp_path, words, "source", "image_size=64", "size=64")[0] == 0


def test_a_new_model_of_another_size(words: tuple[str, ...], tmp_path: Path) -> None:
    shape = ("width=16", "depth=1", "heads=2", "patch_size=56")
    code, folder = run_of(tmp_path, words, "model=vit_tiny_patch16_224", *shape)
    sets = load_images(str(tmp_path / "data"), size=224)
    processor = zoo.load(folder).preprocess
    assert code == 0 and processor.size == (224, 224) and processor.mean == pytest.approx(sets.mean)


def test_a_data_set_of_small_images(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("TRAIN", "TEST"):
        monkeypatch.setattr(f"zoo.data.synthetic.shapes.{name}", 40)
    words = (*(word for word in words[:-2] if word != "plots=false"), "data=synthetic", "")
    code, folder = run_of(tmp_path, words, "source")
    assert code == 0 and zoo.load(folder).preprocess.size == (48, 48) and (folder / "attention.png").exists()
    zoo.predict(zoo.load(folder), folder / "sample.png")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("zoo", ("size=32",), "size=32, but the model takes images of 48 x 48 pixels: omit size="),
        ("text", (), "is a bert model: expected an image model"),
        ("five channels", (), "in_chans=5: the images of this recipe have 1 channel"),
        ("no processor", ("statistics=model",), "has no mean and std of its own; use statistics=data"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    kind: str,
    options: tuple[str, ...],
    message: str,
    words: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if kind == "text":
        config = transformers.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=99)
        transformers.BertModel(config).save_pretrained(tmp_path / "weights")
    else:
        folder_of("zoo", tmp_path / "weights")
        model = zoo.load(tmp_path / "weights", **({"in_chans": 5} if kind == "five channels" else {}))
        model.preprocess = None if kind == "no processor" else model.preprocess
        zoo.save(model, tmp_path / "weights")
    code, folder = run_of(tmp_path, words, "weights", *options)
    assert code == 2 and message in capsys.readouterr().err and not folder.exists()


def test_dropout_is_on_in_training(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`zoo.load` returns a model in evaluation mode, and Lightning keeps the mode of a model."""
    modes: list[bool] = []
    usual = ClassificationTask.training_step

    def noted(self: ClassificationTask, *args: Any) -> Any:
        modes.append(self.model.training and self.model.blocks.training)
        return usual(self, *args)

    monkeypatch.setattr(ClassificationTask, "training_step", noted)
    assert run_of(tmp_path, words, "source", "drop_path=0.5")[0] == 0
    assert modes == [True]


def test_a_run_from_weights_resumes(words: tuple[str, ...], tmp_path: Path) -> None:
    long = ("model.drop_path=0.1", "epochs=4", "checkpoint_every=1")
    words = tuple(word for word in words if word != "steps=1")
    whole = tmp_path / "whole"
    assert call("vit_cifar", whole, *words, *long) == 0
    cut = tmp_path / "cut"
    assert call("vit_cifar", cut, *words, *long, "max_minutes=0.00001") == 0
    stopped = json.loads((cut / "metrics.json").read_text())
    assert not stopped["finished"] and stopped["steps"] < 8
    assert call("vit_cifar", cut, *words, *long) == 0
    assert zoo.load(whole).preprocess == zoo.load(cut).preprocess
    before, after = (
        torch.load(next((run / "checkpoints").glob("last*")), weights_only=True)["state_dict"] for run in (whole, cut)
    )
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
