"""Training, validation and test split of a dataset; seeded, class-balanced subsets and held-out parts."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor

from zoo.data.repeated import announce_repeated
from zoo.models.config import ProblemType
from zoo.models.load_report import listed
from zoo.utils.console import announce
from zoo.utils.errors import DataError
from zoo.utils.keyed_random import KeyedRandom, seed_for

TEST_FRACTION = 0.1  # held out for testing from a dataset without a test split


class Items(ABC):
    """Base of the datasets in memory: items by row, of which parts are taken.

    Attributes:
        noun: The word for the items in messages.
        smallest_validation: Number of items that a validation split needs at least.
        group_ids: Number of the speaker, author or patient of each item, int64 [N], if whole ones are held out.
        group_option: The option that chose them, for messages.
    """

    noun: ClassVar[str] = "items"
    smallest_validation: ClassVar[int] = 1
    group_ids: Tensor | None = None
    group_option: str = ""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, rows: Tensor) -> Self:
        """The items of these rows, int64 indices."""

    def select(self, rows: Tensor) -> Self:
        """The items of these rows, with their speakers, authors or patients."""
        part = self.take(rows)
        if self.group_ids is not None:
            part.group_ids, part.group_option = self.group_ids[rows], self.group_option
        return part

    def groups(self) -> Tensor:
        """Group of each row, int64 [N], such as its class: what is held out has equal fractions of each group."""
        return torch.zeros(len(self), dtype=torch.int64)

    def key_hashes(self) -> Tensor | None:
        """64 random bits of each row, int64 [N], if its key decides whether it is held out; see `held_out_by_key`."""
        return None

    def contents(self) -> Sequence[Hashable] | None:
        """What a model reads of each row, by which a test item that is trained on is found; None: not looked for."""
        return None

    def subset(self, count: int, *, seed: int = 0) -> Self:
        """A seeded subset of `count` items, balanced over the groups; 0 keeps all."""
        return self if not count or count >= len(self) else self.select(balanced_rows(self.groups(), count, seed))


D = TypeVar("D", bound=Items)


@dataclass
class Splits(Generic[D]):
    """Splits of a dataset.

    Attributes:
        train, test: Training and test split.
        name: Name of the dataset.
        real: False for synthetic data, whose metrics say nothing about real data.
        source: Origin of the data: a path, a Hub repository, or a description.
        validation: None if the dataset has no validation split; see `with_validation`.
        classes: Class names, if the items have classes; for regression the name of the label column.
        problem_type: `single_label_classification`, `multi_label_classification` or `regression`, of labeled items.
        notice: Message for the user about the choice of the dataset, if any.
        test_name: What the test items are from, if not the test split of the dataset.
        skipped: One message for each skipped item.
        notes: What the user should know about the labels, one sentence each.
    """

    train: D
    test: D
    name: str
    real: bool
    source: str
    _: KW_ONLY
    validation: D | None = None
    classes: list[str] = field(default_factory=list)
    problem_type: ProblemType = "single_label_classification"
    notice: str | None = None
    test_name: str = ""
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def parts(self) -> list[D]:
        """The splits that there are: training, validation, test."""
        return [part for part in (self.train, self.validation, self.test) if part is not None]

    def with_validation(self, fraction: float, seed: int) -> Self:
        """Splits with `validation` set: the dataset's own, else a part of `train`, else `test`.

        Args:
            fraction: Fraction of the training items to hold out, at least one of each group; 0 validates on the test
                split. Not used by a dataset with a validation split.
            seed: Decides which items are held out.

        Raises: DataError if no item is left to train on, or none can be held out.
        """
        if self.validation is not None:
            return self
        if not fraction:
            return replace(self, validation=self.test)
        held = held_out(self.train, fraction, seed, "validation")
        _check_validation(held, fraction, self.train)
        train, validation = partition(self.train, held)
        return replace(self, train=train, validation=validation)

    def limited(self, max_train_samples: int, max_test_samples: int, seed: int) -> Self:
        """Splits with at most so many items, a seeded subset; 0 keeps all."""
        train, test = self.train.subset(max_train_samples, seed=seed), self.test.subset(max_test_samples, seed=seed)
        return replace(self, train=train, test=test)


def _check_validation(held: Tensor, fraction: float, train: Items) -> None:
    """Raise DataError if a split (True: validation) has too few rows on one side."""
    count, noun, least = len(held), train.noun, train.smallest_validation
    if held.all():
        raise DataError(f"val_fraction={fraction} leaves none of {count} {noun} for training")
    if not held.any() and least == 1:
        raise DataError(f"val_fraction={fraction}: each class has a single one of the {count} {noun} to train on, so "
                        f"that none can be held out for validation; add some, or set val_fraction=0 to validate on "
                        f"the test set")  # fmt: skip
    if held.sum() < least:
        raise DataError(
            f"val_fraction={fraction} of {count} training {noun}: expected at least {least} {noun} for validation, "
            f"and some for training"
        )


def partition(data: D, held: Tensor) -> tuple[D, D]:
    """(the rows where `held` [N] is False, those where it is True)."""
    return data.select((~held).nonzero()[:, 0]), data.select(held.nonzero()[:, 0])


def with_test(parts: Mapping[str, D], seed: int, problem: str, classes: Sequence[str] = ()) -> dict[str, D]:
    """The parts of a dataset with a `test` part: the dataset's own, or else 10 % of each group of `train`.

    Args:
        parts: Parts by split, including `train`.
        seed: Decides which items are held out.
        problem: Message of the error if none can be held out.
        classes: Names of the groups; those with a single item, which is trained on, are announced.

    Raises: DataError if no item can be held out.
    """
    if "test" in parts:
        trained, tested = (parts[split].contents() for split in ("train", "test"))
        if trained is not None and tested is not None:
            announce_repeated(trained, tested, parts["test"].noun)
        return dict(parts)
    groups = parts["train"].groups()
    held = held_out(parts["train"], TEST_FRACTION, seed, "test")
    if not held.any():
        raise DataError(problem)
    if classes and parts["train"].group_ids is None and (alone := set(groups.tolist()) - set(groups[held].tolist())):
        single, noun = listed([classes[i] for i in sorted(alone)]), parts["train"].noun.removesuffix("s")
        announce(f"not tested: {single}, with a single {noun} each, which is trained on")
    train, test = partition(parts["train"], held)
    return {**parts, "train": train, "test": test}


def held_out(data: Items, fraction: float, seed: int, split: str) -> Tensor:
    """bool [N]: True for the rows to hold out: a fraction of each class, or whole speakers, authors or patients.

    Of data in shards, the key of an item decides. Raises: DataError if there are too few of these.
    """
    if (hashes := data.key_hashes()) is not None:
        return held_out_by_key(hashes, fraction, split)
    if data.group_ids is None:
        return held_out_mask(data.groups(), fraction, seed)
    labels: Tensor | None = getattr(data, "labels", None)
    if labels is None or labels.shape != (len(data),) or labels.is_floating_point():  # they are not classes of items
        labels = torch.zeros(len(data), dtype=torch.int64)
    held = held_out_groups(data.group_ids, labels, fraction, seed)
    if not held.any():
        count = len(data.group_ids.unique())
        why = f"there {'is 1' if count == 1 else f'are {count}'} for training and {split}"
        why = why if count < 2 else f"each of the {count} has a class that no other one has"
        away = ", or set val_fraction=0 to validate on the test set" if split == "validation" else ""
        raise DataError(f"{data.group_option}: none of the groups can be held out for {split}: {why}; add {data.noun} "
                        f"of others{away}")  # fmt: skip
    return held


def held_out_by_key(hashes: Tensor, fraction: float, split: str) -> Tensor:
    """bool [N]: True for about a `fraction` of the rows, at least one of several, each decided by its own hash.

    So an item stays in its split when others are added. hashes: 64 random bits of each key, int64 [N].
    """
    values = values_of_keys(hashes, split)
    held = values < fraction
    if not held.any() and len(held) > 1:
        held[values.argmin()] = True
    return held


def values_of_keys(hashes: Tensor, split: str) -> Tensor:
    """A number from 0 to 1 for each key, float [N]: the keys with the smallest ones are held out for `split`."""
    return KeyedRandom(0, 0, hashes).uniform(f"held out for {split}")


def held_out_groups(group_ids: Tensor, classes: Tensor, fraction: float, seed: int) -> Tensor:
    """bool [N]: True for the rows of a seeded choice of whole groups, about a `fraction` of all rows.

    Every class keeps a row to train on, and at least one group is held out if any can be. The splitters of
    scikit-learn take a fraction of the groups instead of the rows, or may hold out all rows of a class.
    """
    names, group = group_ids.unique(return_inverse=True)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed_for(seed, len(names), 2)))
    held, target = torch.zeros(len(group), dtype=torch.bool), fraction * len(group)
    left = torch.bincount(classes)
    count = 0
    for number in order.tolist():
        if count >= target and count:
            break  # every further group is one too many
        rows = group == number
        without = left - torch.bincount(classes[rows], minlength=len(left))
        closer = not count or abs(count + int(rows.sum()) - target) < abs(count - target)
        if closer and not ((without == 0) & (left > 0)).any():
            held, left = held | rows, without
            count = int(held.sum())
    return held


def balanced_rows(groups: Tensor, count: int, seed: int) -> Tensor:
    """Indices of `count` rows, sorted: a seeded subset, balanced over `groups` [N] as far as their sizes allow."""
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed_for(seed, count)))
    rank = torch.empty(len(groups), dtype=torch.int64)  # of each row within its group
    for group in groups.unique():
        members = (groups[order] == group).nonzero()[:, 0]
        rank[members] = torch.arange(len(members))
    return order[rank.argsort(stable=True)[:count]].sort().values


def held_out_mask(groups: Tensor, fraction: float, seed: int) -> Tensor:
    """bool [N]: True for a seeded `fraction` of the rows of each group, at least one row per group.

    The only row of a group stays: a class without a row to train on would be a class that no model can predict.
    """
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed_for(seed, len(groups), 1)))
    held = torch.zeros(len(groups), dtype=torch.bool)
    for group in groups.unique():
        members = order[groups[order] == group]
        if len(members) > 1:
            held[members[: max(1, round(fraction * len(members)))]] = True
    return held
