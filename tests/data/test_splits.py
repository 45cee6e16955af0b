"""Splits and subsets: a seed decides which rows, and every class has its share."""

import pytest
import torch

from zoo.data.pairs.dataset import PairDataset
from zoo.data.splits import Splits, balanced_rows, held_out_mask, with_test
from zoo.data.text.dataset import TextDataset
from zoo.utils.errors import DataError

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
