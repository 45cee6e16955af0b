"""The maps of a page: the layers of a model in groups with the same queries and keys, captured in one forward pass."""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zoo.interpret.attention_maps import entropy
from zoo.interpret.capture import as_list, capture
from zoo.interpret.edge_weights import EdgeWeights
from zoo.interpret.explore.inputs import PreparedInputs
from zoo.interpret.explore.positions import Positions, numbered
from zoo.interpret.explore.strongest import KEYS, Reduction, StrongestKeys
from zoo.interpret.select_layers import Layers, find_layers
from zoo.models.eval_mode import eval_mode
from zoo.nn.lengths import place

MAX_POSITIONS = 2048  # of a side of a map
MAX_BYTES = 60e6  # of the maps of one model
BYTES_PER_KEY = 1.9 * 4 / 3  # about 1.9 bytes for a key and its weight when compressed, and 4/3 as many in base64
CROSS_QUERIES = {"gated_cross": "text"}  # whose positions the queries of cross-attention are, if not of its own tower
CROSS_KEYS = {"decoder": "encoder"}  # whose positions its keys are, if there are no "features"
# Layers of an Evoformer, whose maps are those of the first row of what they attend within: (its positions, a name).
FIRST_ROWS = {
    "row_attention.attention": ("residues", "residues, of the query"),
    "column_attention.attention": ("sequences", "sequences, at the first residue"),
    "triangle_starting.attention": ("residues", "pairs that start at the first residue"),
    "triangle_ending.attention": ("residues", "pairs that end at the first residue"),
}
PARTS = "|".join(map(re.escape, ("mixer", "cross", *FIRST_ROWS)))
LAYER = re.compile(rf"(?:(?P<tower>.+?)\.)?blocks\.(?P<number>\d+)\.(?P<part>{PARTS})")


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """name: of the attention module; number: of its block; heads: the numbers of those that were captured."""

    name: str
    number: int
    heads: list[int]
    maps: StrongestKeys


@dataclass(frozen=True, eq=False)
class MapGroup:
    """Layers with the same queries and keys.

    name: for people, such as "decoder to encoder". same: whether queries and keys are the same positions.
    """

    name: str
    queries: Positions
    keys: Positions
    same: bool
    layers: list[LayerMaps] = field(default_factory=list)


def captured(
    model: Any, prepared: PreparedInputs, layers: Layers, heads: int | Sequence[int] | None, max_tokens: int | None
) -> tuple[list[MapGroup], dict[str, str], Any]:
    """(groups with their maps, {layer without attention weights: its class}, the output of the model).

    Raises: ValueError for layers and heads as in `zoo.capture`, and for maps that are too large for a page.
    """
    selected = find_layers(model, layers)
    groups: dict[tuple[str, str], tuple[MapGroup, list[tuple[str, Any]]]] = {}
    for name, module in selected.found:
        key = group_of(name)
        if key not in groups:
            groups[key] = (make_group(*key, prepared, max_tokens), [])
        groups[key][1].append((name, module))
    check_size([(group, modules) for group, modules in groups.values()], heads)
    batch = {name: x for name, x in prepared.batch.items() if name in model.inputs}
    batch = place(batch, model.inputs, next(model.parameters()))
    with ExitStack() as stack:
        stack.enter_context(eval_mode(model))
        stack.enter_context(torch.no_grad())
        found = []
        for group, modules in groups.values():
            names = [name for name, _ in modules]
            how: dict[str, Any] = {"edges": True} if group.queries.nodes else {"reduce": partial(reduce_map, group)}
            maps = stack.enter_context(capture(model, layers=names, rows=0, heads=heads, **how))
            found.append((group, modules, maps))
        output = model(**batch)
    made = []
    for group, modules, maps in found:
        for name, module in modules:
            if name in maps:
                kept = maps[name][-1] if isinstance(maps[name], list) else maps[name]
                if isinstance(kept, EdgeWeights):
                    kept = reduce_edges(group, kept)
                group.layers.append(LayerMaps(name, number_of(name), head_numbers(module, heads), kept))
        if group.layers:
            made.append(fitted(group))
    if not made:
        raise ValueError("no layer computed a map for these inputs: give the inputs of its tower, too")
    return made, selected.missing, output


def group_of(name: str) -> tuple[str, str]:
    """(path of the tower, "mixer" or "cross", or a layer outside of stacks) of an attention module."""
    found = LAYER.fullmatch(name)
    if found is None:
        return "", name
    return found["tower"] or "", found["part"]


def number_of(name: str) -> int:
    found = LAYER.fullmatch(name)
    return int(found["number"]) if found else 0


def make_group(tower: str, part: str, prepared: PreparedInputs, max_tokens: int | None) -> MapGroup:
    """A group without maps. Positions that are not known get their numbers when the size of the maps is known."""
    unknown = Positions(())
    side = CROSS_QUERIES.get(tower, tower)
    own = prepared.positions.get(side, unknown).first(max_tokens)
    if part == "mixer":
        keys = prepared.positions.get(f"{tower} keys", own)  # a resampler attends to features, too
        return MapGroup(tower or "self-attention", own, keys, keys is own)
    if part == "cross":
        name = "features" if "features" in prepared.positions else CROSS_KEYS.get(tower, "")
        keys = prepared.positions.get(name, unknown).first(max_tokens)
        return MapGroup(f"{side} to {name or 'other states'}", own, keys, False)
    if part in FIRST_ROWS:
        side, title = FIRST_ROWS[part]
        own = prepared.positions.get(side, unknown).first(max_tokens)
        return MapGroup(title, own, own, True)
    name = part.partition(".")[0]  # attention pooling, such as image.head.mixer, or to induced points
    keys = prepared.positions.get("encoder" if name == "pooler" else name, prepared.positions.get("", unknown))
    keys = keys.first(max_tokens)
    if keys.nodes:  # an output layer along the edges of the graph
        return MapGroup(part, keys, keys, True)
    return MapGroup(part, unknown, keys, False)


def reduce_map(group: MapGroup, weights: Tensor) -> StrongestKeys:
    """The `reduce` of `zoo.capture` for the layers of a group. Positions that do not fit the map are not used."""
    sides, counts = (group.queries, group.keys), weights.shape[2:]
    queries, keys = (len(side) if len(side) and side.total == count else None for side, count in zip(sides, counts))
    known = group.same and queries is not None and keys is not None
    grid, prefix = group.queries.geometry() if known else (None, 0)
    return Reduction(queries, keys, group.same and counts[0] == counts[1], grid, prefix)(weights)


def reduce_edges(group: MapGroup, found: EdgeWeights) -> StrongestKeys:
    """What `reduce_map` gives, from the weights of edges: those of nodes that are not shown count as the rest."""
    nodes = group.queries.nodes
    assert nodes is not None
    count = len(nodes)
    number = torch.full((len(nodes.texts),), count)
    number[nodes.shown] = torch.arange(count)
    source, target = number[found.edge_index.cpu()]
    weights = found.weights.float().cpu()
    pairs = torch.zeros(weights.shape[1], count + 1, count + 1)  # the last row and column: all that are not shown
    for head, of_head in zip(pairs, weights.T, strict=True):
        head.index_put_((target, source), of_head, accumulate=True)
    kept = Reduction(count, count)(pairs[None])
    return replace(kept, entropy=entropy(found)[0].tolist())  # of all edges


def fitted(group: MapGroup) -> MapGroup:
    """The group with positions as many as its maps have."""
    maps = group.layers[0].maps
    queries = group.queries if len(group.queries) == maps.queries else numbered(maps.queries)
    keys = group.keys if len(group.keys) == maps.keys else numbered(maps.keys)
    same = group.same and maps.queries == maps.keys  # the points of a set attend to fewer, induced points
    return MapGroup(group.name, queries, queries if same else keys, same, group.layers)


def head_numbers(module: Any, heads: int | Sequence[int] | None) -> list[int]:
    count = module.core.spec.heads
    return [number % count for number in as_list(heads, "heads") or range(count)]


def check_size(groups: Sequence[tuple[MapGroup, Sequence[tuple[str, Any]]]], heads: int | Sequence[int] | None) -> None:
    """Raise ValueError for maps that a page cannot show, before they are computed."""
    size = 0.0
    for group, modules in groups:
        for side in (group.queries, group.keys):
            if len(side) > MAX_POSITIONS:
                raise ValueError(
                    f"the input has {len(side):,} positions in {group.name}, and a page shows at most "
                    f"{MAX_POSITIONS:,}: choose max_tokens= (--max-tokens) for the first of them, of a graph for the "
                    "nodes nearest to that of around= (--around), or a shorter input"
                )
        for _, module in modules:
            kept = min(KEYS, len(group.keys))
            size += len(head_numbers(module, heads)) * len(group.queries) * kept * BYTES_PER_KEY
    if size > MAX_BYTES:
        raise ValueError(
            f"the page would have about {size / 1e6:,.0f} MB, expected at most {MAX_BYTES / 1e6:.0f} MB: choose "
            "layers=[0, -1], heads= or max_tokens= (--layers, --heads, --max-tokens), or a shorter input"
        )
