"""The errors and hints that every floor shares. Imports nothing heavy."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class LoadError(ValueError):
    """A checkpoint that does not fit: something missing, left over, damaged or not understood. It names the thing."""


def did_you_mean(given: str, known: Iterable[str], aliases: Mapping[str, str] | None = None) -> str:
    """`"; did you mean 'width'?"`, or an empty string when nothing known is near.

    aliases: words of other libraries and our word for each (`{"embed_dim": "width"}`), looked up first.
    """
    known = list(known)
    if aliases and aliases.get(given) in known:
        return f"; did you mean {aliases[given]!r}?"
    near = get_close_matches(given, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_keys(what: object, values: Iterable[str], known: Iterable[str], later: Iterable[str] = ()) -> None:
    """Raise LoadError for a key of `what` that is unknown or missing; those in `later` may be missing."""
    values, known, later = list(values), list(known), list(later)
    for name in values:
        if name not in known:
            raise LoadError(f"{what} has an unknown key {name!r}{did_you_mean(name, known)}")
    if missing := [name for name in known if name not in values and name not in later]:
        raise LoadError(f"{what} lacks the key {missing[0]!r}")


class DataError(ValueError):
    """A data set that cannot be used as it is; names the file or row and says what to do."""
