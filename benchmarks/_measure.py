"""Timing for all benchmarks: candidates run interleaved in one process; reported are medians of ratios per round.

A round runs each candidate once, so that a slow machine affects all of them equally. The first candidate is the
baseline; a ratio above 1 means faster than the baseline. On a CPU, the process time of one thread is measured, which
hardly depends on the load of the machine, and each round also times a matrix product of fixed size as a reference.

Every benchmark takes `key=value` options, and `--smoke`: sizes so small that it ends in seconds, to check that it runs.
What it prints is also appended, as a line of JSON, to the file that the variable ZOO_BENCHMARK_RESULTS names, for
benchmarks/measures.py.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch

Clock = Literal["cpu", "wall", "cuda"]
_PROBE = 1024


@dataclass
class Table:
    """Seconds of each candidate in each round.

    Attributes:
        title: Title of the table.
        clock: How time was measured.
        seconds: {candidate: [seconds of each round]}; the first candidate is the baseline.
        items: Number of items that one call processes.
        peaks: On a GPU, the peak of allocated bytes of each candidate.
        probe: GF/s of the reference matrix product.
    """

    title: str
    clock: Clock
    seconds: dict[str, list[float]]
    items: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    probe: float = 0.0

    def median(self, name: str) -> float:
        """Median seconds of a candidate."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str) -> float:
        """Speed relative to the baseline: median over rounds of the ratio within a round."""
        baseline = next(iter(self.seconds.values()))
        return statistics.median(base / own for base, own in zip(baseline, self.seconds[name], strict=True))

    def spread(self, name: str) -> float:
        """(max - min) / median of a candidate's seconds."""
        return (max(self.seconds[name]) - min(self.seconds[name])) / self.median(name)

    def __str__(self) -> str:
        """A Markdown table, followed by the machine and the versions of packages."""
        rounds = len(next(iter(self.seconds.values())))
        head = ["", "ms", "ratio", "spread"] + ["items/s"] * bool(self.items) + ["peak MB"] * bool(self.peaks)
        lines = [f"\n{self.title}", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for name in self.seconds:
            row = [
                name,
                f"{1e3 * self.median(name):.3g}",
                f"{self.ratio(name):.2f}x",
                f"{100 * self.spread(name):.0f} %",
            ]
            row += [f"{self.items / self.median(name):,.0f}"] * bool(self.items)
            row += [f"{self.peaks.get(name, 0) / 2**20:,.0f}"] * bool(self.peaks)
            lines.append("| " + " | ".join(row) + " |")
        probe = f", sgemm {_PROBE} {self.probe:.0f} GF/s" if self.probe else ""
        lines.append(f"{_CLOCKS[self.clock]}, medians of {rounds} interleaved rounds{probe}; {machine(self.clock)}")
        return "\n".join(lines)


_CLOCKS = {"cpu": "process CPU time, one thread", "wall": "wall clock", "cuda": "CUDA events"}


def paired(
    candidates: dict[str, Callable[[], object]],
    *,
    rounds: int = 7,
    warmup: int = 1,
    clock: Clock = "cpu",
    title: str = "",
    items: int = 0,
) -> Table:
    """Time the candidates against each other, print the table and return it.

    Args:
        candidates: Name -> function to time; the first is the baseline of the ratios.
        rounds: Number of interleaved rounds that are measured.
        warmup: Number of rounds before them that are not measured.
        clock: `cpu` (process time, one thread), `wall` (all threads) or `cuda` (events, and peak memory).
        title: Title of the table.
        items: Number of items that one call processes, for a column of items per second.
    """
    if not candidates or rounds < 1:
        raise ValueError(f"{len(candidates)} candidates, {rounds} rounds: expected at least one of each")
    threads = torch.get_num_threads()
    if clock == "cpu":
        torch.set_num_threads(1)
    table = Table(title, clock, {name: [] for name in candidates}, items)
    probes: list[float] = []
    try:
        for round_ in range(-warmup, rounds):
            for name, call in candidates.items():
                seconds, peak = _time(call, clock)
                if round_ >= 0:
                    table.seconds[name].append(seconds)
                    if clock == "cuda":
                        table.peaks[name] = max(peak, table.peaks.get(name, 0))
            if clock != "cuda" and round_ >= 0:
                probes.append(_sgemm(clock))
    finally:
        torch.set_num_threads(threads)
    table.probe = statistics.median(probes) if probes else 0.0
    print(table, flush=True)
    record(title, table.seconds, clock)
    return table


def record(title: str, values: Mapping[str, float | list[float]], clock: Clock = "cpu") -> None:
    """Append values to the file of results, if there is one.

    Args:
        title: Title of the table.
        values: {candidate: seconds of each round}, the first one the baseline; or {name: a number}.
        clock: How time was measured.
    """
    if file := os.environ.get("ZOO_BENCHMARK_RESULTS"):
        line = {"script": Path(sys.argv[0]).name, "title": title, "machine": machine(clock), "values": dict(values)}
        with open(file, "a") as lines:
            lines.write(json.dumps(line) + "\n")


def _time(call: Callable[[], object], clock: Clock) -> tuple[float, int]:
    """Seconds of one call, and its peak of allocated bytes on a GPU."""
    if clock == "cuda":
        torch.cuda.reset_peak_memory_stats()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3, torch.cuda.max_memory_allocated()
    now = time.process_time if clock == "cpu" else time.perf_counter
    before = now()
    call()
    return max(now() - before, 1e-9), 0


def _sgemm(clock: Clock) -> float:
    """GF/s of one float32 matrix product."""
    a = torch.ones(_PROBE, _PROBE)
    seconds, _ = _time(lambda: a @ a, clock)
    return 2 * _PROBE**3 / seconds / 1e9


def machine(clock: Clock = "cpu") -> str:
    """Processor or GPU, and the versions of the relevant packages."""
    hardware = torch.cuda.get_device_name() if clock == "cuda" else f"{_processor()}, {os.cpu_count()} CPUs"
    packages = ("torch", "torchvision", "timm", "transformers", "lightning")
    loaded = [f"{name} {_version(name)}" for name in packages if name in sys.modules]
    return f"{hardware}, Python {platform.python_version()}, {', '.join(loaded)}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


def options(smoke: Mapping[str, Any] | None = None, /, **defaults: Any) -> SimpleNamespace:
    """Parse the `key=value` options of a benchmark; values have the type of their default.

    smoke: the values that `--smoke` has in place of the defaults.
    """
    chosen, words = dict(defaults), sys.argv[1:]
    if "--smoke" in words:
        words.remove("--smoke")
        if smoke is None:
            raise SystemExit("--smoke: this benchmark has no smallest size, give one to options() in its main()")
        chosen |= smoke
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in defaults:
            raise SystemExit(f"{word!r}: expected {' '.join(f'{k}={v}' for k, v in defaults.items())} or --smoke")
        try:
            chosen[key] = type(defaults[key])(value)
        except ValueError:
            raise SystemExit(f"{word!r}: expected a {type(defaults[key]).__name__}") from None
    return SimpleNamespace(**chosen)
