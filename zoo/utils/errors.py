"""Exceptions and hints in error messages that all packages share. Imports nothing heavy."""

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any


class LoadError(ValueError):
    """A checkpoint that cannot be loaded: a file, tensor or key is missing, unexpected, damaged or not supported."""


class SeveralErrors(ValueError):
    """Several mistakes at once. problems: a message for each, which the command line prints as a line of its own."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def did_you_mean(
    name: str, known: Iterable[str], aliases: Mapping[str, str] | None = None, *, cutoff: float = 0.5
) -> str:
    """A hint for an unknown name, `"; did you mean 'width'?"`, or an empty string if no known name is similar.

    aliases: names in other libraries and ours for each (`{"embed_dim": "width"}`), tried first. cutoff: the least
    similarity, from 0 to 1.
    """
    known = list(known)
    if aliases and aliases.get(name) in known:
        return f"; did you mean {aliases[name]!r}?"
    similar = _most_similar(name, tuple(known), cutoff)
    return f"; did you mean {similar!r}?" if similar else ""


@lru_cache(512)  # parsers probe packages for the same few names again and again
def _most_similar(name: str, known: tuple[str, ...], cutoff: float) -> str | None:
    return next(iter(get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def check_keys(what: object, values: Iterable[str], known: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Raise LoadError for unknown or missing keys of `what`, such as a file; those in `optional` may be missing."""
    values, known, optional = list(values), list(known), list(optional)
    for name in values:
        if name not in known:
            raise LoadError(f"{what} has an unknown key {name!r}{did_you_mean(name, known)}")
    if missing := [name for name in known if name not in values and name not in optional]:
        raise LoadError(f"{what} lacks the key {missing[0]!r}")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises ValueError if the value is not one of the choices."""
    choices = list(choices)
    if value not in choices:
        near = did_you_mean(str(value), choices)
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}{near}")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; a bool is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class DataError(ValueError):
    """A dataset that cannot be used as it is; the message names the file or row and how to fix it."""
