"""Kill a process at any one of its calls of the file system."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def killed_at(step: int, work: Callable[[], Any], places: Sequence[tuple[Any, str]]) -> bool:
    """Run `work` in a process that is killed at its call number `step` of the `places`; whether it was.

    places: (module or class, name of its function).
    """
    if (child := os.fork()) == 0:
        remaining = [step]

        def dying(call: Callable[..., Any]) -> Callable[..., Any]:
            def called(*args: Any, **options: Any) -> Any:
                if remaining[0] == 0:
                    os._exit(9)
                remaining[0] -= 1
                return call(*args, **options)

            return called

        for place, name in places:
            setattr(place, name, dying(getattr(place, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def run_alone(file: Path) -> None:
    """Run the tests of a file in a process of its own: to fork one that holds all tests takes 65 ms, and this one 2."""
    words = [sys.executable, "-m", "pytest", str(file), "-p", "no:cacheprovider", "-p", "no:xdist"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(words, cwd=Path(__file__).parents[1], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
