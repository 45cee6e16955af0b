"""Memory, exchanges and time of the processes of one plan."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from zoo.models.base import Model
from zoo.models.registry import build, family
from zoo.parallel.cuts import cut_blocks
from zoo.parallel.exchanges import (
    FLOAT32,
    Exchange,
    Sizes,
    Units,
    add_up,
    parameter_exchanges,
    pipeline_exchanges,
    units_of,
)
from zoo.parallel.fsdp import blocks_of
from zoo.parallel.plan import Plan
from zoo.parallel.tensor import Layout, Ranks
from zoo.training.planner.batch import Batch
from zoo.training.planner.hardware import Hardware
from zoo.training.planner.memory import Memory, Process, memory
from zoo.training.planner.offload import (
    NOTHING,
    Copies,
    HostMemory,
    PassCopies,
    adding,
    copies,
    copying,
    host_memory,
    leaves_device,
)
from zoo.training.planner.scale import of_rows, repeated
from zoo.training.planner.stages import (
    Stage,
    idle_share,
    parameter_exchanges_of,
    pipeline_memory,
    stage_trace,
    stage_units,
    stages_of,
    turns,
)
from zoo.training.planner.timing import StepTime, groups_of, optimizer_time, pass_time
from zoo.training.planner.trace import Division, Trace, added, imaginary_processes, trace


@dataclass(frozen=True)
class Estimate:
    """What a plan takes.

    Attributes:
        plan: The plan.
        rows: Rows of a microbatch.
        microbatches: Of a process in a step: passes with accumulated gradients, or through a pipeline.
        memory: Of the process that takes most.
        exchanges: Of that process in a step.
        time: Of a step.
        host: With `cpu_offload` its memory in the host, else None.
        copied: Bytes that it copies between host and device in a step.
    """

    plan: Plan
    rows: int
    microbatches: int
    memory: Memory
    exchanges: tuple[Exchange, ...]
    time: StepTime
    host: HostMemory | None = None
    copied: Copies = NOTHING

    @property
    def exchanged(self) -> int:
        """Bytes that a process puts into exchanges in a step."""
        return sum(each.bytes for each in self.exchanges)


class Estimator:
    """Estimates of the plans of a model; traces that several of them need are made once.

    Args:
        model: On the meta device.
        batch: Of a step.
        hardware: The devices.
        bf16: Whether computed values are in bfloat16.

    Attributes:
        traced: The model, or with three of its blocks if all are alike.
    """

    def __init__(self, model: Model, batch: Batch, hardware: Hardware, *, bf16: bool) -> None:
        self.model, self.batch, self.hardware = model, batch, hardware
        self.bf16 = bf16
        short = shorter(model)
        self.traced = model if short is None else short
        self.traces: dict[Division, Trace] = {}
        self.of_blocks: dict[Division, Trace] = {}
        self.layouts: dict[Any, Layout | None] = {}
        self.held: dict[Any, Units] = {}
        self.cut: dict[int, list[Stage]] = {}

    # --- traces -----------------------------------------------------------------------------------------------------

    def dtype(self, plan: Plan) -> torch.dtype:
        """Of parameters in computations; without `mixed_precision` autocast keeps float32 and casts for products."""
        return torch.bfloat16 if self.bf16 and plan.mixed_precision else torch.float32

    def division(self, plan: Plan, rows: int) -> Division:
        """What the traces of a plan depend on."""
        dtype = self.dtype(plan)
        return Division(plan.tensor, plan.sequence, plan.context, plan.checkpointing, plan.pipeline > 1, rows, dtype,
                        self.hardware.on_gpu, autocast=self.bf16 and dtype == torch.float32)  # fmt: skip

    def trace(self, division: Division, *, exact: bool = False) -> Trace:
        """The trace of a microbatch: of its rows, or from those of one row and of two."""
        if not exact and division.rows > 2:
            one, two = (self.trace(replace(division, rows=rows)) for rows in (1, 2))
            return of_rows(one, two, division.rows)
        if division not in self.traces:
            found = self.trace_blocks(division)
            whole = self.traced is self.model
            self.traces[division] = found if whole else repeated(found, len(blocks_of(self.model)))
        return self.traces[division]

    def trace_blocks(self, division: Division) -> Trace:
        """The trace of `traced`: of three blocks if all are alike."""
        if division not in self.of_blocks:
            with imaginary_processes(division.tensor * division.context):
                self.of_blocks[division] = trace(self.traced, self.batch.inputs(self.traced, division.rows), division)
        return self.of_blocks[division]

    def layout(self, plan: Plan) -> Layout | None:
        """How the processes of `tensor` divide the model."""
        key = plan.tensor, plan.sequence
        if key not in self.layouts:
            divided = plan.tensor > 1
            self.layouts[key] = Layout(self.model, Ranks(plan.tensor), sequence=plan.sequence) if divided else None
        return self.layouts[key]

    def units(self, plan: Plan) -> Units:
        """The parameters of a process without a pipeline."""
        if plan.tensor not in self.held:
            self.held[plan.tensor] = units_of(self.model, self.layout(plan))
        return self.held[plan.tensor]

    def flops(self) -> float:
        """FLOPs of forward and backward of the whole batch, of no recomputed activations: three times the forward's."""
        work = self.trace(self.division(Plan(), 1)).total("forward")
        return 3 * (work.flops + work.attention_flops) * self.batch.rows

    # --- estimates --------------------------------------------------------------------------------------------------

    def estimate(self, plan: Plan, rows: int, *, exact: bool = False) -> Estimate:
        """What a plan takes with microbatches of some rows. exact: by a trace of these rows."""
        found = self.trace(self.division(plan, rows), exact=exact)
        if plan.pipeline > 1:
            last = plan.pipeline - 1
            return self.pipeline(plan, found, rows, range(plan.pipeline) if exact else sorted({0, min(1, last), last}))
        units, count = self.units(plan), self.batch.rows // plan.batch_parts // rows
        away = leaves_device(plan, self.hardware)
        process = Process(units, self.dtype(plan), self.buffers(plan, rows, found), self.hardware.on_gpu,
                          accumulates=count > 1, offloaded=away)  # fmt: skip
        sizes = self.sizes(plan)
        forward, backward = (found.total(phase) for phase in ("forward", "backward"))
        passes = parameter_exchanges(units, plan, sizes)
        groups = groups_of(plan, self.hardware.node)
        copied = copies(units, plan) if away else PassCopies(NOTHING, NOTHING)
        times = [pass_time(work, hidden, groups, self.hardware, copying(own, self.hardware))
                 for work, hidden, own in ((forward, passes.forward, copied.forward),
                                           (backward, passes.backward, copied.backward))]  # fmt: skip
        computed, exposed, waited = (count * sum(column) for column in zip(*times, strict=True))
        exchanges = add_up([*forward.exchanges, *backward.exchanges, *passes.forward, *passes.backward], count)
        time = StepTime(computed, exposed, 0.0, self.optimizer(units, plan),
                        waited + adding(copied, count, self.hardware))  # fmt: skip
        host = host_memory(units, plan, count, pinned=self.hardware.on_gpu) if away else None
        return Estimate(plan, rows, count, memory(plan, process, found), tuple(exchanges), time, host,
                        copied.total(count))  # fmt: skip

    def pipeline(self, plan: Plan, found: Trace, rows: int, processes: Iterable[int]) -> Estimate:
        """What a plan with a pipeline takes: of the process that takes most memory, and of the slowest one.

        processes: those to look at; the first two have most microbatches, the last one the logits.
        """
        count, dtype = plan.parts_of_pipeline, self.dtype(plan)
        hidden = found.hidden
        stages = self.stages(plan.stages_per_process * plan.pipeline)
        best: list[Estimate] = []
        for process in processes:
            own = stages[process :: plan.pipeline]
            units = [self.stage_units(plan, stage) for stage in own]
            together: dict[str, Any] = {}
            for part in units:
                for name, held in part.items():
                    together[name] = [*together.get(name, ()), *held]
            traces = [stage_trace(found, stage) for stage in own]
            order = turns(plan.schedule, process, plan.pipeline, count)
            received = count * hidden * sum((not stage.first) + (not stage.last) for stage in own)
            has = Process(together, dtype, self.buffers(plan, rows * count, found), self.hardware.on_gpu,
                          pipelined=True)  # fmt: skip
            sends = pipeline_exchanges(range(process, len(stages), plan.pipeline), len(stages), count,
                                       hidden // dtype.itemsize, element_size=dtype.itemsize)  # fmt: skip
            sent = [replace(e, over="pipeline") for e in (*sends.forward, *sends.backward)]
            summed = parameter_exchanges_of(order, units, plan, self.sizes(plan))
            groups, works = groups_of(plan, self.hardware.node), [trace.total() for trace in traces]
            work = added(works, count)
            computed, exposed, _ = pass_time(replace(work, exchanges=[*work.exchanges, *sent]), summed, groups,
                                             self.hardware)  # fmt: skip
            waits = (computed + exposed) * idle_share(plan.schedule, plan.pipeline, count)
            time = StepTime(computed, exposed, waits, self.optimizer(together, plan))
            taken = pipeline_memory(plan, has, traces, order, received)
            best.append(Estimate(plan, rows, count, taken, tuple(add_up([*work.exchanges, *sent, *summed])), time))
        largest = max(best, key=lambda e: e.memory.total)
        return replace(largest, time=max((e.time for e in best), key=lambda t: t.total))

    def stages(self, count: int) -> list[Stage]:
        """The stages of a pipeline."""
        if count not in self.cut:
            self.cut[count] = stages_of(cut_blocks(self.model, count))
        return self.cut[count]

    def stage_units(self, plan: Plan, stage: Stage) -> Units:
        """The parameters of a stage."""
        key = plan.tensor, stage
        if key not in self.held:
            self.held[key] = stage_units(self.model, self.layout(plan), stage)
        return self.held[key]

    def sizes(self, plan: Plan) -> Sizes:
        """Bytes of parameters that are gathered and of gradients that are summed."""
        return Sizes(2, 4) if plan.mixed_precision else FLOAT32

    def optimizer(self, units: Units, plan: Plan) -> float:
        """Seconds of its step."""
        held = [p for own in units.values() for p in own if p.trained]
        return optimizer_time(sum(p.part(plan.parts_of_parameters) for p in held), len(held), self.hardware,
                              on_host=leaves_device(plan, self.hardware))  # fmt: skip

    def buffers(self, plan: Plan, rows: int, found: Trace) -> int:
        """Bytes of the buffers of the model and of a microbatch, and of a cast of hidden states by autocast that may be
        there longer than in the trace."""
        batch = [*self.batch.inputs(self.model, 1).values()]
        if self.dtype(plan) != torch.float32:
            batch += [x.to(self.dtype(plan)) for x in batch if x.is_floating_point()]
        cast = found.hidden if self.bf16 and not plan.mixed_precision else 0
        return sum(x.nbytes for x in self.model.buffers()) + rows * sum(x.nbytes for x in batch) + cast


def shorter(model: Model) -> Model | None:
    """The model with three blocks, for traces, if its blocks are alike; None to trace all of them."""
    config, blocks = model.config, getattr(model, "blocks", None)
    if blocks is None or len(blocks) < 5 or getattr(config, "depth", None) != len(blocks):
        return None
    if any(isinstance(value, list | tuple | Mapping) for value in config.flat().values()):
        return None  # fields for single layers
    shapes = [[(name, p.shape) for name, p in block.named_parameters()] for block in blocks]
    if any(own != shapes[0] for own in shapes):
        return None
    made = build(family(model.family), config.replace(depth=3), "meta")
    return made if len(blocks_of(made)) == 3 else None
