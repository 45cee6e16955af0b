"""A table of what each process holds of a model."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from zoo.parallel.config import PlanSettings
from zoo.parallel.cuts import LAST, cut_blocks
from zoo.parallel.exchanges import held_of
from zoo.parallel.local_parameters import WHOLE, Division
from zoo.parallel.tensor import Layout, Ranks, named_values

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
    bytes_of = [0] * plan.pipeline
    held_by: list[list[tuple[Row, int, int]]] = [[] for _ in range(plan.pipeline)]
    places = processes_of(plan, model)
    for name, value, module in named_values(model):
        division = WHOLE if layout is None else layout.division(module, name.rpartition(".")[2])
        held = held_of(name, value, module, layout).part(plan.parts_of_parameters)
        key = _NUMBER.sub("*", name), tuple(value.shape)
        row = found.setdefault(key, Row(*key, division))
        row.count, row.total = row.count + 1, row.total + value.numel()
        for process in places(name, value):
            bytes_of[process] += held * value.element_size()
            held_by[process].append((row, held, held * value.element_size()))
    for row, held, size in held_by[bytes_of.index(max(bytes_of))]:
        row.held, row.held_bytes = row.held + held, row.held_bytes + size
    return list(found.values())


def processes_of(plan: PlanSettings, model: nn.Module) -> Callable[[str, nn.Parameter], set[int]]:
    """(name of a parameter, the parameter) -> the processes of a pipeline whose stages have it."""
    if plan.pipeline == 1:
        return lambda name, value: {0}
    stages = cut_blocks(model, plan.pipeline * plan.stages_per_process)
    number = {block: stage % plan.pipeline for stage, blocks in enumerate(stages) for block in blocks}
    last = {id(p) for name, p in model.named_parameters(remove_duplicate=False) if name.startswith(LAST)}

    def places(name: str, value: nn.Parameter) -> set[int]:
        if block := re.match(r"blocks\.(\d+)\.", name):
            return {number[int(block[1])]}
        first = set() if name.startswith(LAST) else {0}
        return first | ({plan.pipeline - 1} if id(value) in last else set())

    return places


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
        over = f"shard={plan.shard}" + (f" x context={plan.context}" if plan.context > 1 else "")
        head.append(f"each parameter is divided over {over} processes, along its first dimension")
    if plan.pipeline > 1:
        head.append(
            f"of the pipeline={plan.pipeline} processes with other stages, the numbers are those of the largest"
        )
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
