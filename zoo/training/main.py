"""The command line of a recipe: help, errors in one line, Ctrl-C."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.training import parse
from zoo.training.parse import SettingsError
from zoo.training.run import Run
from zoo.training.run_dir import RunError
from zoo.utils.errors import LoadError

if TYPE_CHECKING:
    pass


def main(train: Callable[[Run], Any], settings: type, argv: Sequence[str] | None = None) -> int:
    """The command line of a recipe: help, errors in a line, Ctrl-C. Returns the exit status.

    Args:
        train: The recipe's function; its file names the recipe, its docstring heads the help.
        settings: The settings dataclass.
    """
    file = Path(train.__code__.co_filename).resolve()
    configs = file.parent.parent / "configs"
    argv = sys.argv[1:] if argv is None else argv
    try:
        if parse.read_command_line(argv, settings).help:
            defaults = parse.read_yaml(configs / f"{file.stem}.yaml", settings)
            parse.print_help(settings, train.__globals__.get("__doc__") or "", [defaults])
            return 0
        train(Run.of(file.stem, argv, settings, configs))
    except (SettingsError, RunError, LoadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted before the first step", file=sys.stderr)
        return 130
    except Exception as error:
        return _ended(error)
    return 0


def _ended(error: Exception) -> int:
    """Words and exit status for the ways in which training ends early; any other error is raised again."""
    from zoo.tasks.loss_guard import NonFiniteLoss
    from zoo.training.callbacks import Interrupted

    if isinstance(error, Interrupted):
        print(f"{error}; last.ckpt is written: the same command goes on from there", file=sys.stderr)
        return 130
    if isinstance(error, NonFiniteLoss):
        print(f"error: {error}", file=sys.stderr)
        return 1
    raise error
