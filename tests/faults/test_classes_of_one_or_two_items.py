"""A small class keeps an item to train on, whatever is held out: else the model could never predict it."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from zoo.data import load_images
from zoo.data.config import TextDataSettings
from zoo.data.splits import Splits, held_out_mask
from zoo.data.text.dataset import TextDataset, groups
from zoo.data.text.load import load_texts
from zoo.utils.errors import DataError


def write_table(file: Path, rows: list[tuple[str, ...]]) -> TextDataSettings:
    file.write_text("text,label\n" + "".join(",".join(row) + "\n" for row in rows))
    return TextDataSettings(name=str(file))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_the_only_row_of_a_class_is_not_held_out(fraction: float) -> None:
    labels = torch.tensor([0] * 20 + [1] * 2 + [2])
    held = held_out_mask(labels, fraction, 0)
    assert held[labels == 0].any() and held[labels == 1].sum() == 1 and not held[labels == 2].any()


def test_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(40)] + [("one", "c"), ("two", "d"), ("three", "d")]
    sets = load_texts(write_table(tmp_path / "texts.csv", rows))
    assert "not tested: c, with a single text each, which is trained on" in capsys.readouterr().err
    assert sets.train.labels.unique().tolist() == [0, 1, 2, 3] and sets.test.labels.unique().tolist() == [0, 1, 3]
    train = sets.with_validation(0.1, 0).train
    assert train.labels.unique().tolist() == [0, 1, 2, 3]


def test_images_of_a_class_of_two(tmp_path: Path) -> None:
    for i in range(22):
        (tmp_path / "ab"[i > 19]).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / "ab"[i > 19] / f"{i}.png")
    sets = load_images(str(tmp_path), size=8).with_validation(0.1, 0)
    assert sets.validation is not None
    assert sets.train.labels.bincount().tolist() == [16, 1] and sets.validation.labels.tolist() == [0, 0]


def test_combinations_of_labels_that_one_row_has_are_split_as_one_group() -> None:
    """Each row has a combination of its own: a tenth of the rows is held out, not all."""
    labels = torch.tensor([[i >> bit & 1 for bit in range(6)] for i in range(60)]).float()
    assert held_out_mask(groups(labels), 0.1, 0).sum() == 6
    twice = torch.cat([labels[:2], labels[:1]])
    assert groups(twice)[0] == groups(twice)[2] != groups(twice)[1]


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"too few texts of each label to hold some out .* \(test=\)"):
        load_texts(write_table(tmp_path / "texts.csv", [("one", "a"), ("two", "b")]))
    texts = TextDataset(["one", "two"], torch.tensor([0, 1]))
    with pytest.raises(DataError, match=r"each class has a single one of the 2 texts .* val_fraction=0"):
        Splits(texts, texts, "two texts", True, "written here").with_validation(0.1, 0)
