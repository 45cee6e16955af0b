"""Facts of a text in the cell of a table: those that a summary of it must keep."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Fact = tuple[str, ...]  # its parts, e.g. ("metformin", "500 mg", "twice a day"); the first is what the fact is about


def read_facts(cell: Any) -> list[Fact]:
    """The facts in a cell: a list whose facts are texts, lists of parts or objects of named parts; or a text.

    A text is such a list as JSON, or has facts separated by semicolons with parts separated by bars: `metformin | 500
    mg; aspirin | 100 mg`. An empty cell has no facts. Parts without a value are left out.

    Raises: ValueError for anything else, and for a fact without parts, or a part without letters or digits.
    """
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return []
    if isinstance(cell, str):
        cell = _of_text(cell.strip())
    if not isinstance(cell, Sequence) or isinstance(cell, str | bytes):
        raise ValueError(f"the facts are {cell!r:.60}, expected a list of facts, or a text such as "
                         f"'metformin | 500 mg; aspirin | 100 mg'")  # fmt: skip
    return [_fact(fact) for fact in cell]


def _of_text(text: str) -> Any:
    if text[0] in "[{":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"the facts are invalid JSON ({error}): {text!r:.60}") from None
    return [fact.split("|") for fact in text.split(";") if fact.strip()]


def _fact(value: Any) -> Fact:
    parts = list(value.values()) if isinstance(value, Mapping) else [value] if isinstance(value, str) else value
    if not isinstance(parts, Sequence) or any(not isinstance(part, str | int | float | None) for part in parts):
        raise ValueError(f"a fact is {value!r:.60}, expected a text, a list of texts, or an object of texts")
    found = tuple(str(part).strip() for part in parts if part is not None and str(part).strip())
    if not found:
        raise ValueError(f"a fact is {value!r:.60}, which has no parts")
    if bad := next((part for part in found if not any(map(str.isalnum, part))), ""):
        raise ValueError(f"a fact has the part {bad!r}, expected one with letters or digits")
    return found
