"""Selects attention layers of a model by name, pattern or block number, for `zoo.capture`."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

from zoo.nn.attention import Attention
from zoo.nn.block import Block
from zoo.nn.core import Core
from zoo.nn.stack import Stack
from zoo.utils.errors import did_you_mean

Layers = str | int | Sequence[str | int]


class Selection(NamedTuple):
    """Attention modules with their names, in the order of the model; and the layers that have no attention weights."""

    found: list[tuple[str, Attention]]
    missing: dict[str, str]  # name: class


def find_layers(model: nn.Module, layers: Layers) -> Selection:
    """The attention modules selected by `layers`, without those that have no weights.

    Raises ValueError for layers that do not exist, and for a name, pattern or number of which none has weights.
    """
    places = block_places(model)
    named = {name: part for name, part in model.named_modules() if isinstance(part, Attention)}
    weightless = {
        f"{path}.mixer": block.mixer
        for path, block in model.named_modules()
        if isinstance(block, Block) and not any(isinstance(part, Attention) for part in block.mixer.modules())
    }
    names = [*named, *weightless]
    if not names:
        raise ValueError(f"{type(model).__name__} has no attention layer of zoo.nn, so there are no maps to capture")
    if not isinstance(layers, str | int | Iterable):
        raise ValueError(f"layers={layers!r}: expected a name, a number of a block, or a list of them")
    weightless |= {name: part.core for name, part in named.items() if type(part.core).weights is Core.weights}
    with_weights = [name for name in named if name not in weightless]
    choices = [layers] if isinstance(layers, str | int) else layers
    selected: set[str] = set()
    for choice in choices:
        matched = match_layers(choice, names, places)
        if all(name in weightless for name in matched):
            raise ValueError(no_weights_message(matched[0], weightless[matched[0]], with_weights))
        selected.update(matched)
    missing = {name: type(part).__name__ for name, part in weightless.items() if name in selected}
    return Selection([(name, named[name]) for name in with_weights if name in selected], missing)


def block_places(model: nn.Module) -> dict[str, tuple[int, int]]:
    """{path of a block, with a final dot: (its number, number of blocks in its stack)}."""
    return {
        f"{path}.{i}." if path else f"{i}.": (i, len(stack))
        for path, stack in model.named_modules()
        if isinstance(stack, Stack)
        for i in range(len(stack))
    }


def match_layers(choice: str | int, names: list[str], places: dict[str, tuple[int, int]]) -> list[str]:
    """The names selected by a pattern or block number. Raises ValueError if there are none."""
    if isinstance(choice, str):
        found = [name for name in names if fnmatchcase(name, choice)]
        if not found:
            near = did_you_mean(choice, names)
            raise ValueError(f"no attention layer is named {choice!r}{near}; layers: {shorten(names)}")
        return found
    prefixes = tuple(path for path, (i, depth) in places.items() if choice in (i, i - depth))
    found = [name for name in names if name.startswith(prefixes)] if prefixes else []
    if not found:
        depth = max((depth for _, depth in places.values()), default=0)
        raise ValueError(f"layers={choice}: no block with this number has attention; blocks: 0 to {depth - 1}")
    return found


def no_weights_message(name: str, part: nn.Module, others: list[str]) -> str:
    advice = f"choose others: layers={shorten(others)}" if others else "no layer of this model has any"
    return f"{name} is a {type(part).__name__}, which has no attention weights to capture; {advice}"


def shorten(names: list[str]) -> str:
    few = names if len(names) <= 4 else [*names[:2], "...", names[-1]]
    return "[" + ", ".join(few) + "]"
