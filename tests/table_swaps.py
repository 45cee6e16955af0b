"""Swapping two lines of a weight table: every pair is an error, or changes the outputs."""

from collections.abc import Callable
from itertools import chain, combinations, islice
from pathlib import Path

from peers import error
from torch import Tensor

import zoo
from zoo.checkpoints.load import describe
from zoo.models.mapping.tensors import import_tensors, lines_for
from zoo.models.registry import build
from zoo.utils.files import open_tensors


def check_swaps(
    folder: Path,
    outputs: Callable[[zoo.Model], Tensor],
    expected: Tensor,
    at_least: int,
    within: tuple[str, ...] = ("",),
    step: int = 1,
) -> None:
    """Swap any two lines of the table of a folder that are in use, of which there are `at_least` so many.

    outputs: of a model; expected: those of the library that wrote the folder. within: only lines whose names of ours
    both begin with one of these. step: try each step-th pair, of a long table.
    """
    found = describe(folder)
    files = open_tensors(folder) if found.tensors is None else found.tensors
    model = build(found.family, found.config, "cpu").eval()
    state = model.state_dict()
    own = {name: state[name] for named in (model.named_parameters(), model.named_buffers()) for name, _ in named}
    rows = [row.split(" = ") for row in found.table.splitlines() if " = " in row]
    active = set(lines_for(found.table, own))
    used = [i for i, row in enumerate(rows) if active.intersection(lines_for(" = ".join(row), own))]
    groups = [[i for i in used if rows[i][0].strip().startswith(start)] for start in within]
    assert sum(map(len, groups)) >= at_least, groups
    pairs = chain.from_iterable(combinations(group, 2) for group in groups)
    for one, other in islice(pairs, 0, None, step):
        swapped = [list(row) for row in rows]
        swapped[one][1], swapped[other][1] = rows[other][1], rows[one][1]
        try:
            tensors, _ = import_tensors("\n".join(map(" = ".join, swapped)), own, files, base=found.base)
        except zoo.LoadError:
            continue
        model.load_state_dict(tensors, strict=False)
        assert error(outputs(model), expected) > 1e-4, (rows[one], rows[other])
