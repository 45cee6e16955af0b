"""The validation set of a recipe: the data's own one, or a part of the training set."""

from typing import Any

from torch import Tensor

from zoo.data.splits import held_out_mask
from zoo.training.parse import SettingsError


def train_val_split(sets: Any, groups: Tensor, fraction: float, seed: int, items: str) -> tuple[Any, Any]:
    """(training set, validation set): the data's own validation set, else a fraction of the training set, else the
    test set.

    sets: has train, validation and test; `train.take(rows)` is a part of the training set. groups: int64 [N], the
    group of each training row, of which equal fractions are held out. items: for the message. Raises: SettingsError.
    """
    if sets.validation is not None:
        return sets.train, sets.validation
    if not fraction:
        return sets.train, sets.test
    held = held_out_mask(groups, fraction, seed)
    if held.all():
        raise SettingsError(f"val_fraction={fraction} leaves none of {len(sets.train)} {items} for training")
    return sets.train.take((~held).nonzero()[:, 0]), sets.train.take(held.nonzero()[:, 0])
