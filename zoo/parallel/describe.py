"""A table of what each process holds of a model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from zoo.parallel.config import PlanSettings
from zoo.parallel.local_parameters import WHOLE, Division
from zoo.parallel.tensor import Layout, Ranks, named_values

HEAD: tuple[str, ...] = (
    "parameter",
    "number",
    "shape",
    "processes of tensor=",
    "parameters",
    "of a process",
    "bytes of a process",
)
LEFT = (0, 2, 3)  # columns of words
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass
class Row:
    """Parameters of one name in all layers: how many, their size, and what a process holds of them."""

    name: str
    shape: tuple[int, ...]
    division: Division
    count: int = 0
    total: int = 0
    held: int = 0
    held_bytes: int = 0


def rows(plan: PlanSettings, model: nn.Module) -> list[Row]:
    """The rows of the table, for the process that holds most."""
    layout = Layout(model, Ranks(plan.tensor), sequence=plan.sequence) if plan.tensor > 1 else None
    found: dict[tuple[str, tuple[int, ...]], Row] = {}
    for name, value, module in named_values(model):
        division = WHOLE if layout is None else layout.division(module, name.rpartition(".")[2])
        shape = list(value.shape) or [1]
        if division.stored and division.dim is not None:
            shape[division.dim] = division.size
        shape[0] = -(-shape[0] // plan.shard)
        held = 1
        for size in shape:
            held *= size
        key = _NUMBER.sub("*", name), tuple(value.shape)
        row = found.setdefault(key, Row(*key, division))
        row.count, row.total, row.held = row.count + 1, row.total + value.numel(), row.held + held
        row.held_bytes += held * value.element_size()
    return list(found.values())


def describe(plan: PlanSettings, model: nn.Module) -> str:
    """See `Plan.describe`."""
    table: list[tuple[str, ...]] = [
        ("parameter", "number", "shape", "processes of tensor=", "parameters", "of a process", "bytes of a process")
    ]
    found = rows(plan, model)
    for row in found:
        shape = " x ".join(map(str, row.shape)) or "scalar"
        numbers = (f"{row.total:,}", f"{row.held:,}", f"{row.held_bytes:,}")
        table.append((row.name, str(row.count), shape, words(row.division), *numbers))
    sums = [sum(getattr(row, name) for row in found) for name in ("total", "held", "held_bytes")]
    table.append(("all", str(sum(row.count for row in found)), "", "", *(f"{number:,}" for number in sums)))
    head = [f"{plan}: {plan.world} processes", f"a batch is divided into {plan.batch_parts} parts"]
    if plan.shard > 1:
        head.append(f"each parameter is divided over shard={plan.shard} processes, along its first dimension")
    return "\n".join([*head, "", *aligned(table)])


def words(division: Division) -> str:
    """How the processes of `tensor` share a parameter."""
    if division.dim is None:
        return "each holds all"
    if not division.stored:
        return "each holds all, uses a part"
    return "divide its rows" if division.dim == 0 else "divide its columns"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, with numbers on the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [
            cell.ljust(w) if i < 4 and i != 1 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
