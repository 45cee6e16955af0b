"""Selects layers of a model by name, pattern or block number, for `zoo.capture` and `zoo.intervene`."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

from torch import nn

from zoo.nn.attention import Attention
from zoo.nn.block import Block
from zoo.nn.core import Core
from zoo.nn.gated_cross import GatedCrossAttention
from zoo.nn.stack import Stack
from zoo.utils.errors import did_you_mean

Layers = str | int | Sequence[str | int]
What = Literal["attention", "q", "k", "v", "head_output", "mixer", "mlp", "residual"]
# What can be captured, and the layers that have it.
NOUNS: dict[str, str] = dict.fromkeys(("attention", "q", "k", "v", "head_output"), "attention layer") | {
    "mixer": "mixer",
    "mlp": "MLP",
    "residual": "block",
}


class Selection(NamedTuple):
    """Attention modules with their names, in the order of the model; and the layers that have no attention weights."""

    found: list[tuple[str, Attention]]
    missing: dict[str, str]  # name: class


class Places(NamedTuple):
    """Modules with their names, in the order of the model; and the layers that do not have this."""

    found: list[tuple[str, nn.Module]]
    missing: dict[str, str]


def find_layers(model: nn.Module, layers: Layers) -> Selection:
    """The attention modules selected by `layers`, without those that have no weights.

    Raises ValueError for layers that do not exist, and for a name, pattern or number of which none has weights.
    """
    found = find_places(model, layers, "attention")
    return Selection([(name, part) for name, part in found.found if isinstance(part, Attention)], found.missing)


def find_places(model: nn.Module, layers: Layers, what: What) -> Places:
    """The modules selected by `layers` among those that have `what`, see `zoo.capture`.

    Raises ValueError for layers that do not exist, and for a name, pattern or number of which none has it.
    """
    named, without = places_of(model, what)
    names = [*named, *(name for name in without if name not in named)]
    if not names:
        raise ValueError(f"{type(model).__name__} has no {NOUNS[what]} of zoo.nn, so there is nothing to capture")
    if not isinstance(layers, str | int | Iterable):
        raise ValueError(f"layers={layers!r}: expected a name, a number of a block, or a list of them")
    numbers = block_places(model)
    having = [name for name in named if name not in without]
    choices = [layers] if isinstance(layers, str | int) else layers
    selected: set[str] = set()
    for choice in choices:
        matched = match_layers(choice, names, numbers, NOUNS[what])
        if all(name in without for name in matched):
            raise ValueError(nothing_there(what, matched[0], without[matched[0]], having))
        selected.update(matched)
    missing = {name: type(part).__name__ for name, part in without.items() if name in selected}
    return Places([(name, named[name]) for name in having if name in selected], missing)


def places_of(model: nn.Module, what: What) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """The modules that have `what` and the layers that do not, by name."""
    parts = dict(model.named_modules())
    blocks = {name: part for name, part in parts.items() if isinstance(part, Block | GatedCrossAttention)}
    if what == "residual":
        return {name: part for name, part in blocks.items() if isinstance(part, Block)}, {}
    if what in ("mlp", "mixer"):
        children = ("mlp",) if what == "mlp" else ("mixer", "cross")
        inside = {
            f"{path}.{child}": own_part(block, child)
            for path, block in blocks.items()
            for child in children
            if isinstance(getattr(block, child, None), nn.Module)
        }
        return inside, {}
    named: dict[str, nn.Module] = {name: part for name, part in parts.items() if isinstance(part, Attention)}
    without: dict[str, nn.Module] = {
        f"{path}.mixer": block.mixer
        for path, block in blocks.items()
        if isinstance(block, Block) and not any(isinstance(part, Attention) for part in block.mixer.modules())
    }
    if what == "attention":
        cores = {name: part.core for name, part in named.items() if isinstance(part, Attention)}
        without |= {name: core for name, core in cores.items() if type(core).weights is Core.weights}
    return named, without


def own_part(block: nn.Module, child: str) -> nn.Module:
    """A part of a block; the block itself for a mixer whose rows it packs, see `Block.mix_rows`."""
    part: nn.Module = getattr(block, child)
    return block if child == "mixer" and not getattr(part, "packs", False) else part


def check_what(what: Any) -> None:
    """Raise ValueError for what cannot be captured."""
    if what not in NOUNS:
        raise ValueError(
            f"what={what!r}{did_you_mean(str(what), NOUNS)}: expected one of {', '.join(map(repr, NOUNS))}"
        )


def block_places(model: nn.Module) -> dict[str, tuple[int, int]]:
    """{path of a block, with a final dot: (its number, number of blocks in its stack)}."""
    return {
        f"{path}.{i}." if path else f"{i}.": (i, len(stack))
        for path, stack in model.named_modules()
        if isinstance(stack, Stack | nn.ModuleList) and hasattr(stack, "checkpointing")  # a list is the Evoformer's
        for i in range(len(stack))
    }


def match_layers(
    choice: str | int, names: list[str], places: dict[str, tuple[int, int]], noun: str = "attention layer"
) -> list[str]:
    """The names selected by a pattern or block number. Raises ValueError if there are none."""
    if isinstance(choice, str):
        found = [name for name in names if fnmatchcase(name, choice)]
        if not found:
            near = did_you_mean(choice, names)
            raise ValueError(f"no {noun} is named {choice!r}{near}; layers: {shorten(names)}")
        return found
    prefixes = tuple(path for path, (i, depth) in places.items() if choice in (i, i - depth))
    found = [name for name in names if f"{name}.".startswith(prefixes)] if prefixes else []
    if not found:
        depth = max((depth for _, depth in places.values()), default=0)
        has = {"attention layer": "has attention", "block": "is there", "MLP": "has an MLP"}.get(noun, f"has a {noun}")
        raise ValueError(f"layers={choice}: no block with this number {has}; blocks: 0 to {depth - 1}")
    return found


def nothing_there(what: What, name: str, part: nn.Module, others: list[str]) -> str:
    """The message for a layer without `what`."""
    advice = f"choose others: layers={shorten(others)}" if others else "no layer of this model has any"
    lacks = "attention weights" if what == "attention" else "attention heads"
    return f"{name} is a {type(part).__name__}, which has no {lacks}; {advice}"


def shorten(names: list[str]) -> str:
    few = names if len(names) <= 4 else [*names[:2], "...", names[-1]]
    return "[" + ", ".join(few) + "]"
