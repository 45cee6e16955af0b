"""Timing for all benchmarks: candidates run interleaved in one process; reported are medians of ratios per round.

A round runs each candidate once, so that a slow machine affects all of them equally. The first candidate is the
baseline; a ratio above 1 means faster than the baseline. On a CPU, the process time of one thread is measured, which
hardly depends on the load of the machine, and each round also times a matrix product of fixed size as a reference. On a
GPU, CUDA events around as many calls in a row as take 20 ms, and the peak of memory above the level before the call. A
candidate that fails on a GPU (a missing package, out of memory) is a row with the reason; the others go on.

Every benchmark takes `key=value` options, and `--smoke`: sizes so small that it ends in seconds, to check that it runs.
What it prints is also appended, as a line of JSON, to the file that the variable ZOO_BENCHMARK_RESULTS names, for
benchmarks/measures.py.
"""

import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch

Clock = Literal["cpu", "wall", "cuda"]
Makes = dict[str, Callable[..., Any]]
_PROBE = 1024
_IN_A_ROW = 0.02  # seconds of calls between two CUDA events: launching the first one no longer counts


@dataclass
class Table:
    """Seconds of each candidate in each round.

    Attributes:
        title: Title of the table.
        clock: How time was measured.
        seconds: {candidate: [seconds of each round]}; the first candidate is the baseline.
        items: Number of items that one call processes.
        peaks: On a GPU, the peak of allocated bytes of each candidate above the level before its call.
        probe: GF/s of the reference matrix product.
        flops: Of the matrix products of one call (see `transformer_flops`); 0 if they are not counted.
        moved: Bytes that one call has to read from memory at least, e.g. the weights for each token of a decoder.
        failed: {candidate: why it could not be measured}.
    """

    title: str
    clock: Clock
    seconds: dict[str, list[float]]
    items: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    probe: float = 0.0
    flops: float = 0.0
    moved: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Median seconds of a candidate."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str) -> float:
        """Speed relative to the baseline: median over rounds of their ratios within a round; NaN if it failed."""
        baseline = next(iter(self.seconds))
        if baseline in self.failed:
            return math.nan
        return statistics.median(a / b for a, b in zip(self.seconds[baseline], self.seconds[name], strict=False))

    def spread(self, name: str) -> float:
        """(max - min) / median of a candidate's seconds."""
        return (max(self.seconds[name]) - min(self.seconds[name])) / self.median(name)

    def __str__(self) -> str:
        """A Markdown table, followed by the machine and the versions of packages."""
        rounds = max(map(len, self.seconds.values()))
        head = ["", "ms", "ratio", "spread"] + ["items/s"] * bool(self.items) + ["peak MB"] * (self.clock == "cuda")
        head += ["TFLOP/s"] * bool(self.flops) + ["GB/s"] * bool(self.moved)
        lines = [f"\n{self.title}", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for name in self.seconds:
            if name in self.failed:
                lines.append(f"| {name} | failed: {self.failed[name]} " + "| " * (len(head) - 2) + "|")
                continue
            row = [
                name,
                f"{1e3 * self.median(name):.3g}",
                "-" if math.isnan(self.ratio(name)) else f"{self.ratio(name):.2f}x",
                f"{100 * self.spread(name):.0f} %",
            ]
            row += [f"{self.items / self.median(name):,.0f}"] * bool(self.items)
            row += [f"{self.peaks.get(name, 0) / 2**20:,.0f}"] * (self.clock == "cuda")
            row += [f"{self.flops / self.median(name) / 1e12:.3g}"] * bool(self.flops)
            row += [f"{self.moved / self.median(name) / 1e9:.3g}"] * bool(self.moved)
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
    flops: float = 0.0,
    moved: float = 0.0,
) -> Table:
    """Time the candidates against each other, print the table and return it.

    What is measured is also printed and recorded if something ends the run.

    Args:
        candidates: Name -> function to time; the first is the baseline of the ratios.
        rounds: Number of interleaved rounds that are measured.
        warmup: Number of rounds before them that are not measured.
        clock: `cpu` (process time, one thread), `wall` (all threads) or `cuda` (events, and peak memory; a candidate
            that raises an error is a row with the reason).
        title: Title of the table.
        items: Number of items that one call processes, for a column of items per second.
        flops: FLOPs of the matrix products of one call, for a column of TFLOP/s.
        moved: Bytes that one call has to read at least, for a column of GB/s.
    """
    if not candidates or rounds < 1:
        raise ValueError(f"{len(candidates)} candidates, {rounds} rounds: expected at least one of each")
    threads = torch.get_num_threads()
    if clock == "cpu":
        torch.set_num_threads(1)
    table = Table(title, clock, {name: [] for name in candidates}, items, flops=flops, moved=moved)
    probes: list[float] = []
    calls = dict.fromkeys(candidates, 1)
    complete = False
    try:
        for round_ in range(-warmup, rounds):
            for name, call in candidates.items():
                if name in table.failed:
                    continue
                try:
                    if round_ == 0 and clock == "cuda":
                        calls[name] = max(1, min(200, round(_IN_A_ROW / time_call(call, clock)[0])))
                    seconds, peak = time_call(call, clock, calls[name])
                except Exception as error:
                    if clock != "cuda":
                        raise
                    table.failed[name] = _reason(error)
                    continue
                if round_ >= 0:
                    table.seconds[name].append(seconds)
                    if clock == "cuda":
                        table.peaks[name] = max(peak, table.peaks.get(name, 0))
            if clock != "cuda" and round_ >= 0:
                probes.append(_sgemm(clock))
        complete = True
    finally:
        torch.set_num_threads(threads)
        table.probe = statistics.median(probes) if probes else 0.0
        if complete or any(table.seconds.values()):  # what is measured counts, also if time is up
            table.failed |= {name: "not reached" for name, found in table.seconds.items()
                             if not found and name not in table.failed}  # fmt: skip
            print(table, flush=True)
            _append(table)
    return table


def attempt(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    """The function that `make` returns; if making it fails, one that raises that error when it is timed.

    So that a model that cannot be made on a GPU is a row of its own, like one that cannot run.
    """
    try:
        return make()
    except Exception as error:
        failure = error

        def fail() -> object:
            raise failure

        return fail


def in_tables(compile: str, eager: Makes, ours: Makes, peer: Makes) -> list[Makes]:
    """The candidates of each table by the words of the option `compile=`: no, ours, peer; yes is all three.

    What is compiled comes after the rest, beside its first candidate, since compiling may take all the time.
    """
    base = dict([next(iter(eager.items()))])
    tables = {"no": eager, "ours": base | ours, "peer": base | peer}
    words = list(tables) if compile == "yes" else compile.split(",")
    if unknown := set(words) - set(tables):
        raise SystemExit(f"compile={compile}: {sorted(unknown)[0]!r} is none of {', '.join(tables)}, yes")
    return [tables[word] for word in words]


def for_device(calls: dict[str, Callable[[], object]], device: str) -> dict[str, Callable[[], object]]:
    """On a GPU the candidates in bfloat16, which are compared with each other there; elsewhere all of them."""
    return {name: call for name, call in calls.items() if device != "cuda" or "bfloat16" in name}


def transformer_flops(
    lengths: Iterable[int], *, width: int, depth: int, mlp_dim: int = 0, window: int = 0, head: int = 0
) -> float:
    """FLOPs of the products in one forward pass, two for each multiply-add; a training step has three times that.

    Args:
        lengths: Tokens of each row that are not padding.
        width: Width of the model.
        depth: Number of layers.
        mlp_dim: Width inside the MLP, 4 x `width` by default.
        window: Keys that a token sees, if not all of its row. Causal attention counts in full, as in nanoGPT.
        head: Classes or vocabulary of a head on every token.
    """
    inside = mlp_dim or 4 * width
    flops = 0.0
    for n in lengths:
        attention = 4 * width * n * min(n, window or n)
        flops += depth * (n * (8 * width**2 + 4 * width * inside) + attention) + 2 * n * width * head
    return flops


def record(title: str, values: Mapping[str, float | list[float]], clock: Clock = "cpu", **more: Any) -> None:
    """Append values to the file of results, if there is one.

    Args:
        title: Title of the table.
        values: {candidate: seconds of each round}, the first one the baseline; or {name: a number}.
        clock: How time was measured.
        more: Further entries of the line, such as `items` and `flops` of a call.
    """
    if file := os.environ.get("ZOO_BENCHMARK_RESULTS"):
        line = {"script": Path(sys.argv[0]).name, "title": title, "machine": machine(clock), "values": dict(values)}
        with open(file, "a") as lines:
            lines.write(json.dumps(line | more) + "\n")


def _append(table: Table) -> None:
    """Append a table to the file of results; what is not known is left out."""
    kept = {name: seconds for name, seconds in table.seconds.items() if name not in table.failed}
    more = {"items": table.items, "flops": table.flops, "moved": table.moved, "peaks": table.peaks,
            "failed": table.failed}  # fmt: skip
    record(table.title, kept, table.clock, **{key: value for key, value in more.items() if value})


def _reason(error: Exception) -> str:
    """An error in one short line that a cell of a table can hold."""
    text = " ".join(str(error).split()).replace("|", "/")
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__


def clock_of(device: str) -> Clock:
    """The clock for a device: events on a GPU, the CPU time of one thread elsewhere."""
    return "cuda" if device == "cuda" else "cpu"


def dtype_of(o: SimpleNamespace) -> torch.dtype:
    """The option `dtype=`; by default bfloat16 on a GPU, which is what it is made for, and float32 elsewhere."""
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    name = o.dtype or ("bfloat16" if o.device == "cuda" else "float32")
    if name not in names:
        raise SystemExit(f"dtype={name}: expected float32 or bfloat16")
    return names[name]


def time_call(call: Callable[[], object], clock: Clock, calls: int = 1) -> tuple[float, int]:
    """Seconds of one call, the mean of `calls` in a row, and its peak of allocated bytes on a GPU."""
    if clock == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3 / calls, torch.cuda.max_memory_allocated() - before
    now = time.process_time if clock == "cpu" else time.perf_counter
    before = now()
    for _ in range(calls):
        call()
    return max(now() - before, 1e-9) / calls, 0


def _sgemm(clock: Clock) -> float:
    """GF/s of one float32 matrix product."""
    a = torch.ones(_PROBE, _PROBE)
    seconds, _ = time_call(lambda: a @ a, clock)
    return 2 * _PROBE**3 / seconds / 1e9


def status_bytes(field: str) -> int:
    """Bytes of a memory field of this process: VmRSS (resident), VmHWM (most of it so far), RssAnon (resident without
    the pages of files, which the system takes back when it needs them)."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


# glibc gives freed memory back at once: for processes of which only the peak of memory is measured.
GLIBC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def peak_bytes(call: Callable[[], object], device: str = "cpu") -> int:
    """Most bytes that a call holds above those before it: of this process, or allocated on the GPU."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM is the memory of now again
    before = status_bytes("VmRSS")
    call()
    return status_bytes("VmHWM") - before


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


def clock(device: str) -> float:
    """Seconds: those of the processor for each thread on a CPU, which other programs do not take from a model."""
    return time.process_time() / torch.get_num_threads() if device == "cpu" else time.perf_counter()
