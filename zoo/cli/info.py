"""The table of `zoo info NAME --length N`: the cost of each attention kind. Torch is imported to print it."""

import argparse
from typing import TYPE_CHECKING, Any

from zoo.utils.console import format_count, make_table
from zoo.utils.escape import printable

if TYPE_CHECKING:
    from zoo.models.base import Model


def add_kind_flags(parser: Any) -> None:
    """--attention and --mixer."""
    parser.add_argument("--attention", metavar="KIND", help="the attention kind of all layers, as attention=KIND")
    parser.add_argument("--mixer", metavar="NAME", help="the mixer of all layers, as mixer=NAME")


def kind_overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of `add_kind_flags` as fields of the config. Raises ValueError if the line has both forms."""
    flags = {name: value for name in ("attention", "mixer") if (value := getattr(args, name)) is not None}
    for name in flags:
        if any(word.startswith(f"{name}=") for word in args.overrides):
            raise ValueError(f"{name} is given twice, as --{name} and as {name}=: omit one of them")
    return flags


def cost_table(model: "Model", length: int, batch: int) -> Any:
    """A table of the costs of all kinds, beside those of softmax; the one that the model has is marked."""
    from zoo.inference.cost_by_kind import cost_by_kind

    costs = cost_by_kind(model, length, batch)
    table = make_table("kind", "argument", "FLOP", "forward", "kept for backward", "decoding cache", "")
    table.title = f"with each kind in all layers, {length:,} tokens, batch of {batch}"
    config: Any = model.config
    own = getattr(config, "mixer", None) or getattr(config, "attention", None)
    for cost in costs:
        mark = "this model" if cost.name == own else ""
        if cost.refused:
            table.add_row(cost.name, cost.argument, "-", "-", "-", "-", f"refused: {printable(cost.refused)}")
            continue
        sizes = (cost.inference_bytes, cost.saved_bytes)
        cache = "-" if cost.cache_bytes is None else f"{format_count(cost.cache_bytes)}B"
        cells = [f"{format_count(cost.flops)}", *(f"{format_count(size)}B" for size in sizes), cache]
        table.add_row(cost.name, cost.argument, *cells, mark)
    return table
