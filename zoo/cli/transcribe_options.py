"""Options of `zoo transcribe` as key=value, as the recipes have theirs."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.cli.audio import add_commands
from zoo.utils.errors import check_choice, did_you_mean

WORDS_OF_MESSAGES = ("exists", "is", "looks", "or", "with", "writes")  # which stand after a flag and are no value of it


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


def flags_as_keys(message: str) -> str:
    """A message of `zoo transcribe` with key=value where it has flags: "--out FILE" becomes "out=FILE"."""
    known = _actions()

    def as_key(found: re.Match[str]) -> str:
        key = found[1].replace("-", "_")
        if key not in known:
            return found[0]
        value = found[2] or ""
        if known[key].nargs == 0:
            return f"{key}=true{value and f' {value}'}"
        return f"{key}={value}" if value and value not in WORDS_OF_MESSAGES else f"{key}={value and f' {value}'}"

    return re.sub(r"--([a-z][a-z-]*)(?: ([\w./]+))?", as_key, message)


def _actions() -> dict[str, argparse.Action]:
    parsers: dict[str, argparse.ArgumentParser] = {}

    def command(name: str, *about: Any) -> argparse.ArgumentParser:
        return parsers.setdefault(name, argparse.ArgumentParser(add_help=False))

    add_commands(command)
    actions = parsers["transcribe"]._actions
    return {action.dest: action for action in actions if action.option_strings}
