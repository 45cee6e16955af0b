"""Types of values from a file or of a user, such as the fields of a dataclass."""

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from functools import lru_cache
from typing import Any


def check_types(instance: Any) -> None:
    """Raise ValueError naming a field whose value is not of its annotated type."""
    cls: Any = type(instance)
    for name, hint in field_types(cls).items():
        if not matches_type(getattr(instance, name), hint):
            value = f"{getattr(instance, name)!r:.200}"
            raise ValueError(f"{cls.__name__}: {name}={value} should be {describe_type(hint)}")


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raise ValueError unless a value is of the type, where a list is as good as a tuple, and finite."""
    if not matches_type(tuple(value) if isinstance(value, list) else value, hint):
        raise ValueError(f"{name}={value!r:.200}: expected {describe_type(hint)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={value!r}: expected a finite number")


@lru_cache
def field_types(cls: Any) -> dict[str, Any]:
    """{field: annotated type} of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def matches_type(value: Any, hint: Any) -> bool:
    """Whether a value is of the annotated type. An int is a valid float; a bool is not a valid int."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(matches_type(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(each) == len(value) and all(map(matches_type, value, each))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def is_list_of_texts(value: Any) -> bool:
    """Whether a value is a list or another sequence of texts; a text is not, nor are a set and an iterator."""
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(text, str) for text in value)


def describe_type(hint: Any) -> str:
    """An annotated type as text: "int", "one of 'cls', 'mean'"."""
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
