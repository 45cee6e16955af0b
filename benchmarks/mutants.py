"""How many small faults the tests find: those of mutants.yaml are put into a copy of the code, one at a time.

    python benchmarks/mutants.py [--only PATTERN] [--workers N] [--full] [--skip-first] [--target 0.97]
    python benchmarks/mutants.py --list | --check

An entry of mutants.yaml has the file, the exact text (once in the file), its replacement, what that breaks, and the
tests that are expected to fail: arguments of pytest, the fewest that are enough, because they are run for every fault.
A fault is caught if one of them fails; all of them must pass without it. `--full` runs the whole suite for faults that
survive. `--check` runs no test: every text must be found once, and the changed file must still parse (so does
tests/test_mutants.py). PATTERN is searched in the file and in what breaks.

Exit status: 0 if the share of caught faults reaches the target, 1 if not, 2 if the list does not fit the code.
"""

import argparse
import ast
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from queue import SimpleQueue

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "benchmarks" / "mutants.yaml"
PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
SECONDS = 900  # of the tests of one fault; a fault that hangs them is caught
COUNTER = count(1)
SERVER = multiprocessing.get_context("forkserver")
# Imported once, before the processes are forked: all that takes long, but not zoo, which changes.
PRELOADED = [
    "pytest", "hypothesis", "torch", "torchaudio", "torchmetrics", "torchvision", "lightning", "datasets",
    "transformers.modeling_utils", "timm", "open_clip", "yaml",
]  # fmt: skip
FAILED, NOT_PASSED = 1, (1, 2)  # exit statuses of pytest: a test failed, or a test file could not be imported


@dataclass(frozen=True)
class Mutant:
    """A small fault: `text` in `file` becomes `replacement`; `tests` are arguments of pytest."""

    file: str
    breaks: str
    text: str
    replacement: str
    tests: tuple[str, ...]

    def changed(self, source: str) -> str:
        """The source with the fault. Raises ValueError if the text is not in it exactly once, or it does not parse."""
        if (times := source.count(self.text)) != 1:
            raise ValueError(f"the text is found {times} times, expected once: {self.text!r}")
        result = source.replace(self.text, self.replacement)
        try:
            tree = ast.dump(ast.parse(result))
        except SyntaxError as error:
            raise ValueError(f"the changed file does not parse ({error})") from None
        if tree == syntax_of(source):
            raise ValueError("the change is only one of comments or spaces")
        return result

    def __str__(self) -> str:
        return f"{self.file}: {self.breaks}"


@cache
def syntax_of(source: str) -> str:
    """The syntax tree of a file, which many faults change."""
    return ast.dump(ast.parse(source))


def read_list(file: Path = LIST) -> list[Mutant]:
    """All entries of the list, in its order."""
    entries = yaml.safe_load(file.read_text())
    return [
        Mutant(path, one["breaks"], one["text"], one["replacement"], tuple(one["tests"].split()))
        for path, several in entries.items()
        for one in several
    ]


def problems(mutants: Sequence[Mutant]) -> list[str]:
    """What does not fit the code: texts that are not found once, changes that do not parse, tests that do not exist."""
    found = []
    for mutant in mutants:
        try:
            mutant.changed((ROOT / mutant.file).read_text())
        except (ValueError, OSError) as error:
            found.append(f"{mutant}: {error}")
        for test in mutant.tests:
            file, _, name = test.partition("::")
            if not (ROOT / file).exists() or f"def {name.split('[')[0]}" not in (ROOT / file).read_text():
                found.append(f"{mutant}: there is no test {test}")
    counts = Counter((mutant.file, mutant.text, mutant.replacement) for mutant in mutants)
    return found + [f"{file}: {text!r} is there twice" for (file, text, _), times in counts.items() if times > 1]


# --- running ------------------------------------------------------------------------------------------------------


def copy_tree(folder: Path) -> None:
    """All files of the repository, tracked and new, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def run_tests(folder: Path, tests: Sequence[str], options: Sequence[str] = PYTEST) -> tuple[int, str]:
    """(exit status, output) of pytest in a copy of the repository; a run that takes too long has failed."""
    output = folder.with_suffix(".txt")
    process = SERVER.Process(target=_pytest, args=(str(folder), str(output), [*options, *tests]))
    process.start()
    try:
        process.join(SECONDS)
        if process.exitcode is None:
            return FAILED, f"no end after {SECONDS} s"
        return process.exitcode, output.read_text(errors="replace")
    finally:
        if process.exitcode is None:
            os.killpg(process.pid or 0, signal.SIGKILL)


def _pytest(folder: str, output: str, arguments: list[str]) -> None:
    """In a process forked from one that has imported torch, which is most of the time of a short test."""
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = folder
    sys.path[:] = [folder, *(path for path in sys.path if Path(path) not in (ROOT, ROOT / "benchmarks"))]
    import pytest

    status = pytest.main(arguments)
    sys.stdout.flush()
    os._exit(int(status))


@contextmanager
def changed_file(folder: Path, mutant: Mutant) -> Iterator[None]:
    """The copy with the fault in it. Times of change differ by whole seconds, so that no compiled file is stale."""
    file = folder / mutant.file
    source, when = file.read_text(), file.stat().st_mtime
    try:
        file.write_text(mutant.changed(source))
        os.utime(file, (when, when + next(COUNTER)))
        yield
    finally:
        file.write_text(source)
        os.utime(file, (when, when))


def run_mutant(folder: Path, mutant: Mutant, full: bool) -> bool:
    """Whether the tests find the fault."""
    with changed_file(folder, mutant):
        status, output = run_tests(folder, mutant.tests)
        if status == 0 and full:
            status, output = run_tests(folder, ("tests",))
    if status not in (0, *NOT_PASSED):
        raise RuntimeError(f"{mutant}: pytest ended with status {status}\n{output[-2000:]}")
    return status != 0


def run_all(mutants: Sequence[Mutant], workers: int, full: bool, first: bool) -> list[bool]:
    """Whether each fault is caught, each worker in a copy of the repository of its own. first: run without faults."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | os.environ
    SERVER.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        folders: SimpleQueue[Path] = SimpleQueue()
        for number in range(workers):
            copy_tree(Path(temporary, str(number)))
            folders.put(Path(temporary, str(number)))
        if first:
            tests = sorted({test for mutant in mutants for test in mutant.tests})
            status, output = run_tests(Path(temporary, "0"), tests, PYTEST[1:])
            if status:
                raise RuntimeError(f"the tests fail without any fault:\n{output[-4000:]}")

        def run_one(number: int) -> bool:
            folder, start = folders.get(), time.perf_counter()
            try:
                caught = run_mutant(folder, mutants[number], full)
            finally:
                folders.put(folder)
            state = "caught" if caught else "SURVIVED"
            print(f"[{number + 1}/{len(mutants)}] {state:8} {time.perf_counter() - start:5.1f} s  {mutants[number]}",
                  flush=True)  # fmt: skip
            return caught

        with ThreadPoolExecutor(workers) as pool:
            try:
                return list(pool.map(run_one, range(len(mutants))))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def package(mutant: Mutant) -> str:
    """`zoo/nn` of `zoo/nn/losses/ctc.py`."""
    return "/".join(Path(mutant.file).parts[:2])


def table(mutants: Sequence[Mutant], caught: Sequence[bool]) -> str:
    """A Markdown table: faults and caught faults of each package."""
    total = Counter(map(package, mutants))
    found = Counter(package(mutant) for mutant, yes in zip(mutants, caught, strict=True) if yes)
    rows = [f"| {name} | {of} | {found[name]} | {found[name] / of:.0%} |" for name, of in sorted(total.items())]
    last = f"| all | {len(mutants)} | {sum(caught)} | {sum(caught) / len(mutants):.1%} |"
    return "\n".join(["| package | faults | caught | score |", "|---|---|---|---|", *rows, last])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", default="", help="a regular expression")
    parser.add_argument("--workers", type=int, default=1, help="faults that are tested at the same time (1)")
    parser.add_argument("--full", action="store_true", help="run the whole suite for faults that survive")
    parser.add_argument("--skip-first", action="store_true", help="do not first run all tests without any fault")
    parser.add_argument("--target", type=float, default=0.97, help="share of faults to be caught (0.97)")
    parser.add_argument("--list", action="store_true", help="print the faults and their tests")
    parser.add_argument("--check", action="store_true", help="only compare the list with the code")
    options = parser.parse_args(argv)
    mutants = [mutant for mutant in read_list() if re.search(options.only, str(mutant))]
    if not mutants:
        parser.error(f"--only {options.only}: no fault of the list fits")
    if options.list:
        print("\n".join(f"{mutant}\n    {' '.join(mutant.tests)}" for mutant in mutants))
        return 0
    if wrong := problems(mutants):
        print("\n".join(wrong), file=sys.stderr)
        return 2
    if options.check:
        print(f"{len(mutants)} faults fit the code")
        return 0
    try:
        caught = run_all(mutants, options.workers, options.full, not options.skip_first)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{table(mutants, caught)}")
    if survivors := [str(mutant) for mutant, yes in zip(mutants, caught, strict=True) if not yes]:
        print("\nnot caught:", *survivors, sep="\n  ")
    return 0 if sum(caught) >= options.target * len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
