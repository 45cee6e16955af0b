"""How fast two processes of this machine exchange, and its CPU with the shapes of a model."""

import multiprocessing
import os
import tempfile
import time
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

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
    gb_s, latency = measured_links(clock)
    return replace(cpu, link_gb_s=gb_s, network_gb_s=gb_s, link_us=latency * 1e6, network_us=latency * 1e6)


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


def measured_links(clock: Clock = time.perf_counter) -> tuple[float, float]:
    """(GB/s that a process sends, seconds of latency) of all-reduces between two gloo processes."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        started = [context.Process(target=_exchange, args=(rank, f"{folder}/store", answers, clock), daemon=True)
                   for rank in range(2)]  # fmt: skip
        for process in started:
            process.start()
        small, large = answers.get(timeout=120)
        for process in started:
            process.join(10)
    latency = small / 2  # an all-reduce passes twice
    return 4 * LARGE / max(large - small, 1e-9) / 1e9, latency


def _exchange(rank: int, store: str, answers: Any, clock: Clock) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    seconds = []
    for size in (SMALL, LARGE):
        x = torch.ones(size)
        seconds.append(best_of(partial(dist.all_reduce, x), 20, clock))
    if rank == 0:
        answers.put(seconds)
    dist.barrier()
    dist.destroy_process_group()
