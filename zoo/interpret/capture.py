"""Capture the attention maps of a model.

    with zoo.capture(model, layers=[0, -1]) as maps:
        model(**batch)
    maps["blocks.0.mixer"]                                      # [B, H, N, M]

The model runs unchanged, with its fused kernels: hooks record the queries and keys of each attention core, and its
method `weights` computes the maps of the selected layers, rows and heads, without attention dropout. Attention weights
show how values are mixed; they do not explain a prediction.
"""

import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.interpret.attention_maps import AttentionMaps, distance, entropy, rollout
from zoo.interpret.select_layers import Layers, find_layers
from zoo.interpret.selected_maps import EXTRA, NOTHING, compute_maps, in_rectangle, zero_padded
from zoo.nn.attention import Attention
from zoo.nn.context import Context
from zoo.nn.core import Core
from zoo.nn.kv_cache import LayerState, LinearAttentionState, State
from zoo.nn.masks import MaskView
from zoo.nn.padding import Groups
from zoo.nn.stack import Stack
from zoo.nn.window_cache import WindowCache

__all__ = ["capture", "distance", "entropy", "rollout"]

DECODE_LOCK = threading.Lock()
EAGER_LOCK = threading.Lock()
EAGER: list[ExitStack] = []  # one for each open capture; the first restores the stance of torch.compile


@contextmanager
def capture(
    model: nn.Module,
    *,
    layers: Layers = "*",
    rows: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[AttentionMaps]:
    """Context that captures the attention maps of a model: {name of the Attention module: [B, H, N, M]}.

    H is the number of query heads; padded tokens have zeros. A module that runs several times (decoding) has a list of
    maps, each of its new tokens over all tokens so far; keys that a cache of a window has dropped have zeros. Maps are
    detached and stay on their device; the outputs of the model do not change.

    layers: names with wildcards ("blocks.*.mixer"), block numbers (-1 is the last), or a list of these. Layers without
    attention weights that a wildcard matches are left out; `maps.missing` names them.
    rows, heads: rows of the batch and query heads to capture, selected before maps are computed; None for all.
    reduce: applied to each map as soon as it is computed, e.g. `lambda w: w.mean(1)`; its result is stored instead.

    Only what the thread that opened the context computes is recorded, so a server may capture one request while others
    run. Raises ValueError for a layer, row or head that does not exist, and for a layer without attention weights that
    is named, or if there is no other.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a zoo.Model, given a {type(model).__name__}: zoo.load loads one from a folder")
    if not (reduce is None or callable(reduce)):
        raise ValueError(f"reduce={reduce!r}: expected a function of a map, such as lambda w: w.mean(1)")
    selected = find_layers(unwrap(model), layers)
    maps = AttentionMaps(missing=selected.missing)
    indices = as_list(rows, "rows"), as_list(heads, "heads")
    recorders = [Recorder(name, module, maps, *indices, reduce) for name, module in selected.found]
    with ExitStack() as stack:
        stack.enter_context(eager_mode())
        for recorder in recorders:
            stack.enter_context(recorder.attach())
        for module in model.modules():
            if isinstance(module, Stack):
                own = [r for r in recorders if any(part is r.attention for part in module.modules())]
                stack.enter_context(record_shapes(module, own))
        yield maps


@contextmanager
def eager_mode() -> Iterator[None]:
    """Context in which compiled modules run eagerly: hooks do not run in a compiled graph."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; importing the compiler takes a second
        yield
        return
    with EAGER_LOCK:  # the stance is that of the process: the first capture sets it, the last one to end restores it
        if not EAGER:
            stance = ExitStack()
            stance.enter_context(warnings.catch_warnings())
            stance.enter_context(torch.compiler.set_stance("force_eager"))
            warnings.filterwarnings("ignore", "torch.compile with fullgraph=True found no compiled frames")
            EAGER.append(stance)
        else:
            EAGER.append(ExitStack())
    try:
        yield
    finally:
        with EAGER_LOCK:
            if len(EAGER) == 1:
                EAGER[0].close()
            EAGER.pop()


def unwrap(model: nn.Module) -> nn.Module:
    """The model without the wrappers of torch.compile and DistributedDataParallel, so that names have no prefix."""
    while True:
        parallel = isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel)
        wrapped = model.module if parallel else getattr(model, "_orig_mod", None)
        if not isinstance(wrapped, nn.Module):
            return model
        model = wrapped


def as_list(choice: int | Sequence[int] | None, option: str) -> list[int] | None:
    """One index, several or None (all) -> a list or None."""
    if choice is None:
        return None
    numbers = [choice] if isinstance(choice, int) else list(choice) if isinstance(choice, Iterable) else []
    if not numbers or not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        raise ValueError(f"{option}={choice!r}: expected an integer or a list of at least one integer")
    return numbers


def check_indices(numbers: list[int] | None, size: int, option: str, name: str) -> list[int] | None:
    """Indices with negative ones resolved. Raises ValueError for an index out of range."""
    for number in numbers or ():
        if not -size <= number < size:
            raise ValueError(f"{option}={number} is out of range: {name} has {size} {option}, from 0 to {size - 1}")
    return None if numbers is None else [number % size for number in numbers]


# --- recording ----------------------------------------------------------------------------------------------------


@dataclass
class Recorder:
    """Stores the maps of one attention module in `maps`."""

    name: str
    attention: Attention
    maps: AttentionMaps
    rows: list[int] | None = None
    heads: list[int] | None = None
    reduce: Callable[[Tensor], Tensor] | None = None
    shape: tuple[int, int] = (0, 0)  # rows and tokens of the batch before padding is dropped
    thread: int = field(default_factory=threading.get_ident)

    @contextmanager
    def attach(self) -> Iterator[None]:
        core = self.attention.core
        handles = [
            self.attention.register_forward_pre_hook(in_thread(self.thread, self.before_attention), with_kwargs=True),
            core.register_forward_hook(in_thread(self.thread, self.after_core), with_kwargs=True),
            self.attention.register_forward_hook(in_thread(self.thread, self.after_attention)),
        ]
        self.seen_keys: Any = weakref.WeakKeyDictionary()
        replaced = type(core).decode is not Core.decode  # decoding need not call forward
        try:
            with replaced_decode(core, self.thread, self.decode) if replaced else nullcontext():
                yield
        finally:
            for handle in handles:
                handle.remove()

    def before_attention(self, attention: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            raise ValueError("the model is being compiled inside zoo.capture: compile it before")
        given = dict(zip(("x", "context", "state", "memory"), args, strict=False)) | kwargs
        self.context: Context = given["context"]
        state = given.get("state") if given.get("memory") is None else None
        self.cache = state.mixer if isinstance(state, LayerState) else None
        self.map: Tensor | None = None
        self.run = self.start = 0  # for packed rows: next run of rows of equal length, its first token

    def after_core(self, core: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> None:
        """Hook: the core was called."""
        given: Any = dict(zip(("q", "k", "v", "mask", "bias", "gates"), args, strict=False)) | kwargs
        if recomputing():
            return
        q, k, mask, bias = map(given.get, ("q", "k", "mask", "bias"))
        groups, extra = self.context.groups, {name: given[name] for name in EXTRA if given.get(name) is not None}
        if groups is None or groups.starts is None:
            self.take(q, k, mask, bias, extra)
            return
        if isinstance(mask, MaskView) and mask.rows is not None:
            q, k = groups.pad(q), groups.pad(k)
        row = 0
        for rows, length in groups.sizes:  # padded rows, on a GPU
            some = slice(row, row + rows)
            own = in_rectangle(extra, some, length)
            self.take(q[some, :, :length], k[some, :, :length], self.context.mask, self.context.bias, own)
            row += rows

    def decode(self, q: Tensor, k: Tensor, v: Tensor, state: State, mask: Any, bias: Any, *gates: Tensor) -> Tensor:
        """Replaces the core's `decode`, and keeps the keys of linear attention, whose cache has only their sum."""
        core = self.attention.core
        keys = k
        if isinstance(state, LinearAttentionState):
            before, known = self.seen_keys.get(state, (k[:, :, :0], state.sum))
            if before.shape[2] != state.length or known is not state.sum:
                raise ValueError(
                    f"{self.name}: the cache of {type(core).__name__} has a sum over {state.length} earlier tokens, "
                    "not their keys; enter zoo.capture before the first token and do not reorder rows (beams) inside it"
                )
            keys = torch.cat([before, k.detach()], 2)
        y = type(core).decode(core, q, k, v, state, mask, bias, *gates)
        if isinstance(state, LinearAttentionState):
            self.seen_keys[state] = keys, state.sum
            if self.map is None:
                self.take(q, keys, mask, bias)
        return y

    def take(self, q: Tensor, k: Tensor, mask: Any, bias: Any, extra: Mapping[str, Any] = NOTHING) -> None:
        """Compute the map for the queries and keys of one call of the core."""
        core, groups = self.attention.core, self.context.groups
        heads = check_indices(self.heads, q.shape[1], "heads", self.name)
        if groups is None:
            rows = check_indices(self.rows, q.shape[0], "rows", self.name)
            maps = compute_maps(core, q, k, mask, bias, rows, heads, extra)
            if isinstance(self.cache, WindowCache):  # dropped keys have the weight 0
                maps = self.cache.with_dropped(maps, rows)
            self.map = zero_padded(maps, self.context.mask, rows)
            return
        chosen = check_indices(self.rows, self.shape[0], "rows", self.name) or list(range(self.shape[0]))
        if self.map is None:
            tokens = self.shape[1]
            self.map = q.new_zeros(len(chosen), q.shape[1] if heads is None else len(heads), tokens, tokens)
        rows_here, columns = self.next_run(groups)
        places = [(place, rows_here.index(row)) for place, row in enumerate(chosen) if row in rows_here]
        if places:
            into, local = zip(*places, strict=True)
            weights = compute_maps(core, q, k, mask, bias, list(local), heads, extra)  # b H n n
            at = torch.tensor(into, device=q.device)[:, None, None]
            where = columns[list(local)]
            self.map[at, :, where[:, :, None], where[:, None, :]] = weights.permute(0, 2, 3, 1).to(self.map.dtype)

    def next_run(self, groups: Groups) -> tuple[list[int], Tensor]:
        """The next run of packed rows of equal length: (their rows in the batch, positions of their tokens [b, n])."""
        count, length = groups.sizes[self.run]
        index = groups.index[self.start : self.start + count * length].view(count, length)
        self.run, self.start = self.run + 1, self.start + count * length
        return (index[:, 0] // self.shape[1]).tolist(), index % self.shape[1]

    def after_attention(self, attention: nn.Module, args: tuple, output: Tensor) -> None:
        """Hook: the attention module has run; store the map."""
        if recomputing():
            return
        if self.map is None:
            core = type(self.attention.core).__name__
            raise ValueError(
                f"{self.name}: {core} did not call its forward(q, k, v, mask, bias), so there are no queries and keys; "
                "capture a full forward pass instead of decoding"
            )
        value: Any = self.map if self.reduce is None else self.reduce(self.map)
        self.map = None
        if self.name in self.maps:
            before = self.maps[self.name]
            value = [*before, value] if isinstance(before, list) else [before, value]
        self.maps[self.name] = value


def in_thread(thread: int, hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, for calls from one thread."""

    def called(*args: Any) -> None:
        if threading.get_ident() == thread:
            hook(*args)

    return called


@contextmanager
def replaced_decode(core: Any, thread: int, decode: Callable[..., Tensor]) -> Iterator[None]:
    """Context in which `core.decode` is `decode` for one thread; threads may enter and leave in any order."""
    with DECODE_LOCK:
        replacements = core.__dict__.setdefault("decode_of_thread", {})
        before, replacements[thread] = replacements.get(thread), decode

        def dispatch(*args: Any, **kwargs: Any) -> Tensor:
            y: Tensor = replacements.get(threading.get_ident(), partial(type(core).decode, core))(*args, **kwargs)
            return y

        core.decode = dispatch
    try:
        yield
    finally:
        with DECODE_LOCK:
            replacements.pop(thread)
            if before is not None:
                replacements[thread] = before
            elif not replacements:
                del core.decode, core.__dict__["decode_of_thread"]


@contextmanager
def record_shapes(stack: Stack, recorders: list[Recorder]) -> Iterator[None]:
    """Record the shape of a stack's batches, before padding is dropped, in the recorders of its layers."""

    def note(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["x"]
        for recorder in recorders:
            recorder.shape = (x.shape[0], x.shape[1])

    handle = stack.register_forward_pre_hook(in_thread(threading.get_ident(), note), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def recomputing() -> bool:
    """Whether activation checkpointing is recomputing a forward pass during the backward pass."""
    return torch._C._current_graph_task_id() != -1
