"""Splits and subsets: a seed decides which rows, and every class has its share."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from zoo.data.config import TextDataSettings
from zoo.data.image_text.load import load_captions, load_visual_questions
from zoo.data.image_text_config import CaptionDataSettings, VisualQuestionSettings
from zoo.data.pairs.dataset import PairDataset
from zoo.data.repeated import announce_repeated
from zoo.data.splits import Splits, balanced_rows, held_out_mask, with_test
from zoo.data.text.dataset import TextDataset
from zoo.data.text.load import load_texts
from zoo.preprocessing.image import ImageProcessor
from zoo.utils.errors import DataError

PROCESSOR = ImageProcessor(size=(16, 16))

GROUPS = torch.tensor([0] * 40 + [1] * 20 + [2] * 2)


def test_a_fraction_of_each_class_is_held_out_and_at_least_one_row() -> None:
    held = held_out_mask(GROUPS, 0.1, 0)
    assert GROUPS[held].bincount().tolist() == [4, 2, 1]
    assert torch.equal(held, held_out_mask(GROUPS, 0.1, 0))


def test_which_rows_are_held_out_depends_on_the_seed() -> None:
    found = {tuple(held_out_mask(GROUPS, 0.1, seed).nonzero()[:, 0].tolist()) for seed in range(8)}
    assert len(found) == 8
    assert {row for rows in found for row in rows} - set(range(4)) - {40, 41, 60}  # not the first of each class


def test_subsets_are_balanced_as_far_as_the_classes_allow() -> None:
    rows = balanced_rows(GROUPS, 12, 0)
    assert GROUPS[rows].bincount().tolist() == [5, 5, 2] and rows.tolist() == sorted(set(rows.tolist()))
    assert not torch.equal(rows, balanced_rows(GROUPS, 12, 1))


# --- validation and test splits ---------------------------------------------------------------------------------------

LABELS = torch.arange(40) % 4


def dataset(count: int = 40, name: str = "text") -> TextDataset:
    return TextDataset([f"{name} {i}" for i in range(count)], LABELS[:count])


def splits(validation: TextDataset | None = None) -> Splits[TextDataset]:
    return Splits(dataset(), dataset(8, "test"), "texts", True, "written here", validation=validation)


def test_what_is_held_out_is_not_trained_on() -> None:
    whole, held_out = splits(), splits().with_validation(0.2, 0)
    train, val = held_out.train, held_out.validation
    assert val is not None and (len(train), len(val)) == (32, 8) and val.labels.bincount().tolist() == [2, 2, 2, 2]
    assert set(train.texts) | set(val.texts) == set(whole.train.texts) and not set(train.texts) & set(val.texts)
    assert whole.validation is None and held_out.test.texts == whole.test.texts


def test_the_datas_own_validation_set_comes_first() -> None:
    own = splits(dataset(4, "validation"))
    assert own.with_validation(0.2, 0) is own


def test_without_a_fraction_the_test_set_validates() -> None:
    whole = splits().with_validation(0.0, 0)
    assert whole.validation is whole.test and len(whole.train) == 40
    with pytest.raises(DataError, match=r"val_fraction=0\.99 leaves none of 40 texts for training"):
        splits().with_validation(0.99, 0)


def test_a_pair_is_not_validated_alone() -> None:
    pairs = PairDataset(torch.zeros(6, 3, 2, 2), [("a caption",)] * 6)
    with pytest.raises(DataError, match=r"val_fraction=0\.1 of 6 training pairs: expected at least 2 pairs"):
        Splits(pairs, pairs, "pairs", True, "written here").with_validation(0.1, 0)


def test_a_tenth_of_each_class_is_the_test_set_of_data_without_one() -> None:
    parts = with_test({"train": dataset()}, 0, "too few")
    train, test = parts["train"], parts["test"]
    assert test.labels.bincount().tolist() == [1, 1, 1, 1] and not set(train.texts) & set(test.texts)
    assert len(train) == 36 and with_test(parts, 1, "too few") == parts
    with pytest.raises(DataError, match="too few"):
        with_test({"train": dataset(3)}, 0, "too few")


def test_at_most_so_many_items() -> None:
    few = splits(dataset(4, "validation")).limited(8, 2, 0)
    assert (len(few.train), len(few.test), len(few.validation or [])) == (8, 2, 4)
    assert few.train.labels.bincount().tolist() == [2, 2, 2, 2]


def test_test_items_that_are_trained_on_are_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in (("a", b"one"), ("b", b"two"), ("c", b"three"), ("copy", b"three")):
        (tmp_path / name).write_bytes(data)
    files = [tmp_path / name for name in ("a", "b", "c", "copy", "missing")]
    for train, test, said in (
        (["x", "y"], ["z", "y", "y"], "2 of 3 test texts are in the training set, too"),
        (["x"], ["z", "x"], "1 of 2 test texts is in the training set, too"),
        (["x"], ["z"], ""),
        (files[:3], [files[3], files[4]], "1 of 2 test texts is in"),  # the same bytes
        (files[:1], [b"one", b"two"], "1 of 2 test texts is in"),
        (files[:2], [files[2], files[4]], ""),
        ([("a", "b")], [("a", "b"), ("b", "a")], "1 of 2 test texts is in"),
    ):
        announce_repeated(train, test, "texts")
        err = capsys.readouterr().err
        assert said in err if said else not err


def test_captions_questions_and_texts_of_a_test_table_that_are_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(6):
        Image.new("RGB", (16, 16), (40 * i, 9, 9)).save(tmp_path / f"{i}.png")
    tables = {
        "pairs": ("file,caption", "{}.png,number {}"),
        "questions": ("file,question,answer", "{}.png,which?,{}"),
        "texts": ("text,label", "word {},{}"),
    }
    loads: dict[str, Callable[[str, str], object]] = {
        "pairs": lambda name, test: load_captions(CaptionDataSettings(name=name, test=test), processor=PROCESSOR),
        "questions": lambda name, test: load_visual_questions(
            VisualQuestionSettings(name=name, test=test), processor=PROCESSOR
        ),
        "texts": lambda name, test: load_texts(TextDataSettings(name=name, test=test)),
    }
    for kind, (header, row) in tables.items():
        for split, numbers in (("train", (0, 1, 2, 3)), ("new", (4, 5)), ("again", (3, 4, 5))):
            lines = [header, *(row.format(i, "ab"[i % 2]) for i in numbers)]
            (tmp_path / f"{kind}_{split}.csv").write_text("\n".join(lines) + "\n")
        train, new, again = (str(tmp_path / f"{kind}_{split}.csv") for split in ("train", "new", "again"))
        loads[kind](train, new)
        assert "in the training set, too" not in capsys.readouterr().err
        loads[kind](train, again)
        assert "1 of 3 test" in capsys.readouterr().err
