"""Command line of a recipe: help, one-line error messages, exit status."""

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zoo.training import parse
from zoo.training.parse import SettingsError
from zoo.training.run import Run
from zoo.training.run_dir import FULL, READ_ONLY, RunError
from zoo.utils.errors import DataError, LoadError
from zoo.utils.escape import say
from zoo.utils.plain_warnings import plain_warnings

USER_ERRORS = (SettingsError, RunError, LoadError, DataError)


def main(train: Callable[[Run], Any], settings: type, argv: Sequence[str] | None = None) -> int:
    """Run a recipe from the command line; returns the exit status: 2 for what the user can fix, in one line.

    With `--traceback` among the options, such an error is raised instead.

    Args:
        train: The recipe's train function; its file gives the recipe its name and its help text.
        settings: The settings dataclass of the recipe.
        argv: Options, default `sys.argv[1:]`.
    """
    file = Path(train.__code__.co_filename).resolve()
    configs = file.parent.parent / "configs"
    words = sys.argv[1:] if argv is None else argv
    argv = [word for word in words if word != "--traceback"]
    run: Run | None = None
    try:
        if parse.read_command_line(argv, settings).help:
            defaults = parse.read_yaml(configs / f"{file.stem}.yaml", settings)
            parse.print_help(settings, train.__globals__.get("__doc__") or "", [defaults])
            return 0
        run = Run.of(file.stem, argv, settings, configs)
        with plain_warnings():
            train(run)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume from the last checkpoint, if any", file=sys.stderr)
        return 130
    except Exception as error:
        message = user_error(error, file, training=run is not None and run.started)
        if message is None or len(argv) < len(words):
            return _ended(error)
        say(f"error: {message}", file=sys.stderr)
        return 2
    finally:
        if run is not None and run.folder is not None:
            run.folder.discard_if_new()
    return 0


def user_error(error: Exception, recipe: Path, training: bool) -> str | None:
    """The message of an error that the user can fix; None for another one, whose traceback is needed.

    Before training, a ValueError or a missing module is a mistake in the options or the data, unless it is raised by
    the recipe's own lines. In training it is a fault of the code.

    Args:
        error: The error.
        recipe: The file of the recipe.
        training: Whether training has begun.
    """
    if isinstance(error, USER_ERRORS):
        return str(error)
    if isinstance(error, OSError) and error.errno in FULL | READ_ONLY:  # outside of the run folder, e.g. of a cache
        return f"{error.filename or 'a file'}: {error.strerror}"
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    if isinstance(error, (ValueError, ImportError)) and not training and Path(raised_in).resolve() != recipe:
        return str(error)
    return None


def _ended(error: Exception) -> int:
    """Print a message and return the exit status for an interrupted or failed run; re-raise other errors."""
    from zoo.tasks.loss_guard import NonFiniteLoss
    from zoo.training.stopping import TrainingInterrupted

    if isinstance(error, TrainingInterrupted):
        print(f"{error}; last.ckpt is written, run the same command again to resume", file=sys.stderr)
        return 130
    if isinstance(error, NonFiniteLoss):
        say(f"error: {error}", file=sys.stderr)
        return 1
    raise error
