"""Options of a command line in the form key=value."""

import re
from collections.abc import Sequence
from typing import Any

from zoo.utils.console import EXPONENT

OF_PYTHON = ("cache", "draft", "logits_processor", "streamer", "tokenizer")  # options of zoo.generate


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


def is_option(word: str) -> bool:
    """Whether a word has the form key=value."""
    return re.match(r"\w+=", word) is not None


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """The options of zoo.generate. Raises ValueError for those whose values a command line cannot give."""
    options = settings(words)
    for name in OF_PYTHON:
        if name in options:
            raise ValueError(f"{name}= takes an object of Python: call zoo.generate with it")
    return options
