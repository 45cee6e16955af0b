"""The random blocks of BigBird's published models, which were trained with one choice of them for each layer and head.

The choice is that of the published implementation (google-research/bigbird) and of transformers in training. It depends
on the layer and on the number of blocks of a text; for three lengths, on the length of the position table, too.
"""

from functools import lru_cache

import numpy as np

OLD_PLANS = (1024, 3072, 4096)  # texts of these lengths see random blocks of their first OLD_PLAN_END tokens
OLD_PLAN_END = 1024


@lru_cache(maxsize=1024)
def random_blocks(blocks: int, heads: int, layer: int, block: int, count: int, max_length: int) -> np.ndarray:
    """The blocks that each block of a text of `blocks` blocks sees at random: [heads, blocks, count], integers.

    The first and the last block, which see all, and places without a choice have 0: all tokens see the first block.
    """
    random = np.random.RandomState(layer)
    result = np.zeros((heads, blocks, count), dtype=np.int64)
    if blocks * block in OLD_PLANS and blocks <= max_length // block:
        for head in range(heads):
            for i in range(1, max_length // block - 1):  # of the longest text, whatever the length of this one
                chosen = random.permutation(old_plan(i, max_length // block, block))[:count]
                if i < blocks - 1:
                    result[head, i, : len(chosen)] = chosen
    elif count:
        end = 2 * count + 5
        for i in range(1, blocks):
            for head in range(heads):
                order = random.permutation(end)
                chosen = order[~np.isin(order, hidden_from(i, end))][:count]
                if i < blocks - 1:
                    result[head, i, : len(chosen)] = chosen
    return result


def old_plan(i: int, blocks: int, block: int) -> np.ndarray:
    """The blocks among which those of block i of a text of `blocks` blocks are chosen. Near the end of the text and of
    these blocks they are not quite all that are outside of the window: the models were trained with this."""
    middle = np.arange(1, blocks - 1)
    last = OLD_PLAN_END // block - 1 if 2 * block < OLD_PLAN_END else blocks - 1
    if i in (1, 2):
        return middle[i + 1 : last]
    if i >= blocks - 3:
        return middle[:last]
    if i - 2 > last or i + 1 == last:
        return middle[: min(i - 2, last)]
    return np.concatenate([middle[: i - 2], middle[i + 1 : last]])


def hidden_from(i: int, end: int) -> list[int]:
    """The blocks below `end` that block i does not choose: its window, the first and the last one."""
    rest = [end - 2] if i == 1 else [1] if i == end - 2 else []
    return [i - 1, i, i + 1, 0, end - 1, *rest]
