"""Splits and subsets: a seed decides which rows, and every class has its share."""

import torch

from zoo.data.splits import balanced_rows, held_out_mask

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
