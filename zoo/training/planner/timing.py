"""The time of a step from what its processes compute and exchange.

An operation takes its FLOPs or its bytes divided by what the device reaches, and no less than the host takes to start
it. Exchanges inside a machine and between machines have a bandwidth and a latency each, by ring algorithms (Thakur et
al. 2005, https://doi.org/10.1177/1094342005051521).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from zoo.parallel.config import DIMENSIONS, PlanSettings
from zoo.parallel.exchanges import Exchange
from zoo.training.planner.hardware import Hardware
from zoo.training.planner.trace import Work

ADAMW_BYTES = 28  # read and written for a parameter: weight, gradient and two moments; all but the gradient written


@dataclass(frozen=True)
class Group:
    """Processes of one dimension of a plan.

    size: their number. near: how many of them are on one machine.
    """

    size: int
    near: int


def groups_of(plan: PlanSettings, node: int) -> dict[str, Group]:
    """The groups of a plan on machines of `node` devices, in the order of `DIMENSIONS`."""
    groups, stride = {}, 1
    for name in reversed(DIMENSIONS):
        size = plan.sizes[name]
        groups[name] = Group(size, max(1, min(size, node // stride)))
        stride *= size
    if plan.context > 1:  # gradients are averaged over both
        for name in ("shard", "data"):
            if name == "shard" or plan.shard == 1:
                size = plan.context * plan.sizes[name]
                groups[name] = Group(size, max(1, min(size, node // plan.tensor)))
    return groups


def computing(work: Work, hardware: Hardware) -> float:
    """Seconds in which a device computes."""
    products = work.flops / hardware.tflops + work.attention_flops / hardware.attention_tflops
    device = products / 1e12 + work.moved / hardware.bandwidth_gb_s / 1e9
    host = work.operations * hardware.launch_us * 1e-6
    return max(device, host) if hardware.on_gpu else device + host


def exchanging(exchange: Exchange, group: Group, hardware: Hardware) -> float:
    """Seconds of an exchange of a group."""
    n, near, size = group.size, group.near, exchange.bytes
    link_gb_s, link_us = hardware.links.get(exchange.operation, (hardware.link_gb_s, hardware.link_us))
    link, network = link_gb_s * 1e9, hardware.network_gb_s * 1e9
    far = near < n
    latency = (hardware.network_us if far else link_us) * 1e-6
    if exchange.operation == "send":
        return exchange.count * latency + size / (network if far else link)
    if n == 1:
        return 0.0
    whole = size * n if exchange.operation == "all_gather" else size
    passes = 2 if exchange.operation == "all_reduce" else 1
    shares = near if exchange.operation != "all_to_all" else 1  # devices of a machine share what arrives at it
    inside = passes * whole * (n - 1) / n / link
    between = passes * whole * (n - near) / n / (shares * network)
    return exchange.count * passes * latency * math.ceil(math.log2(n)) + max(inside, between)


def exchanging_all(exchanges: Iterable[Exchange], groups: dict[str, Group], hardware: Hardware) -> float:
    """Seconds of exchanges one after the other."""
    return sum(exchanging(each, groups[each.over], hardware) for each in exchanges)


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step of all processes.

    Attributes:
        computing: Forward and backward passes of the slowest process, recomputed activations included.
        exchanging: What is exchanged while nothing is computed.
        waiting: For other stages of a pipeline.
        optimizer: The step of AdamW.
        copying: Between the memory of the host and that of the device while nothing is computed, with `cpu_offload`.
    """

    computing: float
    exchanging: float
    waiting: float
    optimizer: float
    copying: float = 0.0

    @property
    def total(self) -> float:
        """The sum."""
        return self.computing + self.exchanging + self.waiting + self.optimizer + self.copying


def pass_time(
    work: Work, hidden: Iterable[Exchange], groups: dict[str, Group], hardware: Hardware, copied: float = 0.0
) -> tuple[float, float, float]:
    """(seconds of computing, of exchanges and of copies while nothing is computed) of a pass of a microbatch.

    Args:
        work: What is computed, and exchanged in between.
        hidden: Exchanges that may run beside the computation: parameters and gradients.
        groups: See `groups_of`.
        hardware: The device.
        copied: Seconds of copies between host and device, each of which is before or after one of these exchanges.
    """
    computed = computing(work, hardware)
    exposed = exchanging_all(work.exchanges, groups, hardware)
    behind = exchanging_all(hidden, groups, hardware)
    beside = computed if hardware.overlaps else 0.0
    return computed, exposed + max(0.0, behind - beside), min(copied, max(0.0, behind + copied - beside))


def optimizer_time(numbers: int, tensors: int, hardware: Hardware, *, on_host: bool = False) -> float:
    """Seconds of AdamW for the numbers that a process holds. on_host: its step is done by the CPU beside a GPU."""
    rate = hardware.host_gb_s if on_host else hardware.bandwidth_gb_s
    return ADAMW_BYTES * numbers / rate / 1e9 + (0 if hardware.on_gpu and not on_host else tensors * 1e-6)
