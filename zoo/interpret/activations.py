"""Recorders of `zoo.capture`: attention maps, what enters a core, and what modules return."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.interpret.core_calls import CoreCalls, InputCalls, MapCalls, by_head, map_edits
from zoo.interpret.edge_weights import EdgeWeights
from zoo.interpret.hooks import Layout, attached, check_indices, recomputing, replaced_method
from zoo.nn.attention import Attention
from zoo.nn.block import Block
from zoo.nn.kv_cache import own_memory


class Activations(dict[str, Any]):
    """Activations by the names of their modules, or a list of them for a module that runs several times.

    missing: {name: class} of the selected layers that have none.
    """

    def __init__(self, found: Mapping[str, Any] | None = None, missing: Mapping[str, str] | None = None) -> None:
        super().__init__(found or {})
        self.missing = dict(missing or {})

    def store(self, name: str, value: Any) -> None:
        """Add what one run of a module gave."""
        if name in self:
            before = self[name]
            value = [*before, value] if isinstance(before, list) else [before, value]
        self[name] = value


@dataclass
class Recorder:
    """Stores the activations of one module in `captured`: the selected rows and heads, reduced."""

    name: str
    module: nn.Module
    layout: Layout
    captured: Activations
    rows: list[int] | None = None
    heads: list[int] | None = None
    reduce: Callable[[Tensor], Tensor] | None = None

    @contextmanager
    def attach(self) -> Iterator[None]:
        with attached([(self.module.register_forward_hook, self.after)], reads_only=True):
            yield

    def after(self, module: nn.Module, args: tuple, output: Any) -> None:
        """Hook: the module has run."""
        if recomputing():
            return
        value: Any = self.value(output)
        self.captured.store(self.name, value if self.reduce is None else self.reduced(value, self.reduce))

    def reduced(self, value: Any, reduce: Callable[[Tensor], Any]) -> Any:
        """What `reduce` makes of the activations."""
        found = reduce(value)
        return own_memory(found) if isinstance(found, Tensor) else found  # a part of a map would keep all of it

    def value(self, output: Tensor) -> Tensor:
        """The activations of a module that returned `output` [B, N, D], or [1, T, D] without padding."""
        return self.select(self.layout.pad(output.detach()))

    def select(self, x: Tensor) -> Tensor:
        """The selected rows and heads of x [B, N, D] or [B, H, N, P]."""
        for dim, (option, numbers) in enumerate((("rows", self.rows), ("heads", self.heads))):
            chosen = check_indices(numbers, x.shape[dim], option, self.name)
            if chosen is not None:
                x = x.index_select(dim, torch.tensor(chosen, device=x.device))
        return own_memory(x)


class HeadOutputRecorder(Recorder):
    """The inputs of the output projection of an attention module, by heads."""

    @contextmanager
    def attach(self) -> Iterator[None]:
        out: Any = self.module.out
        with attached([(out.register_forward_pre_hook, self.before_out)], reads_only=True):
            yield

    def before_out(self, out: nn.Module, args: tuple) -> None:
        """Hook: the output projection is called."""
        self.after(out, args, args[0])

    def value(self, output: Tensor) -> Tensor:
        return self.select(by_head(self.layout.pad(output.detach()), self.module))


class RowsMixerRecorder(Recorder):
    """The output of a mixer that does not take packed rows: its block calls it for rows of equal length."""

    @contextmanager
    def attach(self) -> Iterator[None]:
        with replaced_method(self.module, "mix_rows", self.mix_rows, reads_only=True):
            yield

    def mix_rows(self, inner: Callable[..., Tensor], *args: Any) -> Tensor:
        """Replaces the block's `mix_rows`."""
        y = inner(*args)
        self.after(self.module, args, y)
        return y


class CallsRecorder(Recorder):
    """What `calls` finds of an attention module."""

    calls: CoreCalls

    @contextmanager
    def attach(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self.calls.attach())
            stack.enter_context(super().attach())
            yield


class MapRecorder(CallsRecorder):
    """The attention maps of an attention module, or the weights of edges, see `MapCalls`."""

    def __init__(self, name: str, module: Attention, layout: Layout, *rest: Any, edges: bool | None = None) -> None:
        super().__init__(name, module, layout, *rest)
        self.calls = self.maps = MapCalls(name, module, layout, self.rows, self.heads, edges=edges)

    def value(self, output: Tensor) -> Any:
        found, self.maps.map = self.maps.found(), None
        edits = map_edits(self.module)
        if isinstance(found, EdgeWeights):
            return found.read(self.select(edits[-1].edited.detach())) if edits else found
        return self.select(edits[-1].edited.detach()) if edits else found.detach()

    def reduced(self, value: Any, reduce: Callable[[Tensor], Any]) -> Any:
        if isinstance(value, EdgeWeights):
            return value._replace(weights=super().reduced(value.weights, reduce))
        return super().reduced(value, reduce)


class InputRecorder(CallsRecorder):
    """The queries, keys or values of an attention module."""

    def __init__(self, which: str, name: str, module: Attention, layout: Layout, *rest: Any) -> None:
        super().__init__(name, module, layout, *rest)
        self.calls = self.inputs = InputCalls(name, module, layout, which)

    def value(self, output: Tensor) -> Tensor:
        found = self.inputs.found().detach()
        self.inputs.begin()
        return self.select(found)


def recorder_of(
    what: str, name: str, module: nn.Module, layout: Layout, *rest: Any, edges: bool | None = None
) -> Recorder:
    """The recorder for `what` of `zoo.capture`."""
    if what == "attention":
        return MapRecorder(name, module, layout, *rest, edges=edges)  # type: ignore[arg-type]
    if what in ("q", "k", "v"):
        return InputRecorder(what, name, module, layout, *rest)  # type: ignore[arg-type]
    if what == "head_output":
        return HeadOutputRecorder(name, module, layout, *rest)
    return (RowsMixerRecorder if what == "mixer" and isinstance(module, Block) else Recorder)(
        name, module, layout, *rest
    )
