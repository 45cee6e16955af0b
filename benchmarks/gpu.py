"""The measures of one GPU beside their peers, in one process within five minutes, and their table in docs/figures.md.

    benchmarks/gpu.sh                       all of them; prints one table, keeps it in results/<name of the GPU>.yaml
    ZOO_GPU_SMOKE=1 benchmarks/gpu.sh       their smallest sizes, also without a GPU; keeps nothing
    benchmarks/gpu.sh --seconds 200         what fits this time, the most important first; the table comes in any case
    python benchmarks/gpu.py --only bert    the parts whose name contains `bert`
    python benchmarks/gpu.py --write        write the table of docs/figures.md from the values that are kept

gpu.yaml has the measures: text, command, target, and where the values are in what the command records. Candidates whose
name begins with `zoo` are ours, the others peers; of each side the fastest counts. Both get the same inputs in the same
dtype and run in turns; times are medians of CUDA events. The bound of a measure is the time of its matrix products at
the speed of an 8192^3 product in bfloat16, or of the bytes that it has to read at the speed of a copy, whichever is
longer; both speeds are measured at the start. MFU is bound / time, so for products

    MFU = FLOPs of the products (two for each multiply-add; a training step: three forward passes) / (time x peak)

Exit status: 1 if a part fails, or does not record what gpu.yaml reads.
"""

import argparse
import datetime
import gc
import json
import os
import re
import runpy
import shlex
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from _gpu_table import Values, table
from measures import HERE, PAGE, RESULTS, ROOT, put, read_results

STARTED = time.perf_counter()

MEASURES = HERE / "gpu.yaml"
BEGIN = "<!-- gpu: python benchmarks/gpu.py --write -->"
SKIPPED = 77
BUDGET = 285  # seconds of everything, imports included, if --seconds does not say otherwise
FORMULA = (
    "MFU = FLOPs of the matrix products, two for each multiply-add, three forward passes for a training step / (time x "
    "peak); where reading the weights is the bound, the share of the speed of a copy."
)
Records = list[dict[str, Any]]


class OutOfTime(BaseException):
    """The time of a part is over. No Exception, so that a benchmark that continues after errors does not catch it."""


def read_measures() -> dict[str, dict[str, Any]]:
    """`parts` and `measures` of gpu.yaml."""
    return yaml.safe_load(MEASURES.read_text())


# --- measuring --------------------------------------------------------------------------------------------------------


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime after so many seconds of wall time.

    And every two seconds after that: Python drops what is raised inside a destructor or a callback of a weak reference.
    """

    def end(*args: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_part(command: str, seconds: float) -> tuple[Records, str]:
    """(what a benchmark records within its time, in this process; why it has not come to its end, or '')."""
    script, *words = shlex.split(command)
    if not (HERE / script).is_file():
        return [], f"skipped: there is no benchmarks/{script}"
    argv, problem = sys.argv, ""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        os.environ["ZOO_BENCHMARK_RESULTS"] = file.name
        sys.argv = [str(HERE / script), *words]
        try:
            with time_limit(seconds):
                runpy.run_path(sys.argv[0], run_name="__main__")
        except OutOfTime:
            problem = f"failed: no end after {seconds:.0f} s"
        except SystemExit as end:
            if end.code == SKIPPED:
                problem = "skipped: its data or weights are not here"
            elif end.code not in (None, 0):
                problem = f"failed: exit status {end.code}" if isinstance(end.code, int) else f"failed: {end.code}"
        except Exception as error:
            traceback.print_exc(limit=-6)
            problem = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        finally:
            sys.argv = argv
            del os.environ["ZOO_BENCHMARK_RESULTS"]
        records = [json.loads(line) for line in Path(file.name).read_text().splitlines()]
    return records, problem


def clean_up(threads: int) -> None:
    """Give back what a part has left: models, compiled code, settings."""
    import torch

    torch.set_grad_enabled(True)
    torch.set_num_threads(threads)
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def ceilings(device: str) -> dict[str, float]:
    """FLOP/s of a square bfloat16 product and bytes per second (read and written) of a copy: what the device can do."""
    import torch
    from _measure import clock_of, time_call

    n, size = (8192, 2**30) if device == "cuda" else (256, 2**20)
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    source, target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))

    def median(call: Any) -> float:
        call()
        return statistics.median(time_call(call, clock_of(device), 5)[0] for _ in range(5))

    return {
        "product": 2 * n**3 / median(lambda: torch.mm(a, b)),
        "copy": 2 * size / median(lambda: target.copy_(source)),
    }


# --- values -----------------------------------------------------------------------------------------------------------


def find(records: Records, measure: dict[str, Any], any_size: bool) -> dict[str, Any]:
    """What was recorded for a measure, the lines of its title as one; without any, of titles that begin with it.

    any_size: numbers in the title may differ.
    """

    def key(title: str) -> str:
        return re.sub(r"[\d,]*\d", "#", title) if any_size else title

    title = key(measure.get("smoke_title", measure["title"]) if any_size else measure["title"])
    lines = [line for line in records if key(line["title"]) == title]
    lines = lines or [line for line in records if key(line["title"]).startswith(f"{title}, ")]
    found: dict[str, Any] = {"values": {}, "peaks": {}, "failed": {}}
    for line in lines:
        found |= {name: value for name, value in line.items() if name not in found}
        for name in ("values", "peaks", "failed"):
            found[name] = found[name] | line.get(name, {})
    return found


def fastest(values: dict[str, Any]) -> tuple[str, float]:
    """The candidate with the smallest median of seconds, or the only one with a number."""
    medians = {name: statistics.median(v) if isinstance(v, list) else v for name, v in values.items()}
    return min(medians.items(), key=lambda item: item[1])


def converted(seconds: float, name: str, found: dict[str, Any], measure: dict[str, Any]) -> float:
    """The median of a candidate in the unit of the measure."""
    unit = measure["unit"]
    if not isinstance(found["values"][name], list):
        return seconds
    if unit == "MB":
        return found["peaks"].get(name, 0) / 2**20
    if unit in ("ms", "s"):
        return seconds * (1e3 if unit == "ms" else 1)
    return found["items"] / seconds


def value_of(records: Records, measure: dict[str, Any], device: dict[str, float], any_size: bool) -> dict[str, Any]:
    """The values of a measure: ours, the peer's, the bound. Without `ours`, `failed` says why."""
    found = find(records, measure, any_size)
    own_names = measure.get("ours") or [name for name in found["values"] if name.startswith("zoo")]
    peer_names = measure.get("peer") or [name for name in found["values"] if not name.startswith("zoo")]
    own, peers = ({name: v for name, v in found["values"].items() if name in names}
                  for names in (own_names, peer_names))  # fmt: skip
    value: dict[str, Any] = {"date": datetime.date.today()}
    if not own:
        reasons = [f"{name}: {why}" for name, why in found["failed"].items() if name in own_names or "zoo" in name]
        titles = ", ".join(sorted({repr(line["title"]) for line in records}))
        value["failed"] = "; ".join(reasons) or f"not recorded (recorded are {titles or 'no tables'})"
        return value
    for side, candidates in (("ours", own), ("peer", peers)):
        if candidates:
            name, seconds = fastest(candidates)
            value[side] = rounded(converted(seconds, name, found, measure))
            value[f"{side}_by"] = name
    _, seconds = fastest(own)
    stated = {} if any_size else measure  # of the full size
    flops, moved = (float(stated.get(name) or found.get(name) or 0) for name in ("flops", "moved"))
    bound = max(flops / device["product"], moved / device["copy"])
    if bound and measure["unit"] != "MB":
        value |= {
            "bound": rounded(converted(bound, value["ours_by"], found, measure)),
            "share": rounded(100 * bound / seconds),
            "of": "products" if flops / device["product"] > moved / device["copy"] else "memory",
        }
    return value


def rounded(value: float) -> float:
    """Three digits."""
    return float(f"{value:.3g}")


# --- the page and the kept values -------------------------------------------------------------------------------------


def described(kept: dict[str, Any]) -> str:
    """The machine, the ceilings, the command."""
    device, dates = kept["ceilings"], sorted({str(v["date"]) for v in kept["values"].values() if not v.get("marked")})
    text = f"{kept['machine']}; {kept['versions']}. Its ceilings, measured there: bf16 matrix product "
    text += f"{device['product'] / 1e12:.0f} TFLOP/s (the peak of MFU; the data sheet of this chip as an SXM has 989), "
    text += f"copy {device['copy'] / 1e12:.2f} TB/s."
    text += f" `benchmarks/gpu.sh`, {dates[-1]}." if dates else " Not yet run in full for this version."
    marked = any(value.get("marked") for value in kept["values"].values())
    return f"{text} {kept['notes']}" if marked and kept.get("notes") else text


def section() -> str:
    """What docs/figures.md has between the marks: a table for each GPU."""
    read = read_measures()
    texts = [f"{described(kept)}\n\n{table(read['parts'], read['measures'], kept['values'])}"
             for kept in read_results("cuda")]  # fmt: skip
    return "\n\n".join([*texts, f"Bold values fall short of the target. {FORMULA}"])


def keep(values: Values, device: dict[str, float]) -> Path:
    """Write the values to the file of this GPU, which keeps those that were not measured now."""
    import torch
    from _measure import machine

    gpu, versions = machine("cuda").split(", Python ")
    file = RESULTS / f"{'_'.join(re.sub(r'[^a-z0-9]+', ' ', gpu.lower()).split()[:2])}.yaml"
    kept: dict[str, Any] = {"device": "cuda", "values": {}}
    if file.exists():
        kept |= yaml.safe_load(file.read_text())
    kept |= {"machine": f"one {gpu}, {os.cpu_count()} CPU cores",
             "versions": f"Python {versions}, CUDA {torch.version.cuda}",
             "ceilings": {name: float(f"{value:.4g}") for name, value in device.items()}}  # fmt: skip
    kept["values"] |= {name: value for name, value in values.items() if "ours" in value}
    file.write_text(yaml.safe_dump(kept, sort_keys=False, width=1000, default_flow_style=None))
    return file


def measure_part(name: str, seconds: float, is_cuda: bool, smoke: bool) -> tuple[Records, str]:
    """(what a part records, what went wrong in it or '')."""
    part, threads = read_measures()["parts"][name], torch_threads()
    command = part["smoke"] if smoke else part["command"]
    script = HERE / shlex.split(command)[0]
    if is_cuda and script.is_file() and "device=" in script.read_text():
        command += " device=cuda"
    print(f"\n=== {name}: {command} (at {time.perf_counter() - STARTED:.0f} s, {seconds:.0f} s)", flush=True)
    started = time.perf_counter()
    records, problem = run_part(command, seconds)
    print(f"=== {name}: {problem or 'ok'}, {time.perf_counter() - started:.0f} s", flush=True)
    try:
        clean_up(threads)
    except Exception as error:  # after an error of CUDA nothing works on the device; the table comes all the same
        problem = problem or f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return records, problem and f"{name}: {problem}"


def torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def values_of(name: str, records: Records, device: dict[str, float], is_cuda: bool, smoke: bool) -> Values:
    """The values of the measures of a part."""
    return {key: value_of(records, one, device, any_size=smoke)
            for key, one in read_measures()["measures"].items()
            if one.get("part") == name and (is_cuda or not one.get("gpu_only"))}  # fmt: skip


def measure_all(only: str, smoke: bool, budget: float) -> int:
    """Run the parts, print the table and keep the values; returns the exit status."""
    import torch

    read, cuda = read_measures(), torch.cuda.is_available()
    if not (cuda or smoke):
        print("there is no CUDA device here: ZOO_GPU_SMOKE=1 runs the smallest sizes on the CPU", file=sys.stderr)
        return 2
    device = ceilings("cuda" if cuda else "cpu")
    print(f"bf16 product {device['product'] / 1e12:.1f} TFLOP/s, copy {device['copy'] / 1e12:.3f} TB/s", flush=True)
    values: Values = {}
    problems: list[str] = []
    records: dict[str, Records] = {}
    for name, part in read["parts"].items():
        if only not in name:
            continue
        seconds = 120 if smoke else min(part["seconds"], budget - (time.perf_counter() - STARTED))
        if seconds < 5:
            problems.append(f"{name}: failed: nothing is left of {budget:.0f} s")
            continue
        found, problem = measure_part(name, seconds, cuda, smoke)
        problems += [problem] * bool(problem)
        base = part.get("adds_to", name)
        records.setdefault(base, []).extend(found)
        if ": skipped" in problem and not records[base]:
            continue
        new = values_of(base, records[base], device, cuda, smoke)
        values |= new
        problems += [
            f"{key}: failed: {value['failed']}" for key, value in new.items() if "failed" in value and not problem
        ]
        if cuda and not smoke:
            keep(values, device)
    measures = {key: one for key, one in read["measures"].items() if one.get("part") in records}
    print(f"\n{table(read['parts'], measures, values)}\n\n{FORMULA}")
    print(f"The peak is {device['product'] / 1e12:.0f} TFLOP/s, measured here.", end=" ")
    print(f"All in {time.perf_counter() - STARTED:.0f} s.")
    print(*problems, sep="\n", flush=True)
    return int(any(": failed:" in text for text in problems))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="parts whose name contains TEXT (default: all)")
    parser.add_argument("--write", action="store_true", help="write the table of the values that are kept")
    parser.add_argument("--smoke", action="store_true", help="smallest sizes; also ZOO_GPU_SMOKE=1")
    parser.add_argument("--seconds", type=float, default=BUDGET, help=f"the most that it may take (default: {BUDGET})")
    options = parser.parse_args(argv)
    if options.write:
        put(PAGE, BEGIN, section())
        return 0
    sys.path[:0] = [str(ROOT)]
    smoke = options.smoke or os.environ.get("ZOO_GPU_SMOKE", "") not in ("", "0")
    return measure_all(options.only, smoke, options.seconds)


if __name__ == "__main__":
    sys.exit(main())
