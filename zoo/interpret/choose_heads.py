"""Which heads of a model stay: those with the greatest sum of scores, under the rules of heads that share keys."""

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.nn.core import CoreSpec

Option = tuple[float, tuple[int, ...]]  # the sum of the scores of heads, and the heads


def options_of(spec: CoreSpec, scores: Tensor) -> dict[int, Option]:
    """{number of heads: the best so many heads} of one layer, for the numbers that it can have; scores [H].

    Groups of query heads that share keys and values leave as a whole, or keep equally many heads: the best choice of so
    many groups, and of so many heads in each of these.
    """
    shared, values = spec.heads // spec.kv_heads, scores.tolist()
    best: dict[int, Option] = {}
    for each in range(1, shared + 1):
        groups = []
        for first in range(0, spec.heads, shared):
            order = sorted(range(first, first + shared), key=lambda head: (-values[head], head))[:each]
            groups.append((sum(values[head] for head in order), order))
        groups.sort(key=lambda group: -group[0])
        for count in range(1, spec.kv_heads + 1):
            heads = sorted(head for _, group in groups[:count] for head in group)
            total = sum(values[head] for head in heads)
            if each * count not in best or total > best[each * count][0]:
                best[each * count] = total, tuple(heads)
    return best


def choose_in_each_layer(
    specs: Mapping[str, CoreSpec], scores: Mapping[str, Tensor], counts: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """{layer: its heads that stay}: at most `counts` of them, as many as it can have."""
    chosen = {}
    for name, spec in specs.items():
        options = options_of(spec, scores[name])
        chosen[name] = options[max(number for number in options if number <= counts[name])][1]
    return chosen


def choose_in_all_layers(
    specs: Mapping[str, CoreSpec], scores: Mapping[str, Tensor], count: int
) -> dict[str, tuple[int, ...]]:
    """{layer: its heads that stay}: at most `count` in all layers together, at least one in each.

    Of all choices that have the most heads, one with the greatest sum of scores, by dynamic programming over layers.
    """
    options = {name: options_of(spec, scores[name]) for name, spec in specs.items()}
    best = torch.full((count + 1,), -torch.inf, dtype=torch.float64)  # of so many heads in the layers so far
    best[0] = 0.0
    taken = []
    for name in specs:
        after, used = torch.full_like(best, -torch.inf), torch.zeros(count + 1, dtype=torch.long)
        for number, (value, _) in options[name].items():
            if number <= count:
                sums = torch.full_like(best, -torch.inf)
                sums[number:] = best[: count + 1 - number] + value
                better = sums > after
                after, used = torch.where(better, sums, after), torch.where(better, number, used)
        best = after
        taken.append(used)
    left = int((best > -torch.inf).nonzero().max())
    chosen = {}
    for name, used in zip(reversed(list(specs)), reversed(taken), strict=True):
        number = int(used[left])
        chosen[name] = options[name][number][1]
        left -= number
    return {name: chosen[name] for name in specs}
