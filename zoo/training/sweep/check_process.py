"""What a run does up to its training, without the training, for each value of `zoo compare`.

    python -m zoo.training.sweep.check_process SCRIPT FILE     FILE: a list of lists of options (JSON)

A process of its own, so that `zoo compare` imports no torch. It prints, as JSON, for each value the error that the
user can fix, or an empty string.
"""

import contextlib
import io
import json
import runpy
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

import zoo.training.fit as fit  # `from zoo.training import fit` may be the function
from zoo.checkpoints.save import save
from zoo.data.synthetic import alignments, molecules, object_scenes, point_clouds, shapes
from zoo.models.base import Model
from zoo.models.eval_mode import eval_mode
from zoo.models.example_batch import example_batch
from zoo.training.recipes import scene_judge, stages
from zoo.training.result import Result
from zoo.training.run import Run
from zoo.training.run_dir import RunError


class Checked(BaseException):
    """Raised where training would begin: the settings, the model and the data are fine."""


def check(script: str, options: Sequence[str]) -> str:
    """The error of one run before its training, or an empty string; it leaves nothing behind."""
    output = io.StringIO()
    code: Any = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(output):
        sys.argv = [script, *options, f"run_dir={folder}/run", "resume=never"]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                runpy.run_path(script, run_name="__main__")
        except Checked:
            return ""
        except SystemExit as error:
            code = error.code
        except Exception:  # a fault of the code: the run itself shows it, with its traceback
            return ""
    if code == 130:
        raise KeyboardInterrupt
    lines = output.getvalue().strip().splitlines()
    return lines[-1].removeprefix("error: ") if code == 2 and lines else ""


def stop_before_training(run: Any, task: Any, *_: Any) -> None:
    """In place of the training: one forward pass, which a mechanism that does not fit the model refuses."""
    try:
        with torch.no_grad(), eval_mode(task.model):
            task.model(**example_batch(task.model))
    except ValueError as error:
        raise RunError(str(error)) from None
    raise Checked


def untrained_stage(stage: Run, data: Any, model: Model, train: Callable[[], Result]) -> Path:
    """In place of `finish_stage`: the model of the stage as it is, so that the check reaches the main model."""
    stage.open(data, model)
    try:
        return train().folder / "model"
    except Checked:
        return save(model.eval(), Path(stage.config.run_dir) / "model")


def nothing(*_: Any) -> None:
    """In place of what trains beside the model."""


REPLACED: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (fit, "_fit", stop_before_training),
    (fit, "start_baseline", nothing),
    (stages, "finish_stage", untrained_stage),
    (scene_judge, "train", nothing),
)
# Data that is made once for all values, which takes longer than most checks.
CACHED = ((shapes, "make_images"), (object_scenes, "make_object_scenes"), (molecules, "make_dataset"),
          (point_clouds, "make_point_clouds"), (alignments, "make_families"))  # fmt: skip


def _main(script: str, file: str) -> int:
    for module, name, function in REPLACED:
        setattr(module, name, function)
    for module, name in CACHED:
        setattr(module, name, cache(getattr(module, name)))
    sys.path[0] = str(Path(script).parent)  # as `python script` has it
    try:
        print(json.dumps([check(script, words) for words in json.loads(Path(file).read_text())]))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], sys.argv[2]))
