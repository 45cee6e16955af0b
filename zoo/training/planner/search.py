"""The plans that a number of devices allow for a model and a batch, the fastest first, and why others do not fit."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from zoo.inference.cost import meta_copy
from zoo.models.base import Model
from zoo.models.tower_config import ContrastiveConfig
from zoo.parallel.plan import Plan
from zoo.training.planner.batch import Batch, read_batch
from zoo.training.planner.estimate import Estimate, Estimator
from zoo.training.planner.hardware import Clock, Hardware, find_gpu, in_precision
from zoo.training.planner.memory import Memory
from zoo.training.planner.offload import HostMemory
from zoo.training.planner.timed_steps import fits_for_timing, with_timed_steps

LONG = 8192  # tokens of a row from which plans with `context` are tried
MOST_STAGES = 16  # processes of a pipeline
CHECKPOINTING = (None, "selective", "full")
SHOWN = 10
OFFLOADING = 3  # plans with `cpu_offload` that are shown beside others


@dataclass(frozen=True)
class Refusal:
    """Plans that are left out for one reason: how many, and the reason for one of them."""

    reason: str
    count: int
    example: str


@dataclass(frozen=True)
class Comparison:
    """The plans for a model.

    Attributes:
        model: Name of the model.
        parameters: Number of its parameters.
        gpus: Number of devices.
        hardware: The device.
        batch: Of a step.
        bf16: Whether computed values are in bfloat16.
        flops: FLOPs of forward and backward of a step, as MFU counts them: recomputed activations do not count, and of
            causal attention half of the pairs.
        plans: Those that fit, the fastest first.
        refusals: Why others are left out.
        notes: What is not counted, as sentences.
        offload: Why plans with `cpu_offload` are among them, or "".
    """

    model: str
    parameters: int
    gpus: int
    hardware: Hardware
    batch: Batch
    bf16: bool
    flops: float
    plans: tuple[Estimate, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    offload: str = ""

    def rows_per_second(self, estimate: Estimate) -> float:
        """Of all devices."""
        return self.batch.rows / estimate.time.total

    def mfu(self, estimate: Estimate) -> float:
        """Model FLOPs utilization, see `zoo.training.speed`; of a CPU the share of the products that it reaches."""
        peak = self.hardware.peak_tflops or self.hardware.tflops
        return self.flops / estimate.time.total / (peak * 1e12 * self.gpus)

    def recipe(self, estimate: Estimate) -> str:
        """The options of a recipe that train by a plan."""
        plan, defaults = estimate.plan.to_dict(), Plan().to_dict()
        words = [f"plan.{name}={str(value).lower() if isinstance(value, bool) else value}"
                 for name, value in plan.items() if value != defaults[name]]  # fmt: skip
        nodes = max(1, self.gpus // self.hardware.node)
        words += [f"devices={self.gpus // nodes}"] + ([f"num_nodes={nodes}"] if nodes > 1 else [])
        words.append(f"batch_size={self.batch.rows}")
        if estimate.plan.pipeline == 1 and estimate.microbatches > 1:
            words.append(f"accumulate_grad_batches={estimate.microbatches}")
        return " ".join([*words, f"precision={'bf16' if self.bf16 else 'fp32'}"])


def plan_run(
    model: Model | str,
    gpus: int,
    batch: int | str,
    *,
    gpu: str | Hardware = "h100",
    length: int | None = None,
    precision: str = "bf16",
    only: Sequence[Plan] | None = None,
    shown: int = SHOWN,
    clock: Clock | None = None,
    cpu_offload: bool = False,
) -> Comparison:
    """Compare the plans for training a model on some devices, from shapes alone.

        zoo.plan_run("llama2_7b", 64, "4M-tokens").plans[0].plan

    Args:
        model: A name, or a model on any device.
        gpus: Number of devices.
        batch: Of a step: `4M-tokens`, `512-rows`, `8k-images`, `256-clips`, or a number of rows.
        gpu: A device of `zoo.training.planner.hardware.GPUS`, or the numbers of one in this precision.
        length: Tokens of each row of a text; None for its `max_length`, at most 4,096.
        precision: "bf16" or "fp32".
        only: Plans to compare, instead of all that divide the devices.
        shown: How many plans are traced with their own number of rows; others are left out.
        clock: With a `gpu` that was measured on this machine, steps of these plans are timed with it; None for times
            from rates alone.
        cpu_offload: List the fastest plans that keep parameters, gradients and optimizer states in the memory of the
            host, too; else they are tried where no other plan fits.

    Returns: Those that fit into the memory of a device, the fastest first, and why others do not.

    Raises: ValueError for a batch that is not one of the model, devices that are not whole machines, an unknown device
        or precision, a model that reads values of its inputs, such as edges, and where a process group has been
        started.
    """
    if gpus < 1:
        raise ValueError(f"gpus={gpus}: expected at least 1")
    if precision not in ("bf16", "fp32"):
        raise ValueError(f"precision={precision!r}: expected bf16 or fp32")
    made = meta_copy(model, {})
    if made.reads_values:
        raise ValueError(f"{type(made).__name__}: what it computes depends on the values of its inputs, such as edges, "
                         f"and plans are compared by shapes alone: measure a step on the data")  # fmt: skip
    hardware = in_precision(find_gpu(gpu), precision) if isinstance(gpu, str) else gpu
    if gpus > hardware.node and gpus % hardware.node:
        raise ValueError(f"gpus={gpus}: expected at most {hardware.node}, the devices of a machine, or a multiple of "
                         f"{hardware.node}; for other machines set their number of devices (--node)")  # fmt: skip
    estimator = Estimator(made, read_batch(batch, made, length), hardware, bf16=precision == "bf16")
    search = Search(estimator, gpus)
    plans = search.best(only, shown, cpu_offload=cpu_offload)
    if clock is not None and plans and fits_for_timing(estimator, min(gpus, hardware.node)):
        plans = with_timed_steps(estimator, plans, min(gpus, hardware.node), clock)
        plans.sort(key=lambda e: e.time.total)
    name = model if isinstance(model, str) else type(model).__name__
    return Comparison(name, sum(p.numel() for p in made.parameters()), gpus, hardware, estimator.batch,
                      precision == "bf16", estimator.flops(), tuple(plans), search.refusals(),
                      notes(made, plans), why_offloaded(plans, hardware))  # fmt: skip


def notes(model: Model, plans: Sequence[Estimate]) -> tuple[str, ...]:
    """What is not counted of these plans."""
    found = []
    if isinstance(model.config, ContrastiveConfig) and any(e.plan.batch_parts > 1 for e in plans):
        found.append("the contrastive loss compares the rows of all parts of a batch: the exchange of their embeddings "
                     "and the memory of their scores are not counted")  # fmt: skip
    return tuple(found)


def why_offloaded(plans: Sequence[Estimate], hardware: Hardware) -> str:
    """Why plans with `cpu_offload` are among these, and by which rates their time is computed; "" without any."""
    if all(e.host is None for e in plans):
        return ""
    alone = all(e.host is not None for e in plans)
    why = f"no plan without it fits into {hardware.memory_gb:g} GB" if alone else "listed beside the plans without it"
    return (f"cpu_offload: {why}. Weights, gradients and AdamW are in the memory of the host, by rates that were not "
            f"measured: {hardware.pcie_gb_s:g} GB/s each way over PCIe, {hardware.host_gb_s:g} GB/s and "
            f"{hardware.host_memory_gb:g} GB of the host for each GPU")  # fmt: skip


class Search:
    """The search for plans of one model."""

    def __init__(self, estimator: Estimator, gpus: int) -> None:
        self.estimator, self.gpus = estimator, gpus
        self.refused: dict[str, list[str]] = defaultdict(list)
        self.possible: list[Plan] = []  # those that divide the model and the batch
        self.limit = estimator.hardware.memory_gb * 1e9
        self.host_limit = (estimator.hardware.host_memory_gb or 0.0) * 1e9

    def best(self, only: Sequence[Plan] | None, shown: int, *, cpu_offload: bool = False) -> list[Estimate]:
        """The fastest plans that fit; with `cpu_offload` by the option, or where no other plan fits."""
        found = self.fastest(self.plans() if only is None else only, shown, fixed=only is not None)
        if only is None and (cpu_offload or not found) and self.estimator.hardware.host_memory_gb is not None:
            offloading = [replace(p, cpu_offload=True) for p in self.possible if p.shard > 1 and p.pipeline == 1]
            found += self.fastest(offloading, OFFLOADING if found else shown)
        return sorted(found, key=lambda e: e.time.total)

    def fastest(self, plans: Iterable[Plan], shown: int, *, fixed: bool = False) -> list[Estimate]:
        """The fastest of these plans that fit; the memory of these is that of a trace of their own rows."""
        found = [e for plan in plans for e in self.of(plan, fixed=fixed)]
        found.sort(key=lambda e: e.time.total)
        exact: list[Estimate] = []
        for estimate in found:
            if len(exact) == shown:
                break
            if any(e.plan == estimate.plan and e.rows == estimate.rows for e in exact):
                continue
            sure = self.estimator.estimate(estimate.plan, estimate.rows, exact=True)
            if self.fits(sure):
                exact.append(sure)
        return sorted(exact, key=lambda e: e.time.total)

    # --- which plans there are ----------------------------------------------------------------------------------------

    def plans(self) -> Iterator[Plan]:
        """The plans for the devices, without checkpointing and microbatches."""
        node, tokens = self.estimator.hardware.node, self.estimator.batch.tokens or 0
        numbers = divisors(self.gpus)
        for tensor in (n for n in numbers if n <= node):
            for context in (n for n in numbers if n == 1 or (tokens >= LONG and n <= node)):
                for pipeline in (n for n in numbers if n == 1 or (context == 1 and n <= MOST_STAGES)):
                    rest, left = divmod(self.gpus, tensor * context * pipeline)
                    if left == 0:
                        yield from self.data_plans(tensor, context, pipeline, rest)

    def data_plans(self, tensor: int, context: int, pipeline: int, rest: int) -> Iterator[Plan]:
        """The ways of `rest` processes to divide batches: FSDP2, DDP, and FSDP2 inside of a machine."""
        inside = max(1, self.estimator.hardware.node // (tensor * context))
        shards = {rest, 1} | ({inside} if rest % inside == 0 else set())
        schedules = ("1f1b", "interleaved") if pipeline > 1 else ("1f1b",)
        for shard in sorted(shards, reverse=True):
            mixed: Any = "bf16" if shard > 1 and self.estimator.bf16 else None
            for schedule in schedules:
                yield Plan(data=rest // shard, shard=shard, tensor=tensor, context=context, pipeline=pipeline,
                           sequence=tensor > 1 and context == pipeline == 1, mixed_precision=mixed,
                           schedule=schedule)  # type: ignore[arg-type]  # fmt: skip

    def of(self, plan: Plan, *, fixed: bool = False) -> Iterator[Estimate]:
        """The fastest microbatches of a plan that fit, with each way of checkpointing."""
        batch = self.estimator.batch.rows
        if plan.cpu_offload and plan.pipeline > 1:
            self.refuse("cpu_offload does not go with the stages of a pipeline", plan, "set cpu_offload=false")
            return
        if plan.batch_parts > batch or batch % plan.batch_parts:
            self.refuse(f"the {batch} rows of a batch are not divisible by data x shard", plan, f"{plan.batch_parts}")
            return
        rows = batch // plan.batch_parts
        if plan.pipeline > rows:
            self.refuse("fewer rows for each part of the batch than stages, which need a microbatch each", plan,
                        f"{rows} for {plan.pipeline}")  # fmt: skip
            return
        try:
            plan.check(self.estimator.model)
        except ValueError as error:
            self.refuse(without_numbers(str(error)), plan, str(error))
            return
        self.possible.append(plan)
        least: Estimate | None = None
        fitted = False
        for checkpointing in (plan.checkpointing,) if fixed else CHECKPOINTING:
            try:
                tried = self.sizes(replace(plan, checkpointing=checkpointing), rows, fixed=fixed)  # type: ignore[arg-type]
                estimates = [self.estimator.estimate(*each) for each in tried]
            except ValueError as error:  # of its forward pass, such as biases of heads that cannot be divided
                self.refuse(without_numbers(str(error)), plan, str(error))
                return
            least = min([*estimates, *([least] if least else [])], key=self.taken, default=None)
            fitting = [e for e in estimates if self.fits(e)]
            if fitting:
                fitted, best = True, min(fitting, key=lambda e: e.time.total)
                yield best
                if best.time.exchanging + best.time.copying < 0.05 * best.time.total:
                    break  # larger microbatches would not pay for recomputed activations
        if not fitted and least is not None:
            self.refuse_memory(least)

    def sizes(self, plan: Plan, rows: int, *, fixed: bool) -> list[tuple[Plan, int]]:
        """Plans and numbers of rows of a microbatch that are worth a try: of a pipeline, 1 to 8 microbatches for each
        stage, and of one row; else the one row that takes least, and as many as the memory allows."""
        if plan.pipeline > 1:
            counts = {plan.parts_of_pipeline} if fixed else {n * plan.pipeline for n in (1, 2, 4, 8)}
            if not fixed and rows % plan.pipeline == 0:
                counts.add(rows)  # the least memory
            return [(replace(plan, microbatches=n), rows // n) for n in sorted(counts) if rows % n == 0]
        if fixed:
            return [(plan, rows)]
        one = self.estimator.estimate(plan, 1)
        if rows == 1 or not self.fits(one):
            return [(plan, 1)]
        slope = max(1, self.estimator.estimate(plan, 2).memory.total - one.memory.total)
        most = 1 + (self.limit - one.memory.total) / slope
        return [(plan, 1), *((plan, n) for n in reversed([d for d in divisors(rows) if d <= most][-2:]))]

    def fits(self, estimate: Estimate) -> bool:
        """Whether a process has the memory, of the device and of the host."""
        return estimate.memory.total <= self.limit and (estimate.host is None or estimate.host.total <= self.host_limit)

    def taken(self, estimate: Estimate) -> int:
        """Bytes of a process, of both memories."""
        return estimate.memory.total + (estimate.host.total if estimate.host else 0)

    # --- why others are left out --------------------------------------------------------------------------------------

    def refuse(self, reason: str, plan: Plan, example: str) -> None:
        self.refused[reason].append(f"{plan}: {example}")

    def refuse_memory(self, least: Estimate) -> None:
        """Which part of the memory alone, or with others, is more than there is."""
        found: Memory | HostMemory = least.memory
        limit, where = self.limit, ""
        if least.host is not None and found.total <= limit:
            found, limit, where = least.host, self.host_limit, " of the host"
        size, most = max((size, name) for name, size in asdict(found).items())
        self.refuse(f"more than {limit / 1e9:.0f} GB{where} for a process, most of it {most}", least.plan,
                    f"{found.total / 1e9:.1f} GB, {size / 1e9:.1f} GB of {most}, with one "
                    f"{'row' if least.rows == 1 else f'microbatch of {least.rows} rows'} at a time")  # fmt: skip

    def refusals(self) -> tuple[Refusal, ...]:
        """The reasons, the most frequent first."""
        found = [Refusal(reason, len(plans), plans[0]) for reason, plans in self.refused.items()]
        return tuple(sorted(found, key=lambda refusal: -refusal.count))


def divisors(number: int) -> list[int]:
    """The divisors of a number, the smallest first."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def without_numbers(message: str) -> str:
    """The beginning of an error message, the same for plans that differ in a number alone."""
    first = message.removeprefix("plan: ").split(": choose")[0].split(": set")[0].split(". ")[0]
    return re.sub(r"\d+", "N", first)
