"""Plans with `cpu_offload`: what the memory of the host holds, and what is copied between it and the device.

FSDP2 (torch 2.12, `_fsdp_param.py` and `_fsdp_collectives.py`) copies the shard of a parameter to the device in float32
before each all-gather, and the shard of its gradient back after each reduce-scatter.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

from zoo.parallel.config import PlanSettings
from zoo.parallel.exchanges import Units
from zoo.training.planner.hardware import Hardware

FLOAT = 4  # bytes of a number in float32, in which all of it is
ADDED = 12  # bytes read and written for a gradient that is added to that of earlier microbatches


@dataclass(frozen=True)
class HostMemory:
    """Bytes that a process takes in the memory of the host at the moment when it takes most, the step of the optimizer.

    Attributes:
        weights: Its part of the parameters.
        optimizer: Two moments of AdamW, and a number of steps for each parameter.
        gradients: Of its part, and one that is added to that of earlier microbatches.
    """

    weights: int = 0
    optimizer: int = 0
    gradients: int = 0

    @property
    def total(self) -> int:
        """The sum."""
        return sum(getattr(self, each.name) for each in fields(self))


class Copies(NamedTuple):
    """Bytes that a process copies between the memory of the host and that of its device."""

    to_device: int = 0
    to_host: int = 0

    def times(self, count: int) -> "Copies":
        """Those of so many microbatches."""
        return Copies(count * self.to_device, count * self.to_host)


NOTHING = Copies()


def leaves_device(plan: PlanSettings, hardware: Hardware) -> bool:
    """Whether a plan keeps anything in a memory that is not that of the device."""
    return plan.cpu_offload and hardware.host_memory_gb is not None


def host_memory(units: Units, plan: PlanSettings, microbatches: int, *, pinned: bool) -> HostMemory:
    """The memory of the host that a process takes.

    Args:
        units: Its parameters.
        plan: Divides them.
        microbatches: Whose gradients are added up.
        pinned: Whether weights and gradients are page-locked, as beside a GPU: torch's allocator of such memory rounds
            each up to a power of two (`CachingHostAllocator`).
    """
    held = [(p, FLOAT * p.part(plan.parts_of_parameters)) for own in units.values() for p in own]
    size = power_of_two if pinned else int
    trained = [n for p, n in held if p.trained]
    gradients = sum(map(size, trained)) + (max(trained, default=0) if microbatches > 1 else 0)
    return HostMemory(sum(size(n) for _, n in held), 2 * sum(trained) + FLOAT * len(trained), gradients)


def power_of_two(number: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << (number - 1).bit_length() if number else 0


class PassCopies(NamedTuple):
    """What a process copies in the forward and in the backward pass of a microbatch."""

    forward: Copies
    backward: Copies

    def total(self, microbatches: int) -> Copies:
        """Those of a step."""
        sums = (sum(column) for column in zip(self.forward, self.backward, strict=True))
        return Copies(*sums).times(microbatches)


def copies(units: Units, plan: PlanSettings) -> PassCopies:
    """What a process copies for a microbatch; parameters outside of blocks stay whole for the backward pass."""
    parts = plan.parts_of_parameters
    held = {name: FLOAT * sum(p.part(parts) for p in own) for name, own in units.items()}
    again = sum(size for name, size in held.items() if name)
    back = FLOAT * sum(p.part(parts) for own in units.values() for p in own if p.trained)
    return PassCopies(Copies(sum(held.values())), Copies(again, back))


def copying(copied: Copies, hardware: Hardware) -> float:
    """Seconds of copies, which both directions do at once."""
    return max(copied) / hardware.pcie_gb_s / 1e9


def adding(passes: PassCopies, microbatches: int, hardware: Hardware) -> float:
    """Seconds of a step in which the host waits for gradients of later microbatches, and adds them to those of earlier
    ones: these copies do not run beside computation."""
    size = passes.backward.to_host
    each = size / hardware.pcie_gb_s / 1e9 + size * ADDED / FLOAT / hardware.host_gb_s / 1e9
    return (microbatches - 1) * each
