"""What an attention core is called with: its attention maps, queries, keys and values, in the places of the batch."""

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.interpret.edge_weights import compute_edge_weights, graph_in, the_row
from zoo.interpret.hooks import Layout, attached, check_indices, recomputing, replaced_method
from zoo.interpret.selected_maps import EXTRA, NOTHING, compute_maps, in_rectangle, zero_padded
from zoo.nn.attention import Attention
from zoo.nn.core import Core
from zoo.nn.graphs.graph_mask import GraphMask
from zoo.nn.kv_cache import LayerState, LinearAttentionState, State
from zoo.nn.masks import MaskView, PaddingMask
from zoo.nn.padding import Groups
from zoo.nn.window_cache import WindowCache


class CoreCalls:
    """Follows the calls of the core of one attention module, in this thread.

    recomputed: also those that activation checkpointing repeats.
    """

    recomputed = False

    def __init__(self, name: str, attention: Attention, layout: Layout) -> None:
        self.name, self.attention, self.layout = name, attention, layout
        self.cache: State | None = None
        self.is_cross = False

    @contextmanager
    def attach(self) -> Iterator[None]:
        core = self.attention.core
        hooks: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
            (partial(self.attention.register_forward_pre_hook, with_kwargs=True), self.before_attention),
            (partial(core.register_forward_hook, with_kwargs=True), self.after_core),
        ]
        with ExitStack() as stack:
            stack.enter_context(attached(hooks))
            if self.replaces_decode():
                stack.enter_context(replaced_method(core, "decode", self.decode))
            yield

    def replaces_decode(self) -> bool:
        """Whether decoding need not call `forward`."""
        return type(self.attention.core).decode is not Core.decode

    def before_attention(self, attention: Attention, args: tuple, kwargs: dict[str, Any]) -> None:
        """Hook: the attention module is called."""
        given = dict(zip(("x", "context", "state", "memory"), args, strict=False)) | kwargs
        self.is_cross = given.get("memory") is not None
        state = None if self.is_cross else given.get("state")
        self.cache = state.mixer if isinstance(state, LayerState) else None
        self.begin()

    def after_core(self, core: Core, args: tuple, kwargs: dict[str, Any], output: Tensor) -> None:
        """Hook: the core was called."""
        if self.recomputed or not recomputing():
            self.take(dict(zip(("q", "k", "v", "mask", "bias", "gates"), args, strict=False)) | kwargs)

    def begin(self) -> None:
        """Forget the calls of an earlier forward."""
        raise NotImplementedError

    def take(self, given: dict[str, Any]) -> None:
        """Note one call of the core: its arguments by name."""
        raise NotImplementedError

    def decode(self, inner: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, state: State, *rest: Any) -> Tensor:
        """Replaces the core's `decode`, which is `inner`."""
        raise NotImplementedError


class MapCalls(CoreCalls):
    """The attention map of one attention module: `map` [rows, heads, N, M] after its core was called.

    rows, heads: which ones, None for all. recomputed: for edits; the map then has gradients. visible: the weights for
    queries and keys of zeros instead, which are not zero where a query may attend. edges: whether `map` is of the edges
    of a graph alone; None: of a graph that is too large for a matrix of all pairs.
    """

    def __init__(
        self,
        name: str,
        attention: Attention,
        layout: Layout,
        rows: list[int] | None = None,
        heads: list[int] | None = None,
        *,
        recomputed: bool = False,
        visible: bool = False,
        edges: bool | None = False,
    ) -> None:
        super().__init__(name, attention, layout)
        self.rows, self.heads, self.recomputed, self.visible = rows, heads, recomputed, visible
        self.edges = edges
        self.map: Any = None  # a tensor, or EdgeWeights
        self.seen_keys: Any = weakref.WeakKeyDictionary()
        self.run = self.start = 0  # for packed rows: next run of rows of equal length, its first token

    def begin(self) -> None:
        self.map, self.run, self.start = None, 0, 0

    def take(self, given: dict[str, Any]) -> None:
        q, k, mask, bias = given["q"], given["k"], given.get("mask"), given.get("bias")
        context = self.layout.context
        groups, extra = context.groups, {name: given[name] for name in EXTRA if given.get(name) is not None}
        if self.recomputed and "global_inputs" in extra:
            raise ValueError(
                f"{self.name} has global tokens, whose weights multiply values of their own, so its map cannot be "
                "edited; edit its head outputs"
            )
        if self.recomputed and getattr(extra.get("edge_inputs"), "values", None) is not None:
            raise ValueError(
                f"{self.name} adds edge features to the values, so its output is not the map times the values of "
                "nodes, and its map cannot be edited; edit its head outputs"
            )
        if groups is None or groups.starts is None:
            self.take_part(q, k, mask, bias, extra)
            return
        if isinstance(mask, MaskView) and mask.rows is not None:
            q, k = groups.pad(q), groups.pad(k)
        row = 0
        for rows, length in groups.sizes:  # padded rows, on a GPU
            some = slice(row, row + rows)
            own = in_rectangle(extra, some, length)
            self.take_part(q[some, :, :length], k[some, :, :length], context.mask, context.bias, own)
            row += rows

    def decode(self, inner: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, state: State, *rest: Any) -> Tensor:
        """Keeps the keys of linear attention, whose cache has only their sum."""
        keys, mask, bias = k, *(*rest, None, None)[:2]
        if isinstance(state, LinearAttentionState):
            before, known = self.seen_keys.get(state, (k[:, :, :0], state.sum))
            if before.shape[2] != state.length or known is not state.sum:
                raise ValueError(
                    f"{self.name}: the cache of {type(self.attention.core).__name__} has a sum over {state.length} "
                    "earlier tokens, not their keys; enter zoo.capture before the first token and do not reorder rows "
                    "(beams) inside it"
                )
            keys = torch.cat([before, k.detach()], 2)
        y = inner(q, k, v, state, *rest)
        if isinstance(state, LinearAttentionState):
            self.seen_keys[state] = keys, state.sum
            if self.map is None:
                self.take_part(q, keys, mask, bias)
        return y

    def take_part(self, q: Tensor, k: Tensor, mask: Any, bias: Any, extra: Mapping[str, Any] = NOTHING) -> None:
        """Compute the map for the queries and keys of one call of the core, or of one run of its rows."""
        core, groups = self.attention.core, self.layout.context.groups
        heads = check_indices(self.heads, q.shape[1], "heads", self.name)
        if self.visible:
            q, k, bias = torch.zeros_like(q), torch.zeros_like(k), None
        if groups is None:
            rows = check_indices(self.rows, q.shape[0], "rows", self.name)
            if graph := self.graph_of_edges(mask, q, k):
                row = the_row(rows, q.shape[0], self.name)
                self.map = compute_edge_weights(core, q, k, mask, bias, row, heads, extra, graph)
                return
            maps = compute_maps(core, q, k, mask, bias, rows, heads, extra, grad=self.recomputed)
            if isinstance(self.cache, WindowCache):  # dropped keys have the weight 0
                maps = self.cache.with_dropped(maps, rows)
            self.map = zero_padded(maps, self.layout.context.mask, rows)
            return
        shape = self.layout.shape_of(groups)
        chosen = check_indices(self.rows, shape[0], "rows", self.name) or list(range(shape[0]))
        if self.map is None:
            count = q.shape[1] if heads is None else len(heads)
            self.map = q.new_zeros(len(chosen), count, shape[1], shape[1])
        rows_here, columns = self.next_run(groups)
        places = [(place, rows_here.index(row)) for place, row in enumerate(chosen) if row in rows_here]
        if places:
            into, local = zip(*places, strict=True)
            weights = compute_maps(core, q, k, mask, bias, list(local), heads, extra, grad=self.recomputed)  # b H n n
            at = torch.tensor(into, device=q.device)[:, None, None]
            where = columns[list(local)]
            self.map[at, :, where[:, :, None], where[:, None, :]] = weights.permute(0, 2, 3, 1).to(self.map.dtype)

    def graph_of_edges(self, mask: Any, q: Tensor, k: Tensor) -> GraphMask | None:
        """The graph if `map` is of its edges alone. Raises ValueError for edges=True without a graph, and for a map of
        all pairs that would be too large."""
        graph = graph_in(mask, q, k)
        if self.edges and graph is None:
            raise ValueError(
                f"edges=True: {self.name} does not attend along the edges of a graph (zoo.nn.GraphMask): omit edges="
            )
        if self.edges is False and graph is not None and graph.is_large:
            advice = "edit its head outputs" if self.recomputed else "use zoo.capture(model, edges=True)"
            raise ValueError(f"{self.name}: the graph has {graph.nodes:,} nodes, too many for a map of all pairs: "
                             f"{advice}")  # fmt: skip
        return graph if self.edges or (self.edges is None and graph is not None and graph.is_large) else None

    def next_run(self, groups: Groups) -> tuple[list[int], Tensor]:
        """The next run of packed rows of equal length: (their rows in the batch, positions of their tokens [b, n])."""
        count, length = groups.sizes[self.run]
        tokens = self.layout.shape_of(groups)[1]
        index = groups.index[self.start : self.start + count * length].view(count, length)
        self.run, self.start = self.run + 1, self.start + count * length
        return (index[:, 0] // tokens).tolist(), index % tokens

    def found(self) -> Any:
        """The map. Raises ValueError for a core that was not called."""
        if self.map is None:
            core = type(self.attention.core).__name__
            raise ValueError(
                f"{self.name}: {core} did not call its forward(q, k, v, mask, bias), so there are no queries and keys; "
                "capture a full forward pass instead of decoding"
            )
        return self.map


class InputCalls(CoreCalls):
    """The queries, keys or values of one attention module [B, H, N, P], as they enter its core.

    which: "q", "k" or "v". of_cache: those of all tokens so far while decoding, instead of the new ones.
    """

    def __init__(
        self,
        name: str,
        attention: Attention,
        layout: Layout,
        which: str,
        *,
        recomputed: bool = False,
        of_cache: bool = False,
    ) -> None:
        super().__init__(name, attention, layout)
        self.which, self.recomputed, self.of_cache = which, recomputed, of_cache
        self.parts: list[Tensor] = []
        self.mask: Any = None
        self.decodes = False

    def replaces_decode(self) -> bool:
        return not self.of_cache

    def begin(self) -> None:
        self.parts, self.mask = [], None

    def take(self, given: dict[str, Any]) -> None:
        if not self.decodes:
            self.parts.append(given[self.which])
            self.mask = given.get("mask")

    def decode(self, inner: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, state: State, *rest: Any) -> Tensor:
        if not recomputing():
            self.parts, self.mask, self.decodes = [{"q": q, "k": k, "v": v}[self.which]], None, True
        try:
            return inner(q, k, v, state, *rest)
        finally:
            self.decodes = False

    def found(self) -> Tensor:
        """[B, H or G, N or M, P], zeros at padding. Raises ValueError for a core that was not called."""
        if not self.parts:
            raise ValueError(
                f"{self.name}: {type(self.attention.core).__name__} decodes without a call of forward(q, k, v), so "
                "there are no keys and values of earlier tokens; run the whole text in one forward pass"
            )
        groups, first = self.layout.context.groups, self.parts[0]
        if groups is not None:
            return self.layout.pad(packed_tokens(self.parts, groups, self.mask)).transpose(1, 2)
        if isinstance(self.cache, WindowCache) and self.of_cache:
            first = self.cache.with_dropped(first.mT, None).mT
        if self.is_cross and self.which != "q":
            keep = memory_padding(self.layout.context.memory_mask)
            return first if keep is None else first.masked_fill(~keep.bool()[:, None, :, None], 0.0)
        if self.of_cache and self.which != "q":
            return first
        return self.layout.pad(first.transpose(1, 2)).transpose(1, 2)


def packed_tokens(parts: list[Tensor], groups: Groups, mask: Any) -> Tensor:
    """[1, T, H, P] from the calls of a core: of runs of rows of equal length [b, H, n, P], of packed tokens or of rows
    that are padded for it."""
    if groups.starts is None:
        return torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts])[None]
    packed = isinstance(mask, MaskView) and mask.rows is not None
    return (parts[0] if packed else groups.unpad(parts[0])).transpose(1, 2)


def memory_padding(mask: Any) -> Tensor | None:
    """keep [B, M] of the mask of a memory, None for none."""
    parts = () if mask is None else mask.parts()
    return next((part.keep for part in parts if isinstance(part, PaddingMask)), None)


def by_head(x: Tensor, attention: nn.Module) -> Tensor:
    """What the output projection of an attention module reads [B, N, HP] -> [B, H, N, P]."""
    assert isinstance(attention, Attention)
    return x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)


def map_edits(attention: nn.Module) -> list[Any]:
    """The `MapEdits` of `zoo.intervene` that are in force in this thread, the outer ones first."""
    found: list[Any] = attention.__dict__.get("map_edits", {}).get(threading.get_ident(), [])
    return found
