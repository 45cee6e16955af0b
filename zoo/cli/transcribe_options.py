"""Options of `zoo transcribe` as key=value, as the recipes have theirs."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.cli.audio import add_commands
from zoo.utils.errors import check_choice, did_you_mean


def files_and_options(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(files, options by key) of words. What exists is a file, and so is what has no name before its "=".

    Raises: ValueError for an option that is given twice.
    """
    files: list[str] = []
    options: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.replace("-", "_")
        if not equals or not key.isidentifier() or Path(word).exists():
            files.append(word)
        elif key in options:
            raise ValueError(f"{key} is given twice: {options[key]!r} and {value!r}")
        else:
            options[key] = value
    return files, options


def transcribe_flags(options: dict[str, str]) -> list[str]:
    """The flags of `zoo transcribe` for options by key.

    Raises: ValueError for an unknown key, or a flag that is neither true nor false.
    """
    known = _actions()
    flags: list[str] = []
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"there is no option {key}={did_you_mean(key, known)} (it has {', '.join(known)})")
        flag = f"--{key.replace('_', '-')}"
        if known[key].nargs != 0:
            flags.append(f"{flag}={value}")  # one word, so that a value may begin with a dash
            continue
        check_choice(key, value.lower(), ("true", "false"))
        flags += [flag] if value.lower() == "true" else []
    return flags


def _actions() -> dict[str, argparse.Action]:
    parsers: dict[str, argparse.ArgumentParser] = {}

    def command(name: str, *about: Any) -> argparse.ArgumentParser:
        return parsers.setdefault(name, argparse.ArgumentParser(add_help=False))

    add_commands(command)
    actions = parsers["transcribe"]._actions
    return {action.dest: action for action in actions if action.option_strings}
