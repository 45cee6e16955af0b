"""A sweep over model size and training tokens, by the runs of `zoo compare`.

    recipe: scaling_laws                 # any recipe of causal language modeling
    sizes:                               # options of the recipe, by names of your choice, the smallest first
      10k: {depth: 2, width: 20, lr: 0.01}
      25k: {depth: 2, width: 32, lr: 0.01}
    tokens: [500000, 1000000]            # every size at each of them; or
    budgets: [1.0e+12, 3.0e+12]          # training FLOPs C: every size N at C / (6 N) tokens (IsoFLOP); or
    tokens_per_parameter: [20, 40]
    options: {seed: 0}                   # of all runs; seeds, held_out, out as below

A size may have `tokens`, `budgets` or `tokens_per_parameter` of its own. Each (size, tokens) is a run of its own with
`steps=` chosen, so that its learning rate falls to its own end. Parameters N are those of the blocks: embeddings,
positions and the output layer are not counted (Kaplan et al. 2020, section 2.1, https://arxiv.org/abs/2001.08361).
"""

import json
import re
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from zoo.models.registry import build, find_variant, with_overrides
from zoo.training.config import RunSettings
from zoo.training.parse import SettingsError, parse
from zoo.training.run_dir import write_text
from zoo.training.scaling.runs import ScalingError, ScalingRun
from zoo.training.sweep.compare import Plan, check_folder, check_values, find_recipe, run_trials
from zoo.training.sweep.results import Trial
from zoo.utils.errors import did_you_mean, is_number

LENGTHS = ("tokens", "budgets", "tokens_per_parameter")
_KEYS = ("recipe", "sizes", *LENGTHS, "options", "seeds", "held_out", "out")
_BLOCK = re.compile(r"(?:^|\.)blocks\.")
SWEEP_FILE = "sweep.yaml"


@dataclass(frozen=True)
class SizePlan:
    """The runs of one size.

    Attributes:
        name: Name of the size.
        parameters: Number of parameters of its blocks.
        tokens_per_step: Tokens of an optimizer step.
        plan: The runs: one for each number of steps and seed.
    """

    name: str
    parameters: int
    tokens_per_step: int
    plan: Plan


@dataclass(frozen=True)
class Sweep:
    """A sweep: its runs by size, the smallest first.

    Attributes:
        sizes: The runs of each size.
        held_out: Names of the sizes that the fit does not see.
        out: Folder of all runs.
        content: The description, as written.
    """

    sizes: list[SizePlan]
    held_out: list[str]
    out: Path
    content: dict[str, Any] = field(default_factory=dict)

    def planned(self) -> list[tuple[str, int, int]]:
        """(name of the size, parameters, tokens) of each run."""
        return [(size.name, size.parameters, int(steps) * size.tokens_per_step)
                for size in self.sizes for steps in size.plan.values for _ in size.plan.seeds]  # fmt: skip

    def run(self) -> list[ScalingRun]:
        """Do all runs that are not complete, one after the other, the smallest size first.

        Raises: ValueError for options that the recipe rejects, before the first run; KeyboardInterrupt if one is
            interrupted: the same sweep resumes it.
        """
        for size in self.sizes:
            check_folder(size.plan)
        for size in self.sizes:  # runs of a size differ in their steps alone: its first one shows whether it works
            check_values(replace(size.plan, values=size.plan.values[:1]))
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(self.out / SWEEP_FILE, yaml.safe_dump(self.content, sort_keys=False))
        return [run for size in self.sizes
                for run in _runs(size, run_trials(size.plan, f" of size {size.name}"))]  # fmt: skip

    def read(self) -> list[ScalingRun]:
        """The runs that are complete or have failed, without running any."""
        found = []
        for size in self.sizes:
            pairs = [(steps, seed) for seed in size.plan.seeds for steps in size.plan.values]
            trials = [Trial.read(steps, seed, size.plan.folder(steps, seed)) for steps, seed in pairs]
            found += _runs(size, [trial for trial in trials if trial.result.get("finished")])
        return found


def read_sweep(file: Path, out: Path | None = None) -> Sweep:
    """Read the description of a sweep, and find the number of parameters of each size.

    out: Folder of the runs, instead of that of the description or `runs/scaling-<recipe>`.

    Raises: ScalingError for a description that is not as above; SettingsError for options that the recipe rejects.
    """
    content = _read_yaml(file)
    if unknown := [key for key in content if key not in _KEYS]:
        raise ScalingError(f"{file}: unknown key {unknown[0]!r}; expected {', '.join(_KEYS)}"
                           f"{did_you_mean(str(unknown[0]), _KEYS)}")  # fmt: skip
    if not isinstance(content.get("recipe"), str):
        raise ScalingError(f"{file}: expected recipe: the name of a script in recipes/")
    sizes = content.get("sizes")
    if not isinstance(sizes, dict) or not sizes or not all(isinstance(each, dict) for each in sizes.values()):
        raise ScalingError(
            f"{file}: expected sizes: a mapping of names to options, e.g. {{10k: {{depth: 2, width: 20}}}}"
        )
    script = find_recipe(content["recipe"])
    folder = out or Path(content.get("out") or Path("runs") / f"scaling-{script.stem}")
    shared, seeds = _options(file, "options", content.get("options") or {}), _seeds(file, content.get("seeds", 1))
    plans = []
    for name, options in sizes.items():
        own = {key: value for key, value in options.items() if key not in LENGTHS}
        words = [*shared, *_options(file, str(name), own)]
        parameters, tokens_per_step = size_of(script, words)
        steps = _steps(file, str(name), options, content, parameters, tokens_per_step)
        plan = Plan(script, "steps", steps, seeds, None, words, folder / f"size-{name}")
        plans.append(SizePlan(str(name), parameters, tokens_per_step, plan))
    plans.sort(key=lambda size: size.parameters)
    return Sweep(plans, _held_out(file, content.get("held_out"), plans), folder, content)


def size_of(script: Path, words: Sequence[str]) -> tuple[int, int]:
    """(parameters of the blocks, tokens of an optimizer step) of a recipe with these options.

    Raises: ScalingError for a recipe that is not about text; SettingsError for options that it rejects.
    """
    config = parse(_settings_class(script), words, configs=script.parent.parent / "configs", recipe=script.stem)
    family = find_variant(config.model.name)
    fields = with_overrides(family, family.config(**family.variants[config.model.name]), config.model.overrides)
    length = getattr(fields, "max_length", None)
    if family.modality != "text" or not length:
        raise ScalingError(f"{script.stem} with model={config.model.name}: tokens are counted by batch_size and the "
                           f"max_length of a text model; expected a recipe of language modeling, such as "
                           f"gpt_text")  # fmt: skip
    return block_parameters(build(family, fields)), int(config.data.batch_size) * int(length)


def block_parameters(model: Any) -> int:
    """Number of parameters of the blocks and the norm behind them: without embeddings, positions and output layer."""
    return sum(value.numel() for name, value in model.named_parameters() if _BLOCK.search(name))


# --- the description --------------------------------------------------------------------------------------------------


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScalingError(
            f"{file}: {error.strerror}; expected the description of a sweep, a folder or a table"
        ) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ScalingError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ScalingError(f"{file}: expected a mapping with the keys recipe, sizes and one of {', '.join(LENGTHS)}")
    return content


def _options(file: Path, name: str, options: Any) -> list[str]:
    """`{depth: 2, betas: [0.9, 0.95]}` as `["depth=2", "betas=[0.9, 0.95]"]`."""
    if not isinstance(options, dict):
        raise ScalingError(f"{file}: {name}: expected a mapping of options, e.g. {{depth: 2, lr: 0.01}}")
    if reserved := [key for key in ("steps", "epochs", "run_dir", "resume") if key in options]:
        raise ScalingError(f"{file}: {name}: {reserved[0]} is chosen for each run by the sweep; omit it")
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in options.items()]


def _seeds(file: Path, seeds: Any) -> list[int]:
    found = list(range(seeds)) if isinstance(seeds, int) else seeds
    valid = isinstance(found, list) and found and all(isinstance(seed, int) and seed >= 0 for seed in found)
    if not valid or len(set(found)) < len(found):
        raise ScalingError(f"{file}: seeds: {seeds}: expected a number of seeds above 0, or a list of different ones")
    return found


def _steps(file: Path, name: str, options: Mapping[str, Any], content: Mapping[str, Any], parameters: int,
           tokens_per_step: int) -> list[str]:  # fmt: skip
    """Numbers of steps of the runs of a size, by its own lengths or those of the sweep."""
    source = options if any(key in options for key in LENGTHS) else content
    given = [key for key in LENGTHS if key in source]
    if len(given) != 1:
        raise ScalingError(
            f"{file}: size {name}: expected one of {', '.join(LENGTHS)}, got {', '.join(given) or 'none'}"
        )
    values = source[given[0]]
    values = values if isinstance(values, list) else [values]
    if not values or not all(is_number(value) and value > 0 for value in values):
        raise ScalingError(f"{file}: size {name}: {given[0]}: {source[given[0]]}: expected numbers above 0 "
                           f"(YAML writes 1.0e+12 with a point and a sign)")  # fmt: skip
    factor = {"tokens": 1.0, "budgets": 1 / (6 * parameters), "tokens_per_parameter": float(parameters)}[given[0]]
    steps = [round(value * factor / tokens_per_step) for value in values]
    if min(steps) < 1 or len(set(steps)) < len(steps):
        raise ScalingError(f"{file}: size {name}: {given[0]}: {values} are {steps} steps of {tokens_per_step} tokens; "
                           f"expected different numbers, at least 1")  # fmt: skip
    return [str(each) for each in sorted(steps)]


def _held_out(file: Path, given: Any, sizes: Sequence[SizePlan]) -> list[str]:
    """The sizes that the fit does not see: by default the largest."""
    known = [size.name for size in sizes]
    if given is None:
        return known[-1:]
    names = [str(name) for name in (given if isinstance(given, list) else [given])]
    if unknown := [name for name in names if name not in known]:
        raise ScalingError(f"{file}: held_out: no size {unknown[0]!r}; expected some of {', '.join(known)}, or []")
    return names


def _settings_class(script: Path) -> type:
    """The settings of a recipe: those that its script imports."""
    path = list(sys.path)
    try:
        names = runpy.run_path(str(script), run_name="recipe")
    finally:
        sys.path[:] = path
    found = {each for each in names.values()
             if isinstance(each, type) and issubclass(each, RunSettings) and each is not RunSettings}  # fmt: skip
    if len(found) != 1:
        raise SettingsError(f"{script}: expected a recipe with one class of settings, found {len(found)}")
    return found.pop()


def _runs(size: SizePlan, trials: Sequence[Trial]) -> list[ScalingRun]:
    found = []
    for trial in trials:
        loss = trial.result.get("result", {}).get("test_loss")
        finished = trial.result.get("finished") and loss is not None
        failure = "" if finished else trial.failure or "not finished"
        found.append(ScalingRun(size.name, size.parameters, int(trial.value) * size.tokens_per_step,
                                float(loss) if finished else float("nan"), trial.seed,
                                trial.result.get("seconds"), failure))  # fmt: skip
    return found
