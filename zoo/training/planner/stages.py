"""What each process of a pipeline computes, from the trace of the whole model."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import nn

from zoo.parallel.config import PlanSettings
from zoo.parallel.cuts import LAST
from zoo.parallel.exchanges import Exchange, Held, Sizes, Units, add_up, held_of, parameter_exchanges
from zoo.parallel.tensor import Layout, named_values
from zoo.training.planner.memory import Memory, Process, memory
from zoo.training.planner.trace import Phase, Segment, Trace


@dataclass(frozen=True)
class Stage:
    """The blocks of one stage, by name, and whether it has what is before and behind all blocks."""

    blocks: frozenset[str]
    first: bool
    last: bool


def stages_of(parts: Sequence[range]) -> list[Stage]:
    """The stages whose blocks have these numbers, see `zoo.parallel.cuts.cut_blocks`."""
    last = len(parts) - 1
    return [Stage(frozenset(f"blocks.{i}" for i in part), n == 0, n == last) for n, part in enumerate(parts)]


def stage_trace(trace: Trace, stage: Stage) -> Trace:
    """The segments of a stage for a microbatch, from those of the whole model."""
    found = list(_own(trace.segments, stage))
    if stage.first:
        return replace(trace, segments=tuple(found))
    at = trace.segments.index(found[0])
    # what the stages before it keep, but for the hidden states that this one receives
    lower = trace.segments[at - 1].after - trace.hidden
    shifted = [replace(s, peak=max(0, s.peak - lower), after=max(0, s.after - lower)) for s in found]
    return replace(trace, segments=tuple(shifted))


def _own(segments: Sequence[Segment], stage: Stage) -> Iterator[Segment]:
    """The segments of the blocks of a stage, with those between them."""
    blocks, passed = sum(bool(s.unit) for s in segments) // 2, 0
    before: str | None = None  # the block whose segment was the last one
    for segment in segments:
        if segment.unit:
            passed, before = passed + 1, segment.unit
            if segment.unit in stage.blocks:
                yield segment
        elif passed in (0, 2 * blocks):  # before the first block, in either pass
            if stage.first:
                yield segment
        elif passed == blocks:  # behind the last block, in either pass
            if stage.last:
                yield segment
        elif before in stage.blocks and segment.phase == "forward":
            yield segment


def stage_units(model: nn.Module, layout: Layout | None, stage: Stage) -> dict[str, list[Held]]:
    """The parameters of a stage, as `zoo.parallel.exchanges.units_of` gives those of the model: of its blocks, and
    under "" of what it has before and behind them. What the head shares with the embeddings is in both stages."""
    last = {id(p) for name, p in model.named_parameters(remove_duplicate=False) if name.startswith(LAST)}
    found: dict[str, list[Held]] = {"": []}
    for name, value, module in named_values(model):
        held = held_of(name, value, module, layout)
        if match := re.match(r"(blocks\.\d+)\.", name):
            if match[1] in stage.blocks:
                found.setdefault(match[1], []).append(held)
        elif (stage.first and not name.startswith(LAST)) or (stage.last and id(value) in last):
            found[""].append(held)
    return {name: held for name, held in found.items() if held}


class Turn(NamedTuple):
    """A pass of a microbatch through one of the stages of a process."""

    phase: Phase
    stage: int


def turns(schedule: str, process: int, processes: int, microbatches: int) -> list[Turn]:
    """The passes of a process in the order of `torch.distributed.pipelining`, with the numbers of its own stages."""
    each = 2 if schedule == "interleaved" else 1
    total = each * microbatches
    if schedule == "interleaved":
        a_round = microbatches // max(1, microbatches // processes)
        ahead = min(total, (each - 1) * a_round + 2 * (processes - 1 - process) + 1)
    else:
        a_round = microbatches
        ahead = microbatches if schedule == "gpipe" else min(microbatches, processes - process)
    forward = [Turn("forward", i // a_round % each) for i in range(total)]
    backward = [Turn("backward", each - 1 - i // a_round % each) for i in range(total)]
    order = forward[:ahead]
    for i, turn in enumerate(backward):
        order.append(turn)
        order.extend(forward[ahead + i : ahead + i + 1])
    return order


def idle_share(schedule: str, processes: int, microbatches: int) -> float:
    """Time in which a process waits for others, as a fraction of the time in which it computes (Narayanan et al. 2021,
    https://arxiv.org/abs/2104.04473, section 2.2)."""
    return (processes - 1) / microbatches / (2 if schedule == "interleaved" else 1)


def pipeline_memory(
    plan: PlanSettings, process: Process, traces: Sequence[Trace], order: Sequence[Turn], received: int
) -> Memory:
    """The memory of a process of a pipeline.

    Args:
        plan: The plan.
        process: What it has, with the units of all of its stages.
        traces: The segments of each of its stages for a microbatch.
        order: Its passes.
        received: Bytes of the buffers for what it receives, which are there for all microbatches.
    """
    kept = [[s.after for s in trace.segments if s.phase == "forward"][-1] for trace in traces]
    waiting, accumulates = 0, False
    worst: dict[tuple[Turn, bool], int] = {}
    for turn in order:
        if turn.phase == "backward":
            waiting -= kept[turn.stage]
        worst[turn, accumulates] = max(worst.get((turn, accumulates), 0), waiting)
        if turn.phase == "forward":
            waiting += kept[turn.stage]
        accumulates = accumulates or turn.phase == "backward"
    found = [
        memory(plan, replace(process, waiting=most + received, accumulates=later), traces[turn.stage], turn.phase)
        for (turn, later), most in worst.items()
    ]
    return max(found, key=lambda each: each.total)


def parameter_exchanges_of(
    order: Sequence[Turn], units: Sequence[Units], plan: PlanSettings, sizes: Sizes
) -> list[Exchange]:
    """What FSDP2 or DDP exchange in a step of a process of a pipeline: gradients once, and parameters where a pass does
    not find what the backward pass before it has gathered. Those outside of blocks are gathered once.

    units: of each stage of the process.
    """
    found: list[Exchange] = []
    held = [False] * len(units)
    freed = [{name: part for name, part in own.items() if name} for own in units]
    for turn in order:
        found.extend(() if held[turn.stage] else parameter_exchanges(freed[turn.stage], plan, sizes).forward)
        held[turn.stage] = turn.phase == "backward"
    for own in units:
        if "" in own:
            found.extend(parameter_exchanges({"": own[""]}, plan, sizes).forward)
        found.extend(e for e in parameter_exchanges(own, plan, sizes).backward if e.operation != "all_gather")
    return add_up(found)
