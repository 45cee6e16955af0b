"""`zoo.load(folder, labels=[...])` never puts a name on the scores of another class."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peers import TINY_VIT, pixels, randomize

import zoo
from zoo.checkpoints.formats import native
from zoo.models.example_batch import example_batch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = {0: "dog", 1: "cat"}
    options = {name: value for name, value in TINY_VIT.items() if name != "num_labels"}
    config = transformers.ViTConfig(**options, id2label=names, label2id={name: i for i, name in names.items()})
    randomize(transformers.ViTForImageClassification(config)).save_pretrained(tmp_path)
    return tmp_path


def scores(model: zoo.Model) -> dict[str, float]:
    assert model.labels is not None
    with torch.no_grad():
        return dict(zip(model.labels, model(pixel_values=pixels(rows=1))[0].tolist(), strict=True))


def test_names_in_the_order_of_the_file_are_taken(folder: Path) -> None:
    assert scores(zoo.load(folder, labels=["dog", "cat"])) == pytest.approx(scores(zoo.load(folder)))


def test_names_in_another_order_stay_with_their_scores(folder: Path) -> None:
    assert scores(zoo.load(folder, labels=["cat", "dog"])) == pytest.approx(scores(zoo.load(folder)), abs=1e-5)


def test_names_of_other_classes_are_refused_or_reported(folder: Path) -> None:
    try:
        report = zoo.load(folder, labels=["happy", "sad"]).load_report
    except ValueError as error:
        assert "happy" in str(error)
    else:
        assert not report.plain


def test_a_name_twice_is_refused_by_the_row_that_it_moves_to(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'dog' at row 1.*row 0"):
        zoo.load(folder, labels=["dog", "dog"])


def test_some_names_of_the_file_in_other_places_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'cat' at row 0.*row 1"):
        zoo.load(folder, labels=["cat", "fox"])


def test_a_new_name_beside_one_in_its_place_is_reported(folder: Path) -> None:
    model = zoo.load(folder, labels=["dog", "kitten"])
    assert model.labels == ["dog", "kitten"]
    assert "cat is called kitten" in str(model.load_report)


@pytest.mark.parametrize("labels", ["ab", [], ["dog", 3], ["dog"] * 3])
def test_labels_that_are_not_names_or_have_no_classes(labels: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match="labels"):
        zoo.load(folder, labels=labels, num_classes=2)
    with pytest.raises(ValueError, match="labels"):
        zoo.load(folder, labels=labels, head="pool")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deit_tiny_distilled_patch16_224", {"image_size": 32, "patch_size": 8}),
        ("vit_cifar_tiny", {}),
        ("bert_tiny", {"vocab_size": 99, "head": "classify"}),
        ("bert_tiny", {"vocab_size": 99, "head": "token"}),
    ],
    ids=["two heads", "images", "texts", "tokens"],
)
@pytest.mark.parametrize("format", ["zoo", "checkpoint of a run"])
def test_every_row_of_every_classifier_moves(name: str, options: dict[str, Any], format: str, tmp_path: Path) -> None:
    model = zoo.create_model(name, depth=1, width=16, heads=2, num_classes=3, seed=0, **options)
    randomize(model)
    model.labels = ["a", "b", "c"]
    if format == "zoo":
        file = zoo.save(model, tmp_path / "model")
    else:
        file = tmp_path / "last.ckpt"
        state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        torch.save({"zoo": native.describe(model), "state_dict": state}, file)
    loaded = zoo.load(file, labels=["c", "a", "b"])
    batch = example_batch(model)
    with torch.no_grad():
        assert torch.allclose(loaded(**batch), model(**batch)[..., [2, 0, 1]], atol=1e-6)
    assert loaded.labels == ["c", "a", "b"]
    assert not loaded.load_report.plain
