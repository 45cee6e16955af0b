"""Options of a command line in the form key=value."""

from collections.abc import Sequence
from typing import Any

from zoo.utils.console import EXPONENT


def settings(words: Sequence[str]) -> dict[str, Any]:
    """`["depth=6", "attention={kind: local}"]` -> values, read as YAML."""
    import yaml

    values: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise ValueError(f"{word!r}: expected key=value, e.g. attention=performer")
        if key in values:
            raise ValueError(f"{key} is given twice")
        try:
            values[key] = float(value) if EXPONENT.fullmatch(value) else yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"{word!r}: the value is not readable YAML") from None
    return values
