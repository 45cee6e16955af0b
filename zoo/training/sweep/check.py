"""Check the values of `zoo compare` before the first run: what a run does up to its training, without the training.

    python -m zoo.training.sweep.check SCRIPT FILE     FILE: the options of each value, a list of lists of words (JSON)

A process of its own, so that `zoo compare` imports no torch. It prints, as JSON, for each value the error that the
user can fix, or an empty string.
"""

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Checked(BaseException):
    """Raised where training would begin: the settings, the model and the data are fine."""


def checkable(script: Path) -> bool:
    """Whether a script is a recipe in the form of those in `recipes/`, whose training `check` can leave out."""
    return "zoo.training.main" in script.read_text(encoding="utf-8")


def errors_of(script: Path, options: Sequence[Sequence[str]]) -> list[str]:
    """For each list of options the error of a run with them before its training, or an empty string."""
    root = str(Path(__file__).parents[3])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "options.json"
        file.write_text(json.dumps([list(words) for words in options]))
        command = [sys.executable, "-m", "zoo.training.sweep.check", str(script), str(file)]
        result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
    if result.returncode == 130:
        raise KeyboardInterrupt
    if result.returncode:  # not a mistake in a value: the run itself shows it
        return [""] * len(options)
    found: list[str] = json.loads(result.stdout.strip().splitlines()[-1])
    return found


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
    import torch

    from zoo.models.eval_mode import eval_mode
    from zoo.models.example_batch import example_batch
    from zoo.training.run_dir import RunError

    try:
        with torch.no_grad(), eval_mode(task.model):
            task.model(**example_batch(task.model))
    except ValueError as error:
        raise RunError(str(error)) from None
    raise Checked


def _main(script: str, file: str) -> int:
    from zoo.training import fit

    fit._fit = stop_before_training  # type: ignore[assignment]
    fit.start_baseline = lambda *_: None
    sys.path[0] = str(Path(script).parent)  # as `python script` has it
    try:
        print(json.dumps([check(script, words) for words in json.loads(Path(file).read_text())]))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], sys.argv[2]))
