"""Which cases of a test are run for every change, and which in `.ci/full` alone."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def full_unless(quick: Callable[[Any], bool] | Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """Parameters of a test, those that are not `quick` (a predicate, or the values) marked `full`."""
    chosen, values = quick if callable(quick) else [*quick].__contains__, list(values)
    found = [value if chosen(value) else
             pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.full)
             for value in values]  # fmt: skip
    assert any(chosen(value) for value in values), f"no case is run for every change: {found}"
    return found
