"""Command line of a recipe: help, one-line error messages, exit status."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zoo.training import parse
from zoo.training.parse import SettingsError
from zoo.training.run import Run
from zoo.training.run_dir import FULL, READ_ONLY, RunError
from zoo.utils.errors import DataError, LoadError
from zoo.utils.escape import say

USER_ERRORS = (SettingsError, RunError, LoadError, DataError)


def main(train: Callable[[Run], Any], settings: type, argv: Sequence[str] | None = None) -> int:
    """Run a recipe from the command line; returns the exit status.

    Args:
        train: The recipe's train function; its file gives the recipe its name and its help text.
        settings: The settings dataclass of the recipe.
        argv: Options, default `sys.argv[1:]`.
    """
    file = Path(train.__code__.co_filename).resolve()
    configs = file.parent.parent / "configs"
    argv = sys.argv[1:] if argv is None else argv
    run: Run | None = None
    try:
        if parse.read_command_line(argv, settings).help:
            defaults = parse.read_yaml(configs / f"{file.stem}.yaml", settings)
            parse.print_help(settings, train.__globals__.get("__doc__") or "", [defaults])
            return 0
        run = Run.of(file.stem, argv, settings, configs)
        train(run)
    except USER_ERRORS as error:
        say(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume from the last checkpoint, if any", file=sys.stderr)
        return 130
    except OSError as error:  # outside of the run folder, e.g. of a cache
        if error.errno not in FULL | READ_ONLY:
            raise
        print(f"error: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:  # before training, a mistake in the options or the data; in it, a fault of the code
        if run is not None and run.started:
            raise
        say(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        return _ended(error)
    return 0


def _ended(error: Exception) -> int:
    """Print a message and return the exit status for an interrupted or failed run; re-raise other errors."""
    from zoo.tasks.loss_guard import NonFiniteLoss
    from zoo.training.callbacks import TrainingInterrupted

    if isinstance(error, TrainingInterrupted):
        print(f"{error}; last.ckpt is written, run the same command again to resume", file=sys.stderr)
        return 130
    if isinstance(error, NonFiniteLoss):
        say(f"error: {error}", file=sys.stderr)
        return 1
    raise error
