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
    check_held_out(held, fraction, items)
    return sets.train.take((~held).nonzero()[:, 0]), sets.train.take(held.nonzero()[:, 0])


def check_held_out(held: Tensor, fraction: float, items: str) -> None:
    """Raise SettingsError if a split (True: validation) has no rows on one side."""
    if held.all():
        raise SettingsError(f"val_fraction={fraction} leaves none of {len(held)} {items} for training")
    if not held.any():
        raise SettingsError(f"val_fraction={fraction}: each class has a single one of the {len(held)} {items} to train "
                            f"on, so that none can be held out for validation; add some, or set val_fraction=0 to "
                            f"validate on the test set")  # fmt: skip
