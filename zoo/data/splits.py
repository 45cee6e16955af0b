"""Seeded, class-balanced subsets and splits of datasets."""

import torch
from torch import Tensor

from zoo.utils.keyed_random import seed_for


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
