"""The most memory that a process takes in a training step with AdamW, from the segments of a trace.

What FSDP2 holds beside the shards was read from its code and measured (tests/training/test_planner.py): the whole
parameters of the block that runs, the buffer from which they are copied, which is that of the next block in the
backward pass, and the buffer of the gradients that are summed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from zoo.parallel.config import PlanSettings
from zoo.parallel.exchanges import Units
from zoo.training.planner.trace import Phase, Segment, Trace

MASTER = 4  # bytes of a trained weight and of each of its two moments, in float32


@dataclass(frozen=True)
class Memory:
    """Bytes of a process at the moment when it takes most.

    Attributes:
        weights: Parameters of the optimizer, bfloat16 copies of them, and buffers of the model.
        optimizer: Two moments of AdamW.
        gradients: Those that are there at that moment, in all precisions.
        activations: What the backward pass needs, and what is computed; logits and their gradients, too.
        gathered: Whole parameters of FSDP2, and buffers of its exchanges.
    """

    weights: int = 0
    optimizer: int = 0
    gradients: int = 0
    activations: int = 0
    gathered: int = 0

    @property
    def total(self) -> int:
        """The sum."""
        return sum(getattr(self, each.name) for each in fields(self))


@dataclass(frozen=True)
class Process:
    """What a process has of a model.

    Attributes:
        units: Its parameters, see `zoo.parallel.exchanges.units_of`.
        dtype: Of computed values.
        buffers: Bytes of the buffers of the model and of a batch.
        prefetches: Whether FSDP2 gathers the parameters of the next block while one is computed, as on a GPU.
        waiting: Bytes of the activations of other microbatches of a pipeline, and of its buffers.
        accumulates: Whether gradients of earlier microbatches are there from the beginning of a pass.
        pipelined: Whether it is in a pipeline, in which FSDP2 keeps whole parameters and gradients until the last
            microbatch.
        offloaded: Whether parameters, gradients and optimizer states are in the memory of the host.
    """

    units: Units
    dtype: torch.dtype = torch.float32
    buffers: int = 0
    prefetches: bool = False
    waiting: int = 0
    accumulates: bool = False
    pipelined: bool = False
    offloaded: bool = False


def memory(plan: PlanSettings, process: Process, trace: Trace, phase: Phase | None = None) -> Memory:
    """The memory of a process of a plan that computes the segments of a trace, or those of a phase."""
    timeline = Timeline(plan, process, trace)
    return max(timeline.moments(phase), key=lambda each: each.total)


class Timeline:
    """The moments of a step at which a process may take most."""

    def __init__(self, plan: PlanSettings, process: Process, trace: Trace) -> None:
        self.plan, self.process, self.trace = plan, process, trace
        self.parts = plan.parts_of_parameters
        self.sharded = plan.shard > 1
        self.copied = plan.shard == 1 and plan.data * plan.context > 1  # by the machinery of FSDP2, without shards
        self.kept = process.pipelined and (self.sharded or self.copied)
        self.size = process.dtype.itemsize
        trained = {name: [p for p in held if p.trained] for name, held in process.units.items()}
        self.shards, self.trained = (numbers(units, self.parts) for units in (process.units, trained))
        self.whole, self.whole_trained = (numbers(units, 1) for units in (process.units, trained))
        cast = 0 if self.sharded or self.size == MASTER else self.size * sum(self.shards.values())
        self.weights = MASTER * sum(self.shards.values()) + cast + process.buffers
        self.optimizer = 2 * MASTER * sum(self.trained.values())
        self.optimizer += MASTER * sum(map(len, trained.values()))  # the number of steps, for each parameter
        if process.offloaded:
            self.weights, self.optimizer = process.buffers, 0

    def moment(self, gradients: int, activations: int, gathered: int = 0) -> Memory:
        """The memory with so many bytes of gradients, activations of this pass, and gathered parameters."""
        return Memory(self.weights, self.optimizer, gradients, activations + self.process.waiting, gathered)

    def moments(self, phase: Phase | None = None) -> list[Memory]:
        """All of them, or those of a phase and of the optimizer."""
        summed = 0 if self.process.offloaded else MASTER * sum(self.trained.values())
        found = [Memory(self.weights, self.optimizer, summed)]  # the step of the optimizer
        segments = self.trace.segments
        done: list[str] = []
        seen: list[str] = []
        before = 0
        order = [s.unit for s in segments if s.phase == "backward" and s.unit]
        for segment in segments:
            if segment.phase == "forward":
                if segment.unit:
                    seen.append(segment.unit)
                if phase != "backward":
                    found.extend(self.forward(segment, seen, before))
            elif phase == "forward":
                break
            else:
                if segment.unit:
                    later = order[len(done) + 1 :]
                else:
                    later = [] if done else order
                found.extend(self.backward(segment, done, seen, before, later[0] if later else None))
                if segment.unit:
                    done.append(segment.unit)
            before = segment.after
        return found

    def earlier(self, done: Sequence[str]) -> int:
        """Bytes of gradients that are summed already: of the blocks whose backward pass is over."""
        held = self.whole_trained if self.kept else self.trained
        names = [] if self.process.offloaded else [*(self.trained if self.process.accumulates else done)]
        if (self.copied or self.plan.data > 1) and (self.process.offloaded or self.process.accumulates):
            names += done  # what copies have summed is there until the pass ends, beside what it was added to
        return MASTER * sum(held.get(name, 0) for name in names)

    def copies(self, blocks: Sequence[str]) -> int:
        """Bytes of the whole parameters of some blocks, and of those outside of blocks."""
        return self.size * sum(self.whole.get(name, 0) for name in ("", *blocks))

    def unsharded(self, unit: str) -> int:
        """Bytes of the parameters of a unit, with what is added for equal shards."""
        return self.size * self.parts * self.shards.get(unit, 0)

    def cast_shard(self, unit: str | None) -> int:
        """Bytes of what FSDP2 copies of the shards of a unit, in the precision and on the device of a step, while it
        gathers them."""
        if unit is None or not (self.process.offloaded or self.plan.mixed_precision):
            return 0
        uncast = MASTER * self.largest(unit, self.parts) if self.process.offloaded and self.size < MASTER else 0
        return self.size * self.shards.get(unit, 0) + uncast

    def largest(self, unit: str, parts: int) -> int:
        """Numbers of the part of a unit's largest parameter."""
        return max((p.part(parts) for p in self.process.units.get(unit, ())), default=0)

    def pipelined(self, segment: Segment, others: Sequence[str], following: str | None) -> list[Memory]:
        """In a pipeline FSDP2 keeps what the backward pass of a microbatch gathers until that of the last one, but not
        what a forward pass does. others: blocks before this one in the pass."""
        unit, backward = segment.unit, segment.phase == "backward"
        gradients = self.earlier(())
        if self.copied:
            held = set(self.whole)
        elif backward:
            held = {"", *others, unit}
        else:
            held = {*self.whole} - {*others} if self.process.accumulates else {"", unit}
        gathered = sum(map(self.unsharded, held)) + (0 if following is None else self.unsharded(following))
        flat = MASTER * self.whole_trained.get(unit, 0) if backward and unit else 0
        return [
            self.moment(gradients, segment.peak, gathered),
            self.moment(gradients + flat, segment.after, gathered),
        ]

    def forward(self, segment: Segment, seen: Sequence[str], before: int) -> list[Memory]:
        """The moments of a segment of the forward pass.

        Args:
            segment: The segment.
            seen: The blocks that have begun, this one included.
            before: Bytes of activations at its beginning.
        """
        gradients = self.earlier(())
        if self.kept:
            return self.pipelined(segment, [name for name in seen if name != segment.unit], None)
        if self.copied:
            return [self.moment(gradients, segment.peak, self.copies(seen))]
        if not self.sharded:
            return [self.moment(gradients, segment.peak)]
        root, own = self.unsharded(""), self.unsharded(segment.unit) if segment.unit else 0
        shard = own // self.parts
        ahead = max(map(self.unsharded, self.process.units), default=0) if self.process.prefetches else 0
        if self.process.offloaded and ahead:
            ahead += MASTER * max(self.shards.values())  # the copy of a shard, before it is gathered
        first = [self.moment(gradients, before, 2 * root)] if not seen else []
        return [
            *first,
            self.moment(gradients, before, root + 2 * own + shard),
            self.moment(gradients, segment.peak, root + own + ahead),
        ]

    def backward(
        self, segment: Segment, done: Sequence[str], seen: Sequence[str], before: int, following: str | None
    ) -> list[Memory]:
        """The moments of a segment of the backward pass.

        Args:
            segment: The segment.
            done: The blocks whose backward pass is over, in its order.
            seen: All blocks.
            before: Bytes of activations at its beginning.
            following: The next block of the pass, whose parameters FSDP2 gathers already.
        """
        gradients, unit = self.earlier(done), segment.unit
        own_gradients = self.size * self.whole_trained.get(unit, 0) if unit else 0
        if self.kept:
            return self.pipelined(segment, done, following)
        if self.copied:
            # where it is recomputed, the copies of a block are freed during the next one
            freed = done[:-1] if self.plan.checkpointing else done
            copies = self.copies([name for name in seen if name not in freed])
            flat = MASTER * self.whole_trained.get(unit, 0)
            return [
                self.moment(gradients, segment.peak, copies),
                self.moment(gradients + own_gradients + flat, segment.after, copies),
            ]
        if not self.sharded:
            return [self.moment(gradients, segment.peak)]
        root, own = self.unsharded(""), self.unsharded(unit) if unit else 0
        next_buffer = 0 if following is None else self.unsharded(following)
        summed = MASTER if self.plan.mixed_precision else self.size
        last_sum = summed * self.parts * self.trained.get(done[-1], 0) if done else 0
        own_sum = summed * self.parts * self.trained.get(unit, 0) if unit else 0
        summed_grad = MASTER * self.trained.get(unit, 0)
        if self.process.offloaded:  # one after the other, but for the gradient of one parameter
            summed_grad = max(own_gradients, summed_grad + self.size * self.largest(unit, 1))
        else:
            summed_grad += own_gradients
        return [
            self.moment(gradients, before, root + 2 * own + last_sum),
            self.moment(gradients, before, root + own + next_buffer + self.cast_shard(following) + last_sum),
            self.moment(gradients, segment.peak, root + own + next_buffer + last_sum),
            self.moment(gradients + summed_grad, segment.after, root + next_buffer + own_sum + last_sum),
        ]  # fmt: skip


def numbers(units: Units, parts: int) -> dict[str, int]:
    """Numbers of the parameters of each unit that one of some processes has."""
    return {name: sum(p.part(parts) for p in held) for name, held in units.items()}
