"""Steps of a plan timed on this machine: what one of its processes computes, without what is exchanged.

As many processes as the machine runs at a time compute together, because they share its memory and caches. Each is the
first of an imaginary group, whose exchanges send nothing, so that all else is that of a run: the parts of the weights,
the code that divides them, FSDP2 and AdamW.
"""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from zoo.models.registry import build, family
from zoo.nn.init import initialize
from zoo.parallel.exchanges import units_of
from zoo.parallel.place import parallelize
from zoo.parallel.plan import Plan
from zoo.parallel.tensor import Layout, Ranks
from zoo.tasks.optimizer import adamw
from zoo.training.planner.batch import Batch
from zoo.training.planner.estimate import Estimate, Estimator
from zoo.training.planner.hardware import Clock
from zoo.training.planner.links import memory_of_machine
from zoo.training.planner.stages import idle_share
from zoo.training.planner.timing import StepTime, computing, optimizer_time
from zoo.training.planner.trace import backward, imaginary_processes

STEPS = 6  # timed steps of a plan
WAIT = 600  # seconds for the other processes
TRAINED = 16  # bytes of a parameter with its gradient and two moments


class Timed(NamedTuple):
    """Seconds of a microbatch and of a step of the optimizer, the least of some.

    Attributes:
        together: Forward and backward pass, while the other processes compute as well.
        alone: Forward and backward pass of one process while the others wait; as `together` without a pipeline.
        optimizer: The step of AdamW.
    """

    together: float
    alone: float
    optimizer: float


def with_timed_steps(
    estimator: Estimator, estimates: Sequence[Estimate], processes: int, clock: Clock
) -> list[Estimate]:
    """The estimates with times that are in proportion to those of real steps with few blocks.

    Args:
        estimator: Of the model; of its rates only the ratio of its blocks to the rest is used.
        estimates: Of the plans.
        processes: Of this machine, which compute together, each with its share of the CPUs.
        clock: `time.perf_counter`, or `time.process_time` to leave out the time in which other work has the CPU.
    """
    cases = list(dict.fromkeys(map(case_of, estimates)))
    found = dict(zip(cases, timed_steps(estimator, cases, processes, clock), strict=True))
    return [replace(each, time=scaled(estimator, each, found[case_of(each)])) for each in estimates]


def fits_for_timing(estimator: Estimator, processes: int) -> bool:
    """Whether all processes have memory for the blocks that are timed."""
    return TRAINED * processes * sum(p.numel() for p in estimator.traced.parameters()) < 0.5 * memory_of_machine()


class Case(NamedTuple):
    """What is timed.

    Attributes:
        plan: Without a pipeline.
        rows: Of a microbatch.
        whole_logits: Whether the scores of all tokens are stored.
    """

    plan: Plan
    rows: int
    whole_logits: bool


def case_of(estimate: Estimate) -> Case:
    """What is timed for a plan: of a pipeline all stages in one, of which each has its share of FLOPs and bytes."""
    plan = estimate.plan
    if plan.pipeline == 1:
        return Case(plan, estimate.rows, False)
    # FSDP2 gathers and sums for all microbatches at once
    whole = replace(plan, pipeline=1, schedule="1f1b", microbatches=None, data=1, shard=1, mixed_precision=None)
    return Case(whole, estimate.rows, True)


def scaled(estimator: Estimator, estimate: Estimate, timed: Timed) -> StepTime:
    """The time of a step in proportion to a timed one."""
    plan, hardware, rough = estimate.plan, estimator.hardware, estimate.time
    found = estimator.trace_blocks(estimator.division(plan, estimate.rows))
    passes = sum(computing(found.total(phase), hardware) for phase in ("forward", "backward"))
    layout = Layout(estimator.traced, Ranks(plan.tensor), sequence=plan.sequence) if plan.tensor > 1 else None
    held = [p for own in units_of(estimator.traced, layout).values() for p in own if p.trained]
    parts = case_of(estimate).plan.parts_of_parameters
    update = optimizer_time(sum(p.part(parts) for p in held), len(held), hardware)
    computed, waiting = rough.computing * timed.together / passes, 0.0
    if plan.pipeline > 1:
        # The first microbatch passes the stages one after the other, each of which has the machine for itself.
        least = (plan.pipeline * timed.alone / timed.together - 1) / (plan.pipeline - 1)
        idle = idle_share(plan.schedule, plan.pipeline, estimate.microbatches)
        waiting = (computed + rough.exchanging) * idle * max(0.0, least)
    return StepTime(computed, rough.exchanging, waiting, rough.optimizer * timed.optimizer / update)


# --- processes that compute -------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """What a process times."""

    family: str
    config: Any
    batch: Batch
    cases: tuple[Case, ...]
    threads: int
    clock: Clock
    bf16: bool


def timed_steps(estimator: Estimator, cases: Sequence[Case], processes: int, clock: Clock) -> list[Timed]:
    """Times of the slowest process."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    together = context.Barrier(processes)
    threads = max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // processes))
    model = estimator.traced
    job = Job(model.family, model.config, estimator.batch, tuple(cases), threads, clock, estimator.bf16)
    started = [context.Process(target=_work, args=(job, rank, together, answers), daemon=True)
               for rank in range(processes)]  # fmt: skip
    for process in started:
        process.start()
    try:
        found = [answers.get(timeout=WAIT) for _ in started]
    finally:
        for process in started:
            process.join(10)
            if process.is_alive():
                process.kill()
    for each in found:
        if isinstance(each, str):
            raise RuntimeError(f"a process that times steps ended:\n{each}")
    return [Timed(*(max(column) for column in zip(*own, strict=True))) for own in zip(*found, strict=True)]


def _work(job: Job, rank: int, together: Any, answers: Any) -> None:
    torch.set_num_threads(job.threads)
    torch.set_flush_denormal(True)  # what an imaginary process sends has any values
    try:
        answers.put([_timed(job, case, rank, together) for case in job.cases])
    except Exception:
        together.abort()
        answers.put(traceback.format_exc())


def _timed(job: Job, case: Case, rank: int, together: Any) -> Timed:
    """The times of a plan in this process."""
    plan = case.plan
    model: Any = build(family(job.family), job.config, "cpu").train()
    initialize(model, 0)
    batch = {name: torch.zeros(x.shape, dtype=x.dtype) for name, x in job.batch.inputs(model, case.rows).items()}
    casts = job.bf16 and plan.mixed_precision is None

    def passes() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=casts):
            backward(model, batch, whole_logits=case.whole_logits)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    with imaginary_processes(plan.world):
        model = parallelize(model, plan, plan.mesh("cpu"))
        optimizer = adamw([{"params": list(model.parameters())}])
        times = []
        for _ in range(STEPS + 1):
            together.wait(WAIT)
            own = [seconds(passes, job.clock)]
            optimizer.zero_grad()
            together.wait(WAIT)
            own.append(seconds(passes, job.clock) if rank == 0 else 0.0)
            together.wait(WAIT)
            own.append(seconds(update, job.clock))
            times.append(own)
    return Timed(*(min(column) for column in zip(*times[1:], strict=True)))


def seconds(run: Callable[[], object], clock: Clock) -> float:
    """How long a call takes."""
    started = clock()
    run()
    return clock() - started
