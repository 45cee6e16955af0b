"""The validation set of a recipe: the data's own, else a part of the training set that is not trained on."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from zoo.data.text.dataset import TextDataset
from zoo.training.parse import SettingsError
from zoo.training.recipes.val_split import train_val_split

LABELS = torch.arange(40) % 4


def sets(validation: Any = None) -> Any:
    texts = TextDataset([f"text {i}" for i in range(40)], LABELS)
    return SimpleNamespace(train=texts, validation=validation, test="the test set")


def test_what_is_held_out_is_not_trained_on() -> None:
    train, val = train_val_split(sets(), LABELS, 0.2, 0, "texts")
    assert (len(train), len(val)) == (32, 8) and val.labels.bincount().tolist() == [2, 2, 2, 2]
    assert set(train.texts) | set(val.texts) == set(sets().train.texts) and not set(train.texts) & set(val.texts)


def test_the_datas_own_validation_set_comes_first() -> None:
    own = sets("its validation set")
    assert train_val_split(own, LABELS, 0.2, 0, "texts") == (own.train, "its validation set")


def test_without_a_fraction_the_test_set_validates() -> None:
    whole = sets()
    assert train_val_split(whole, LABELS, 0.0, 0, "texts") == (whole.train, "the test set")
    with pytest.raises(SettingsError, match=r"val_fraction=0\.99 leaves none of 40 texts for training"):
        train_val_split(whole, LABELS, 0.99, 0, "texts")
