"""Scores of heads: of a model, of the same model with random weights, and of uniform attention over the same keys."""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.interpret.capture import capture
from zoo.interpret.roles.batches import RoleBatch, Target
from zoo.interpret.roles.position_fit import PositionFit
from zoo.interpret.select_layers import find_layers
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.eval_mode import eval_mode
from zoo.nn.attention import Attention
from zoo.nn.core import Core
from zoo.nn.init import initialize
from zoo.nn.lengths import place
from zoo.nn.masks import AnyMask, as_mask

KINDS = ("model", "control", "chance")
CONTROL_SEED = 1_000_003  # added to the seed of the control, so that it is not what a model was trained from
POSITION_ROLES = ("position", "relative_position")


class Measurement:
    """Collects the scores of all heads over batches.

    Attributes:
        layers: {"encoder", "decoder", "cross" or "text": names of its layers}.
        missing: {name: class} of the layers that have no attention weights.
    """

    def __init__(self, model: Any, seed: int = 0) -> None:
        """seed: of the random weights of the control.

        Raises: ValueError for a model without attention weights.
        """
        self.model = model
        found = find_layers(model, "*")
        self.layers = by_side([name for name, _ in found.found])
        self.missing = found.missing
        if not self.layers:
            raise ValueError(f"{type(model).__name__} has no blocks with attention: there are no heads to measure")
        self.control = copy.deepcopy(model)
        initialize(self.control, seed + CONTROL_SEED)
        self.sums: dict[tuple[str, str, str], Tensor] = {}  # (kind, layer, role): [H]
        self.counts: dict[tuple[str, str], int] = {}  # (layers, role): queries
        self.signed: set[str] = set()  # roles that compare keys
        self.fits: dict[tuple[str, str], PositionFit] = {}  # (kind, layer)

    def add(self, batch: RoleBatch) -> None:
        """Measure one batch."""
        inputs = place(batch.inputs, self.model.inputs, next(self.model.parameters()))
        uniform: dict[str, Tensor] = {}  # of the first row of each layer
        for kind in reversed(KINDS):
            model = self.model if kind == "model" else self.control
            with ExitStack() as stack:
                stack.enter_context(eval_mode(model))
                stack.enter_context(torch.no_grad())
                if kind == "chance":
                    stack.enter_context(uniform_attention(model))
                captured = {
                    side: stack.enter_context(capture(model, layers=names, reduce=self.reducer(side, batch, kind)))
                    for side, names in self.layers.items()
                    if side in batch.targets or side in batch.positions
                }
                run(model, inputs)
            for side, maps in captured.items():
                for layer, (sums, kept) in maps.items():
                    self.store(kind, layer, batch.targets.get(side, {}), sums)
                    if side in batch.positions and kind == "chance":
                        uniform[layer] = kept
                    elif side in batch.positions:
                        fit = self.fits.setdefault((kind, layer), PositionFit())
                        fit.add(kept, uniform[layer], batch.positions[side])
        for side, targets in batch.targets.items():
            rows, length = size_of(batch, side)
            for role, target in targets.items():
                self.counts[side, role] = self.counts.get((side, role), 0) + target.count(rows, length)
                if bool((target.weights < 0).any()):
                    self.signed.add(role)

    def reducer(self, side: str, batch: RoleBatch, kind: str) -> Callable[[Tensor], Any]:
        """What `capture` keeps of a map: the sums of the roles [R, H] and, for positions, the map or its first row."""
        cache: list[Tensor] = []
        targets, positions = batch.targets.get(side, {}), side in batch.positions

        def reduce(maps: Tensor) -> tuple[Tensor, Tensor | None]:
            rows, heads, queries, keys = maps.shape
            if not cache and targets:
                dense = [target.dense(rows, queries, keys).flatten() for target in targets.values()]
                cache.append(torch.stack(dense).to(maps.device))
            kept = None if not positions else maps[0] if kind == "chance" else maps
            if not targets:
                return maps.new_zeros(0, heads), kept
            return cache[0] @ maps.float().transpose(0, 1).flatten(1).T, kept

        return reduce

    def store(self, kind: str, layer: str, targets: dict[str, Target], sums: Tensor) -> None:
        """Add the sums of the roles [R, H] of one layer."""
        for role, values in zip(targets, sums.double().cpu(), strict=True):
            before = self.sums.get((kind, layer, role))
            self.sums[kind, layer, role] = values if before is None else before + values

    def without_queries(self) -> set[str]:
        """The roles that no query of any batch counts for, such as punctuation in texts that have none."""
        counted = {role for (_, role), count in self.counts.items() if count}
        return {role for _, role in self.counts} - counted

    def scores(self) -> Iterator[tuple[str, str, list[float], list[float], list[float]]]:
        """(layer, role, scores, chance levels, scores with random weights), each of all heads."""
        for side, role in self.counts:
            for layer in self.layers[side]:
                if (count := self.counts[side, role]) and ("model", layer, role) in self.sums:
                    found = {kind: (self.sums[kind, layer, role] / count).tolist() for kind in KINDS}
                    yield layer, role, found["model"], found["chance"], found["control"]
        fitted = {key: fit.scores() for key, fit in self.fits.items() if fit.inputs > 1}
        for role in POSITION_ROLES:
            for (kind, layer), found_fit in fitted.items():
                if kind == "model":
                    score = found_fit[role].tolist()
                    yield layer, role, score, [0.0] * len(score), fitted["control", layer][role].tolist()


def by_side(names: list[str]) -> dict[str, list[str]]:
    """The attention layers of blocks: those of the decoder and its cross-attention, those of the text tower of CoCa,
    and all others as "encoder"."""
    sides: dict[str, list[str]] = {}
    for name in names:
        found = re.fullmatch(r"(?:.*\.)?blocks\.\d+\.(mixer|cross)(?:\..*)?", name)
        if found is not None:
            part = name.partition(".")[0]
            side = "cross" if found[1] == "cross" else part if part in ("decoder", "text") else "encoder"
            sides.setdefault(side, []).append(name)
    return sides


def size_of(batch: RoleBatch, side: str) -> tuple[int, int]:
    """(rows, queries) of a batch: of its targets where these do not broadcast, else 1."""
    shapes = [target.queries.shape for target in batch.targets[side].values()]
    shapes += [target.weights.shape[:2] for target in batch.targets[side].values()]
    rows = len(next(iter(batch.inputs.values())))
    return rows, max(shape[-1] for shape in shapes)


def run(model: Any, inputs: dict[str, Tensor]) -> None:
    """One forward pass without the head, which no map needs and which takes long for a large vocabulary."""
    if isinstance(model, EncoderDecoder) and f"{model.decoder_prefix}input_ids" in inputs:
        model(**inputs)
    else:
        model.encode(**inputs)


def is_causal(model: Any, ids: Tensor) -> bool:
    """Whether tokens attend to no later ones in the first layer of a text model. ids: [1, N], at least two tokens."""
    layer = by_side([name for name, _ in find_layers(model, "*").found])["encoder"][0]
    with eval_mode(model), torch.no_grad(), capture(model, layers=layer) as maps:
        run(model, {"input_ids": ids.to(model.device)})
    return bool((maps[layer][0, :, 0, 1] == 0).all())


@contextmanager
def uniform_attention(model: nn.Module) -> Iterator[None]:
    """Context in which the maps of a model are uniform over the keys that each query may attend to.

    The outputs of cores without a fused kernel then are those of uniform attention, too: for a copy of a model.
    """
    cores = [part.core for part in model.modules() if isinstance(part, Attention)]
    for core in cores:
        core.maps = partial(uniform_maps, core)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for core in cores:
            del core.maps


def uniform_maps(core: Core, q: Tensor, k: Tensor, mask: AnyMask = None, bias: Any = None, **extra: Any) -> Tensor:
    """Equal weights for all keys that a query may attend to [B, H, N, M], zeros for a query without any."""
    if extra.get("global_inputs") is not None:  # tokens with projections of their own, as in Longformer
        allowed = type(core).maps(core, torch.zeros_like(q), torch.zeros_like(k), mask, None, **extra) != 0
    else:
        allowed, fully_masked = (as_mask(mask) & core.pattern).evaluate(q.shape[2], k.shape[2], q.device)
        allowed = allowed if fully_masked is None else allowed & ~fully_masked
    weights = allowed.to(q.dtype)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
    return weights.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
