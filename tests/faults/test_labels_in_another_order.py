"""`zoo.load(folder, labels=[...])` never puts a name on the scores of another class."""

from pathlib import Path

import pytest
import torch
import transformers
from peers import TINY_VIT, pixels, randomize

import zoo


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


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="names are put on the rows of the head by their place")
def test_names_in_another_order_stay_with_their_scores(folder: Path) -> None:
    assert scores(zoo.load(folder, labels=["cat", "dog"])) == pytest.approx(scores(zoo.load(folder)), abs=1e-5)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="other names are put on a trained head without a notice")
def test_names_of_other_classes_are_refused_or_reported(folder: Path) -> None:
    try:
        report = zoo.load(folder, labels=["happy", "sad"]).load_report
    except ValueError as error:
        assert "happy" in str(error)
    else:
        assert not report.plain
