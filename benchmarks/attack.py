"""Attack the library, and print what it let through: damaged folders, kills of a recipe, a full disk, changed data.

    python benchmarks/attack.py            2,500 damaged inputs, 20 kills with one process and 20 with two: an hour
    python benchmarks/attack.py --quick    a few of each: two minutes

Damaged inputs are those of tests/faults/test_fuzz.py, over folders of every format. A killed recipe (SIGKILL, at any
moment of a step) is started again with the same command until it ends; then every weight, optimizer state and logged
metric must be equal, bit for bit, to those of a run that was not killed. The exit status is 1 if anything got through.
"""

import argparse
import csv
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
FUZZ = "tests/faults/test_fuzz.py"
FORMATS = 13  # folders that the fuzz test damages
FAULTS = {
    "full or read-only disk": "tests/faults/test_full_or_read_only_disk.py",
    "bits flipped in checkpoints, leftovers of kills": "tests/faults/test_damaged_checkpoints.py",
    "data changed before a resume": "tests/faults/test_data_changed_before_resume.py",
}
OPTIONS = (
    *("data=synthetic", "model=vit_cifar_tiny", "max_train_samples=80", "max_test_samples=20", "batch_size=8"),
    *("accelerator=cpu", "precision=fp32", "ema=0.9", "log_every=1", "checkpoint_every=1", "validate_every=5"),
    *("plots=false", "progress=false"),
)
TIMES = ("seconds", "items_per_second")  # columns of metrics.csv that differ between equal runs


@dataclass
class Row:
    """One kind of attack: how many there were, what got through, and how long they took."""

    attack: str
    count: int
    through: list[str]
    seconds: float


def main() -> int:
    """Run all attacks, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few of each")
    quick = parser.parse_args().quick
    rows = [damaged_inputs(FORMATS * 8 if quick else 2500)]
    for processes in (1, 2):
        rows.append(kills(processes, 1 if quick else 20))
        report(rows[-1])
    rows += [
        fault_tests(attack, file, "flip or real or read_only or csv" if quick else "")
        for attack, file in FAULTS.items()
    ]
    print("\n| attack | inputs | got through | seconds |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.attack} | {row.count:,} | {len(row.through)} | {row.seconds:.0f} |")
    for row in rows:
        for text in row.through:
            print(f"\n{row.attack}: {text}")
    return int(any(row.through for row in rows))


def report(row: Row) -> None:
    """One line on stderr as soon as an attack is over."""
    print(
        f"{row.attack}: {row.count} in {row.seconds:.0f} s, {len(row.through)} got through", file=sys.stderr, flush=True
    )


def run_tests(*arguments: str, **variables: str) -> tuple[int, list[str]]:
    """(number of tests, failures) of a run of pytest."""
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=line", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment() | variables, capture_output=True, text=True)
    failures = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode not in (0, 1):
        failures.append(f"pytest ended with status {done.returncode}: {(done.stdout + done.stderr)[-300:]}")
    return sum(int(n) for n in re.findall(r"(\d+) (?:passed|failed|error)", done.stdout)), failures


def environment() -> dict[str, str]:
    """The environment of a process that runs this checkout."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def damaged_inputs(count: int) -> Row:
    """Folders of every format with damaged files: one clear error each, or a model with the same numbers."""
    started, each = time.perf_counter(), math.ceil(count / FORMATS)
    _, failures = run_tests(FUZZ, ZOO_FUZZ_EXAMPLES=str(each))
    row = Row("damaged files of models", each * FORMATS, failures, time.perf_counter() - started)
    report(row)
    return row


def fault_tests(attack: str, file: str, only: str) -> Row:
    """The tests of one kind of fault."""
    started = time.perf_counter()
    count, failures = run_tests(file, *(["-k", only] if only else []))
    row = Row(attack, count, failures, time.perf_counter() - started)
    report(row)
    return row


# --- kills ------------------------------------------------------------------------------------------------------------


def kills(processes: int, count: int) -> Row:
    """Kill a recipe `count` times, start it again each time, and compare it with a run that was not killed."""
    started, rng = time.perf_counter(), random.Random(processes)
    steps = 2 * count + 4
    options = [*OPTIONS, f"steps={steps}", f"devices={processes}"]
    with tempfile.TemporaryDirectory() as temporary:
        whole, killed = Path(temporary) / "whole", Path(temporary) / "killed"
        through = [f"without a kill: {text}" for text in finish(whole, options)]
        done = 0
        for number in range(count):
            done += kill_after(killed, options, step=2 * number + 1, wait=rng.uniform(0, 0.3))
        through += finish(killed, options) or differences(whole, killed)
    return Row(f"kills of a recipe, {processes} process{'es' * (processes > 1)}", done, through,
               time.perf_counter() - started)  # fmt: skip


def start(folder: Path, options: list[str]) -> "subprocess.Popen[bytes]":
    """The recipe as a group of processes that can be killed together."""
    command = [sys.executable, "recipes/vit_cifar.py", *options, f"run_dir={folder}"]
    log = open(folder.with_suffix(".log"), "ab")  # noqa: SIM115  (the processes write to it)
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log, start_new_session=True)


def kill_after(folder: Path, options: list[str], step: int, wait: float) -> bool:
    """Start the recipe and kill it some time after it has logged a step; False if it ended before."""
    process = start(folder, options)
    while process.poll() is None and last_step(folder) < step:
        time.sleep(0.005)
    time.sleep(wait)
    if process.poll() is not None:
        return False
    stop(process)
    return True


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Kill a group of processes, if any of it is left."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def finish(folder: Path, options: list[str]) -> list[str]:
    """Run the recipe to its end; its last line if it fails."""
    process = start(folder, options)
    try:
        status = process.wait()
    finally:  # also if this script is interrupted
        stop(process)
    if status:
        lines = folder.with_suffix(".log").read_text(errors="replace").splitlines()
        return [f"exit status {status}: {lines[-1] if lines else ''}"]
    return []


def rows_of(folder: Path) -> list[dict[str, str]]:
    """The complete rows of metrics.csv, without the times."""
    try:
        text = (folder / "metrics.csv").read_text()
    except FileNotFoundError:
        return []
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def last_step(folder: Path) -> int:
    """The last step that was logged; 0 before the first."""
    rows = rows_of(folder)
    return int(rows[-1]["step"]) if rows else 0


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two runs that should be equal."""
    found = [] if rows_of(one) == rows_of(other) else ["metrics.csv differs"]
    for name in ("last.ckpt", "best.ckpt"):
        first, second = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (one, other))
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
            if not equal(first[part], second[part]):
                found.append(f"{part} of {name} differs")
    return found


def equal(one: Any, other: Any) -> bool:
    """Whether two nested values are equal, tensors bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


if __name__ == "__main__":
    sys.exit(main())
