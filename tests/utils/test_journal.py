"""Plans of unfinished work: what counts as another option."""

import pytest

from zoo.utils.journal import changed_options


@pytest.mark.parametrize("former, plan, changed", [
    ({}, {"a": False, "b": None}, []),  # of an earlier version, which did not have them
    ({"a": None}, {"a": 0}, ["a"]),
    ({"a": 0.0}, {}, ["a"]),
    ({"a": 1, "b": 2}, {"a": 1, "b": 3}, ["b"]),
])  # fmt: skip
def test_zero_is_a_value_and_false_is_none(former, plan, changed):
    assert changed_options(former, plan) == changed
