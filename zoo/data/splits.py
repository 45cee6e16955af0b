"""Splits and smaller choices of a data set, by seed, the classes as evenly as they allow."""

import torch
from torch import Tensor

from zoo.utils.keyed_random import seed_for


def even_rows(groups: Tensor, count: int, seed: int) -> Tensor:
    """`count` rows, sorted: a seeded choice that takes as evenly from each of the groups [N] as they allow."""
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed_for(seed, count)))
    turn = torch.empty(len(groups), dtype=torch.int64)
    for group in groups.unique():
        mine = (groups[order] == group).nonzero()[:, 0]
        turn[mine] = torch.arange(len(mine))
    return order[turn.argsort(stable=True)[:count]].sort().values


def held_rows(groups: Tensor, share: float, seed: int) -> Tensor:
    """bool [N]: a seeded choice of `share` of each group, at least one row of each."""
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed_for(seed, len(groups), 1)))
    held = torch.zeros(len(groups), dtype=torch.bool)
    for group in groups.unique():
        mine = order[groups[order] == group]
        held[mine[: max(1, round(share * len(mine)))]] = True
    return held
