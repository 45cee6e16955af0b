"""Where a model is cut into the stages of a pipeline, and what cannot be cut."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from zoo.nn.heads import WeightedLayerSum
from zoo.nn.stack import Stack

LAST = ("blocks.norm.", "head.")  # what the last stage has beside its blocks
SCHEDULES = ("gpipe", "1f1b", "interleaved")


def check_model(model: nn.Module) -> None:
    """Raise ValueError, by its name, for a model that is not a single stack of blocks."""
    name = type(model).__name__
    if "edge_index" in getattr(model, "inputs", ()):
        raise ValueError(
            f"{name} computes all graphs of a batch as one, which has no rows that microbatches of a pipeline could "
            "divide: use data= or shard= instead of pipeline="
        )
    stacks = [path for path, module in model.named_modules() if isinstance(module, Stack)]
    if not isinstance(getattr(model, "blocks", None), Stack):
        has = f"has the stacks {', '.join(stacks)}" if stacks else "has no stack of blocks"
        raise ValueError(
            f"{name} {has}; a pipeline needs one stack `blocks`, through which all hidden states pass: use shard= or "
            "tensor= instead of pipeline="
        )
    if others := [path for path in stacks if path != "blocks" and not path.startswith(("blocks.", "head."))]:
        raise ValueError(
            f"{name} has the stacks {', '.join(others)} beside `blocks`; a pipeline needs one stack, through which all "
            "hidden states pass: use shard= instead of pipeline="
        )
    if hasattr(model, "truncate"):
        raise ValueError(
            f"{name} shortens a batch to its longest text, so that microbatches have no common shape for a pipeline: "
            "use shard= or tensor= instead of pipeline="
        )
    head = getattr(model, "head", None)
    if isinstance(head, WeightedLayerSum) and head.mix is not None:
        raise ValueError(
            f"{name} with layer_sum=True reads the outputs of all layers, which a pipeline does not bring together: "
            "use shard= or tensor= instead of pipeline="
        )


def check_schedule(schedule: str, microbatches: int, ranks: int, each: int) -> None:
    """Raise ValueError for numbers that do not fit a schedule."""
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule={schedule!r}: expected one of {', '.join(SCHEDULES)}")
    if microbatches < 1:
        raise ValueError(f"microbatches={microbatches}: expected at least 1")
    if each < 1 or (each > 1) != (schedule == "interleaved"):
        expected = "2 or more" if schedule == "interleaved" else "1"
        raise ValueError(f"stages_per_process={each} with schedule={schedule!r}: expected {expected}")
    if schedule == "1f1b" and microbatches < ranks:
        raise ValueError(
            f"microbatches={microbatches} with schedule='1f1b' and pipeline={ranks}: choose at least {ranks}, or "
            "schedule='gpipe'"
        )
    if schedule == "interleaved" and microbatches % max(1, microbatches // ranks):
        raise ValueError(
            f"microbatches={microbatches} with schedule='interleaved' and pipeline={ranks}: choose a multiple of "
            f"{ranks}, such as {ranks * -(-microbatches // ranks)}"
        )


def cut_blocks(model: nn.Module, stages: int, cuts: Sequence[int] | None = None) -> list[range]:
    """The numbers of the blocks of each stage.

    Args:
        model: A model with one stack of blocks.
        stages: Number of stages.
        cuts: The first block of each stage but the first, such as (4, 8) for three stages. None balances the numbers of
            parameters: the largest stage, with the front end in the first one and the head in the last, is as small as
            possible.

    Raises: ValueError for fewer blocks than stages, and for cuts that are not increasing numbers of blocks.
    """
    blocks: Any = model.blocks
    depth = len(blocks)
    if depth < stages:
        raise ValueError(
            f"{depth} blocks cannot be cut into {stages} stages, each of which needs one: choose pipeline={depth} or "
            "less, or schedule='1f1b', which has one stage for each process"
        )
    if cuts is not None:
        edges = [0, *cuts, depth]
        if len(cuts) != stages - 1 or any(a >= b for a, b in pairwise(edges)):
            raise ValueError(
                f"cuts={tuple(cuts)}: expected {stages - 1} increasing numbers from 1 to {depth - 1}, the first block "
                f"of each of {stages} stages but the first"
            )
        return [range(a, b) for a, b in pairwise(edges)]
    costs = [count(block.parameters()) for block in blocks]
    head = count(p for name, p in model.named_parameters(remove_duplicate=False) if name.startswith(LAST))
    front = [p for name, p in model.named_parameters() if not name.startswith(("blocks.", "head."))]
    costs[0], costs[-1] = costs[0] + count(front), costs[-1] + head
    return balanced(costs, stages)


def count(parameters: Any) -> int:
    return sum(p.numel() for p in parameters)


def balanced(costs: Sequence[int], parts: int) -> list[range]:
    """Consecutive parts of which the most costly one costs as little as possible, none of them empty."""
    sums = [0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    best = {(0, 0): (0, 0)}  # (parts, items) -> (cost of the most costly part, start of the last part)
    for part in range(1, parts + 1):
        for stop in range(part, len(costs) - (parts - part) + 1):
            starts = [start for start in range(part - 1, stop) if (part - 1, start) in best]
            best[part, stop] = min((max(best[part - 1, start][0], sums[stop] - sums[start]), start) for start in starts)
    ranges, stop = [], len(costs)
    for part in range(parts, 0, -1):
        start = best[part, stop][1]
        ranges.append(range(start, stop))
        stop = start
    return ranges[::-1]
