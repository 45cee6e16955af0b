"""`zoo compare`: compare several values of one setting of a recipe, over several seeds. Torch-free.

    zoo compare vit_cifar attention=softmax,performer,my_file:MyCore seeds=3 max_minutes=5

Each (value, seed) is a run of the recipe in its own process and folder. Runs with the same seed start from the same
initial weights, as far as their models share parameters, and see the same batches. All values are checked before the
first run, as far as a run goes before its training, and are run with the first seed before the next seed. The same
command resumes an interrupted comparison. With two settings of several values the first is compared at each value of
the second, see `grid.py`.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo.training.run_dir import write_text
from zoo.training.sweep.check import checkable, errors_of
from zoo.training.sweep.grid import Grid
from zoo.training.sweep.results import Comparison, Trial, choose_metric
from zoo.utils.errors import SeveralErrors, did_you_mean

OWN_OPTIONS = ("seeds", "max_minutes", "out", "metric")
_RESERVED = {
    "seed": "use seeds=3 or seeds=0,7",
    "run_dir": "use out=",
    "resume": "omit it: an interrupted comparison resumes",
}
_RUN_DEFAULTS = {"plots": "false", "progress": "false"}
_SETTINGS = "compare.json"
_RUNNER = ("-m", "zoo.training.sweep.compare")  # runs `_record` below in a separate process


@dataclass(frozen=True)
class Plan:
    """The runs of a comparison.

    Attributes:
        script: The script of the recipe.
        key, values: The setting to compare, and its values.
        seeds: Seeds that each value is run with.
        minutes: Time budget of each run, or None.
        shared: Options that all runs share.
        out: Folder of the comparison.
        metric: The metric to compare, or None to choose one.
        column_key, columns: A second setting that differs, and its values; empty for a comparison of one.
    """

    script: Path
    key: str
    values: list[str]
    seeds: list[int]
    minutes: float | None
    shared: list[str]
    out: Path
    metric: str | None = None
    column_key: str = ""
    columns: list[str] = field(default_factory=list)

    def at_columns(self) -> "dict[str, Plan]":
        """{value of the second setting: the comparison of the first at it}; {"": this plan} without a second one."""
        if not self.columns:
            return {"": self}
        name = self.column_key.rpartition(".")[2]
        return {value: replace(self, shared=[*self.shared, f"{self.column_key}={value}"], columns=[],
                               out=self.out / f"{name}-{_file_name(value)}") for value in self.columns}  # fmt: skip

    def folder(self, value: str, seed: int) -> Path:
        """Folder of a run."""
        return self.out / _file_name(value) / f"seed-{seed}"

    def fixed(self) -> dict[str, Any]:
        """The parts that may not change when a comparison is resumed; values, seeds and minutes may be added."""
        return {"recipe": self.script.stem, "key": self.key, "options": sorted(self.shared)}


def compare(recipe: str, options: list[str]) -> Comparison | Grid:
    """Run or resume a comparison, and write its table and plot.

    Args:
        recipe: Name of a script in `recipes/`, or a path to one.
        options: `key=value` options: one key with several values separated by commas, or two; `seeds` (a number or a
            list, default 3), `max_minutes` (of each run), `out` (folder), `metric`; all others are passed to the
            recipe.

    Raises: ValueError for options that do not define a comparison, or that the recipe rejects.
    """
    plan = read_plan(recipe, options)
    plans = plan.at_columns()
    for each in plans.values():
        check_folder(each)
    for each in plans.values():
        check_values(each)
    comparisons = {column: _run_plan(each, column) for column, each in plans.items()}
    if not plan.columns:
        return comparisons[""]
    grid = Grid(plan.column_key, comparisons, plan.out)
    grid.write()
    return grid


def _run_plan(plan: Plan, column: str) -> Comparison:
    """Run a comparison of one key. column: the value of the other key, for the messages."""
    trials = run_trials(plan, f", {plan.column_key}={column}" if column else "")
    metric = choose_metric(trials, plan.metric)
    comparison = Comparison(plan.script.stem, plan.key, plan.values, plan.seeds, trials, metric, plan.out)
    comparison.write()
    return comparison


def run_trials(plan: Plan, at: str = "") -> list[Trial]:
    """The runs of a plan, each unless it is complete already; a failed run is a trial with its failure.

    at: what the messages say besides the number of the run.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    write_text(plan.out / _SETTINGS, json.dumps(plan.fixed(), indent=2) + "\n")
    pairs = [(value, seed) for seed in plan.seeds for value in plan.values]
    return [_trial(plan, value, seed, f"{i} of {len(pairs)}{at}") for i, (value, seed) in enumerate(pairs, 1)]


def read_plan(recipe: str, options: list[str]) -> Plan:
    """Make a plan from command line options. Raises: ValueError, with a hint what to change."""
    script, given = find_recipe(recipe), _parse_options(options)
    several = {key: parts for key, value in given.items() if key not in OWN_OPTIONS and len(parts := split(value)) > 1}
    if len(several) not in (1, 2):
        problem = f"{' and '.join(several)} have several values" if several else "no option has several values"
        raise ValueError(f"{problem}: one option may differ, e.g. attention=softmax,performer, or two")
    for key, values in several.items():
        if len(set(values)) < len(values) or "" in values:
            raise ValueError(f"{key}={given[key]}: expected values that are all different and not empty")
    key, column_key = [*several, ""][:2]
    shared = [f"{name}={value}" for name, value in given.items() if name not in (*OWN_OPTIONS, *several)]
    name = "-".join(each.rpartition(".")[2] for each in several)
    out = Path(given.get("out") or Path("runs") / f"compare-{script.stem}-{name}")
    minutes = _positive("max_minutes", given["max_minutes"]) if "max_minutes" in given else None
    return Plan(script, key, several[key], _seeds(given.get("seeds", "3")), minutes, shared, out, given.get("metric"),
                column_key, several.get(column_key, []))  # fmt: skip


def find_recipe(recipe: str) -> Path:
    """The script of a recipe: in `recipes/` of the current folder, or of the checkout of this package."""
    if recipe.endswith(".py"):
        if not Path(recipe).is_file():
            raise ValueError(f"{recipe} does not exist")
        return Path(recipe).resolve()
    folders = [Path("recipes"), Path(__file__).parents[3] / "recipes"]
    for folder in folders:
        if (file := folder / f"{recipe}.py").is_file():
            return file.resolve()
    known = sorted({file.stem for folder in folders for file in folder.glob("*.py")})
    hint = f"expected one of {', '.join(known)}" if known else "there is no recipes/ folder: run this in a checkout"
    raise ValueError(f"no recipe {recipe!r}; {hint}{did_you_mean(recipe, known)}")


def split(text: str) -> list[str]:
    """Split at commas outside brackets and quotes: `{kind: local, window: 9},softmax` has two parts."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _parse_options(options: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for option in options:
        key, equals, value = option.lstrip("-").partition("=")
        if not equals or not key:
            raise ValueError(f"{option!r}: expected key=value, e.g. attention=softmax,performer")
        if key in _RESERVED:
            raise ValueError(f"{key}= is set for each run by the comparison; {_RESERVED[key]}")
        if key in values:
            raise ValueError(f"{key} is given twice: {values[key]!r} and {value!r}")
        values[key] = value
    return values


def _seeds(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"seeds={text}: expected a number of seeds, e.g. seeds=3, or a list, e.g. seeds=0,7") from None
    seeds = list(range(numbers[0])) if len(numbers) == 1 else numbers
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={text}: expected at least one seed, not negative, all different")
    return seeds


def _positive(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ValueError(f"{name}={text}: expected a number above 0")
    return value


def _file_name(value: str) -> str:
    """A value as a folder name, with a hash if it contains special characters."""
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", value).strip("-.")[:40]
    return plain if plain == value else f"{plain}-{hashlib.blake2b(value.encode(), digest_size=3).hexdigest()}"


# --- running ------------------------------------------------------------------------------------------------------


def check_folder(plan: Plan) -> None:
    """Raise ValueError if the folder holds a different comparison."""
    file = plan.out / _SETTINGS
    if file.is_file():
        before = json.loads(file.read_text())
        if changed := [name for name, value in plan.fixed().items() if before.get(name) != value]:
            name = changed[0]
            now, then = plan.fixed()[name], before.get(name)
            raise ValueError(f"{plan.out} holds a comparison with {name} {then}, not {now}; use another out=")


def check_values(plan: Plan) -> None:
    """Look at every value that has no run yet: model, data and settings, as far as a run goes before its training.

    Raises: ValueError with the message of each value that the recipe rejects.
    """
    seed = plan.seeds[0]
    new = [value for value in plan.values if not any(plan.folder(value, each).is_dir() for each in plan.seeds)]
    if not new or not checkable(plan.script):
        return
    print(f"checking {len(new)} values of {plan.key}", file=sys.stderr, flush=True)
    errors = errors_of(plan.script, [[f"{plan.key}={value}", *plan.shared, f"seed={seed}"] for value in new])
    if wrong := [f"{plan.key}={value}: {error}" for value, error in zip(new, errors, strict=True) if error]:
        raise SeveralErrors(wrong)


def _trial(plan: Plan, value: str, seed: int, number: str) -> Trial:
    """Run one trial, unless it is complete already."""
    folder = plan.folder(value, seed)
    trial = Trial.read(value, seed, folder)
    left = _minutes_left(plan, trial)
    if left is not None and left <= 0:
        return trial
    print(f"[{number}] {plan.key}={value} seed={seed}", file=sys.stderr, flush=True)
    failure = _run(plan, value, seed, left)
    return Trial.read(value, seed, folder, failure)


def _minutes_left(plan: Plan, trial: Trial) -> float | None:
    """Minutes left of the time budget; 0 for a finished run, None without a budget."""
    if trial.result.get("finished"):
        return 0.0
    if plan.minutes is None:
        return None
    spent = max([float(trial.result.get("seconds", 0.0)), *(curve[-1][1] for curve in trial.curves.values())])
    return max(0.0, plan.minutes - spent / 60) if "seconds" in trial.result else max(0.05, plan.minutes - spent / 60)


def _run(plan: Plan, value: str, seed: int, minutes: float | None) -> str:
    """Run the recipe in a separate process; its output goes to `log.txt`.

    Returns: The error message of a failed run, or an empty string.

    Raises: ValueError if the recipe rejects its options; KeyboardInterrupt if either process is interrupted.
    """
    folder = plan.folder(value, seed)
    folder.mkdir(parents=True, exist_ok=True)
    given = {word.partition("=")[0].rpartition(".")[2] for word in plan.shared}
    defaults = [f"{key}={choice}" for key, choice in _RUN_DEFAULTS.items() if key not in given]
    budget = [] if minutes is None else [f"max_minutes={minutes:.4g}"]
    options = [f"{plan.key}={value}", *plan.shared, f"seed={seed}", f"run_dir={folder}", *budget, *defaults]
    command = [sys.executable, *_RUNNER, str(folder / "measured.json"), str(plan.script), *options]
    root = str(Path(__file__).parents[3])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with open(folder / "log.txt", "ab") as log:
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": paths}
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # it got the signal, too, and writes its checkpoint
            raise
    if code == 130:
        raise KeyboardInterrupt
    if code == 0:
        return ""
    lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
    last = lines[-1] if lines else f"exit status {code}"
    if code == 2:
        raise ValueError(f"{plan.key}={value}: {last.removeprefix('error: ')}")
    return last


def _record(file: Path, script: str, options: Sequence[str]) -> None:
    """In the process of a run: do what `python script` does, then write peak memory and FLOPs to `file`."""
    import runpy

    sys.argv = [script, *options]
    sys.path[0] = str(Path(script).parent)  # as `python script` has it
    code: Any = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        code = error.code
    if not code and int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) == 0:
        memory = peak_memory()
        write_text(file, json.dumps({"peak_memory": memory, "flops": flops(file.parent / "model")}) + "\n")
    sys.exit(code)


def peak_memory() -> int | None:
    """Peak memory of this process in bytes: allocated on the GPU if there is one, else resident."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":  # where ru_maxrss is at least the memory of the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def flops(folder: Path) -> float | None:
    """FLOPs of a forward pass of one item through a saved model; None if they cannot be measured."""
    from zoo.checkpoints.load import load
    from zoo.inference.cost import measure

    try:
        return measure(load(str(folder)), 1).flops
    except ValueError:  # e.g. custom code that cannot be loaded by name
        return None


if __name__ == "__main__":
    _record(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
