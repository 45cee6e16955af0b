"""Check the values of `zoo compare` before the first run, in a process that runs each of them up to its training."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


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
        command = [sys.executable, "-m", "zoo.training.sweep.check_process", str(script), str(file)]
        result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
    if result.returncode == 130:
        raise KeyboardInterrupt
    if result.returncode:  # not a mistake in a value: the run itself shows it
        return [""] * len(options)
    found: list[str] = json.loads(result.stdout.strip().splitlines()[-1])
    return found
