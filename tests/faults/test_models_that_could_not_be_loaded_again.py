"""`zoo.save` and `zoo.export` write nothing that `zoo.load` would refuse, and leave the model that was there."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo.preprocessing.tokenizer_training import train

BOTH = pytest.mark.parametrize("save", [zoo.save, zoo.export], ids=["save", "export"])


@pytest.fixture
def model() -> zoo.Model:
    return zoo.create_model("bert_tiny", vocab_size=64, depth=1, head="classify", num_classes=3, seed=0).eval()


def spoil(model: zoo.Model, kind: str) -> None:
    weight: Any = model.get_parameter("head.proj.weight")
    with torch.no_grad():
        if kind in ("nan", "inf"):
            weight[0, 0] = math.nan if kind == "nan" else -math.inf
        else:
            weight.data = weight.data.to(getattr(torch, kind))


@BOTH
@pytest.mark.parametrize("kind", ["nan", "inf", "float8_e4m3fn", "complex64"])
def test_weights(kind: str, save: Callable[..., Path], model: zoo.Model, tmp_path: Path) -> None:
    folder = save(model, tmp_path / "model")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    spoil(model, kind)
    with pytest.raises(ValueError, match=r"head\.proj\.weight"):
        save(model, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_weights_of_two_types(model: zoo.Model, tmp_path: Path) -> None:
    spoil(model, "float16")
    with pytest.raises(ValueError, match="cannot compute an example batch"):
        zoo.save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "labels", ["abc", [1, 2, 3], {0: "a", 1: "b", 2: "c"}, {"a", "b", "c"}, np.array(["a", "b", "c"]), iter("abc"), 3],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_labels_that_are_not_names(labels: Any, model: zoo.Model) -> None:
    with pytest.raises(ValueError, match="expected a list of the names of the classes"):
        model.labels = labels
    assert model.labels is None


def test_labels_as_other_sequences_are_a_list_of_texts(model: zoo.Model, tmp_path: Path) -> None:
    model.labels = tuple(np.array(["a", "b", "c"]))  # type: ignore[assignment]
    assert model.labels == ["a", "b", "c"]
    assert all(type(name) is str for name in model.labels)
    assert zoo.load(zoo.save(model, tmp_path / "model")).labels == ["a", "b", "c"]


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c", "d"]], ids=len)
def test_another_number_of_labels(names: list[str], model: zoo.Model, tmp_path: Path) -> None:
    model.labels, model.preprocess = names, train("wordpiece", ["a b c", "a c"], 64)
    with pytest.raises(ValueError, match=f"{len(names)} names for 3 classes"):
        zoo.save(model, tmp_path / "model")
    with pytest.raises(ValueError, match=f"{len(names)} names for 3 classes"):
        zoo.predict(model, "a b")
