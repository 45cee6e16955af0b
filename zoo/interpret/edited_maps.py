"""Edits of attention maps: the output of the chosen heads becomes the edited weights times the values."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.interpret.core_calls import InputCalls, MapCalls, by_head, map_edits
from zoo.interpret.edits import AppliedEdit
from zoo.interpret.hooks import Layout, attached_edit, check_not_compiling
from zoo.nn.attention import Attention
from zoo.nn.sdpa import repeat_kv


class MapEdits:
    """Edits of the map of one attention module.

    The kernels compute the outputs of all heads; those of the chosen heads and queries are then replaced. edited: the
    map of the last run with all edits [B, H, N, M].
    """

    def __init__(self, name: str, attention: Attention, layout: Layout, changes: list[AppliedEdit]) -> None:
        self.attention, self.layout, self.changes = attention, layout, changes
        self.maps = MapCalls(name, attention, layout, recomputed=True)
        self.visible = MapCalls(name, attention, layout, recomputed=True, visible=True)
        self.values = InputCalls(name, attention, layout, "v", recomputed=True, of_cache=True)
        self.edited: Tensor | None = None

    @contextmanager
    def attach(self) -> Iterator[None]:
        followed = [self.maps, self.values]
        if any(change.edit.by == "mean" for change in self.changes):
            followed.append(self.visible)
        with ExitStack() as stack:
            for calls in followed:
                stack.enter_context(calls.attach())
            stack.enter_context(attached_edit(self.attention.out, self.before_out, of_inputs=True))
            stack.enter_context(self.listed())
            yield

    @contextmanager
    def listed(self) -> Iterator[None]:
        """Known to `map_edits`, in this thread."""
        thread = threading.get_ident()
        table: dict[int, list[Any]] = self.attention.__dict__.setdefault("map_edits", {})
        table[thread] = [*table.get(thread, []), self]
        try:
            yield
        finally:
            table[thread] = [edits for edits in table[thread] if edits is not self]
            if not table[thread]:
                del table[thread]

    def before_out(self, out: nn.Module, args: tuple) -> tuple[Tensor]:
        """Hook: the output projection is called; its input is what the heads computed."""
        check_not_compiling()
        y = by_head(self.layout.pad(args[0]), self.attention)  # B H N P
        weights = self.base(y)
        v = keys_in_rows(repeat_kv(self.values.found(), y.shape[1]), y)
        for change in self.changes:
            weights = change(weights, self.layout, partial(self.of_equals, y))
            index = change.index(y, self.layout)
            if index is not None:
                rows, heads, queries = (index.get(dim, torch.arange(y.shape[dim], device=y.device)) for dim in range(3))
                own = weights.index_select(0, rows).index_select(1, heads).index_select(2, queries).to(v.dtype)
                mixed = own @ v.index_select(0, rows).index_select(1, heads)
                y = y.index_put(torch.meshgrid(rows, heads, queries, indexing="ij"), mixed.to(y.dtype))
        self.edited = weights
        return (self.layout.unpad(y.transpose(1, 2).flatten(2), args[0]),)

    def base(self, y: Tensor) -> Tensor:
        """The map before these edits, which the contexts around this one may have edited."""
        all_edits = map_edits(self.attention)
        number = all_edits.index(self)
        before = all_edits[number - 1].edited if number else None
        return queries_in_rows(self.maps.found(), y) if before is None else before

    def of_equals(self, y: Tensor) -> Tensor:
        """The weights for equal queries and keys."""
        return queries_in_rows(self.visible.found(), y)


def queries_in_rows(x: Tensor, y: Tensor) -> Tensor:
    """x [R, H, cN, M] -> [B, H, N, M] like y [B, H, N, P], where c rows attend to one memory."""
    copies = y.shape[0] // x.shape[0]
    return x if copies <= 1 else x.unflatten(2, (copies, -1)).transpose(1, 2).flatten(0, 1)


def keys_in_rows(x: Tensor, y: Tensor) -> Tensor:
    """x [R, H, M, P] -> [B, H, M, P], where several rows of y [B, H, N, P] attend to one memory."""
    copies = y.shape[0] // x.shape[0]
    return x if copies <= 1 else x.repeat_interleave(copies, 0)
