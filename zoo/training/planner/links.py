"""How fast two processes of this machine exchange, and its CPU with the shapes of a model."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from zoo.models.base import Model
from zoo.training.planner.batch import read_batch
from zoo.training.planner.hardware import Clock, Hardware, best_of, measured_cpu

SMALL, LARGE = 256, 1 << 20  # numbers of an exchange whose time is latency, and of one whose time is bandwidth
MOST_ROWS = 512  # of a measured product


def measured_machine(
    model: Model, batch: str | int, length: int | None, precision: str, clock: Clock = time.perf_counter,
    processes: int = 1,
) -> Hardware:  # fmt: skip
    """This machine: its CPU with matrix products of the shapes of a model, and exchanges between two processes.

    The device of a process is its share of the CPU and of the memory: what `processes` of them have, as many threads
    as CPUs for each.

    clock: `time.process_time` to leave out the time in which other processes have the CPU.
    """
    read = read_batch(batch, model, length)
    rows = min(MOST_ROWS, read.rows * (read.tokens or 64))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, (os.cpu_count() or 1) // processes)))
    try:
        cpu = measured_cpu(shapes_of(model, rows), dtype, clock, memory_of_machine() / processes / 1e9)
    finally:
        torch.set_num_threads(before)
    links = measured_links(clock)
    gb_s, latency = links["all_reduce"]
    return replace(cpu, link_gb_s=gb_s, network_gb_s=gb_s, link_us=latency, network_us=latency, links=links)


def memory_of_machine() -> float:
    """Bytes of memory of this machine; 16 GB where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # Windows
        return 16e9


def shapes_of(model: nn.Module, rows: int) -> list[tuple[int, int, int]]:
    """(rows, inputs, outputs) of the products of a block, those that differ."""
    found: dict[tuple[int, int], None] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and ".blocks." in f".{name}":
            found[module.in_features, module.out_features] = None
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    found = found or {(m.in_features, m.out_features): None for m in linear}
    return [(rows, *shape) for shape in found]


def measured_links(clock: Clock = time.perf_counter) -> dict[str, tuple[float, float]]:
    """{operation: (GB/s that a process sends, microseconds of latency)} of two gloo processes, of median times."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        started = [context.Process(target=_exchange, args=(rank, f"{folder}/store", answers, clock), daemon=True)
                   for rank in range(2)]  # fmt: skip
        for process in started:
            process.start()
        found: dict[str, tuple[float, float]] = answers.get(timeout=120)
        for process in started:
            process.join(10)
    links = {}
    for name, (small, large) in found.items():
        passes = 2 if name == "all_reduce" else 1
        share = 1.0 if name == "send" else 0.5  # of the bytes of the whole, one of two processes has the other half
        links[name] = passes * share * 4 * LARGE / max(large - small, 1e-9) / 1e9, small / passes * 1e6
    return links


def _exchange(rank: int, store: str, answers: Any, clock: Clock) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    seconds: dict[str, list[float]] = {}
    for size in (SMALL, LARGE):
        whole, half, other = torch.ones(size), torch.ones(size // 2), torch.ones(size)
        calls: dict[str, Callable[[], object]] = {
            "all_reduce": partial(dist.all_reduce, whole),
            "all_gather": partial(dist.all_gather_into_tensor, whole, half),
            "reduce_scatter": partial(dist.reduce_scatter_tensor, half, whole),
            "all_to_all": partial(dist.all_to_all_single, other, whole),
            "send": partial(_pass_on, rank, whole),
        }
        for name, call in calls.items():
            times = sorted(best_of(call, 1, clock) for _ in range(20))
            seconds.setdefault(name, []).append(times[len(times) // 2])  # a step has many, which are not all the best
    if rank == 0:
        answers.put(seconds)
    dist.barrier()
    dist.destroy_process_group()


def _pass_on(rank: int, x: Tensor) -> None:
    """Send from the first process to the second, or receive."""
    (dist.send if rank == 0 else dist.recv)(x, 1 - rank)
