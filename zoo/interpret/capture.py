"""Attention maps of any model, and what can be read from them.

    with zoo.capture(model, layers=[0, -1]) as maps:
        model(**batch)
    maps["blocks.0.mixer"]                                      # [B, H, N, M]

The model runs as ever, fused kernels included: hooks see the queries and keys that a core is given, and the core's slow
twin `weights` makes the map of the layers, rows and heads that were asked for. Maps are without attention dropout.
A weight says how much of a value was mixed in, not why the model answered as it did.
"""

import copy
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from zoo.interpret.attention_maps import distance, entropy, rollout
from zoo.nn.attention import Attention
from zoo.nn.block import Block
from zoo.nn.context import Context, Groups
from zoo.nn.core import Core
from zoo.nn.kv_cache import LinearAttentionState, State
from zoo.nn.linear_attention import LinearAttention, Performer, RandomFeatureAttention
from zoo.nn.masks import Mask, MaskView, PaddingMask, as_mask
from zoo.nn.position_biases import as_bias
from zoo.nn.softmax_attention import AdditiveAttention, SoftmaxAttention
from zoo.nn.sparse_attention import BigBird, LocalAttention, Longformer, StridedAttention
from zoo.nn.stack import Stack
from zoo.utils.errors import did_you_mean

__all__ = ["capture", "distance", "entropy", "rollout"]

Layers = str | int | Sequence[str | int]
Maps = dict[str, Any]  # {name: [B, H, N, M], or a list of them}

# The cores whose heads know nothing of each other, and their parameters with a row per head: of these, heads are chosen
# before the product. Any other core (it may mix heads) makes all of them first.
SEPARATE_HEADS: dict[type[Core], tuple[str, ...]] = {
    SoftmaxAttention: (), LocalAttention: (), StridedAttention: (), Longformer: (), BigBird: (),
    AdditiveAttention: ("w",),
    LinearAttention: (), Performer: (), RandomFeatureAttention: (),
}  # fmt: skip


@contextmanager
def capture(
    model: nn.Module,
    *,
    layers: Layers = "*",
    rows: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Maps]:
    """The attention maps of all that `model` computes inside the block: {name of the Attention module: [B, H, N, M]}.

    H counts query heads; padded tokens have zeros. A module that runs several times (decoding) gets a list of maps.
    They are detached and stay on the device; the outputs of the model are those it gives without this.

    layers: names with wildcards ("blocks.*.mixer"), block numbers (-1 is the last), or a list of these.
    rows, heads: which rows of the batch and which query heads, chosen before anything is computed; None for all.
    reduce: applied to each map at once, e.g. `lambda w: w.mean(1)`; what it returns is kept instead.

    Raises ValueError when nothing is called so, when a chosen layer has no attention weights, or for rows and heads
    that are not there.
    """
    chosen = find_layers(inner(model), layers)
    maps: Maps = {}
    numbers = listed(rows, "rows"), listed(heads, "heads")
    recorders = [Recorder(name, module, maps, *numbers, reduce) for name, module in chosen]
    with ExitStack() as stack:
        stack.enter_context(eagerly())
        for recorder in recorders:
            stack.enter_context(recorder.attached())
        for module in model.modules():
            if isinstance(module, Stack):
                own = [r for r in recorders if any(part is r.attention for part in module.modules())]
                stack.enter_context(shapes_noted(module, own))
        yield maps


@contextmanager
def eagerly() -> Iterator[None]:
    """What was compiled runs as it was written: a compiled graph has no place for hooks."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled; importing the compiler takes a second
        yield
        return
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.filterwarnings("ignore", "torch.compile with fullgraph=True found no compiled frames")
        yield


def inner(model: nn.Module) -> nn.Module:
    """The model within torch.compile's and DistributedDataParallel's wrappers: its names are the ones people know."""
    while True:
        known = isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel)
        within = model.module if known else getattr(model, "_orig_mod", None)
        if not isinstance(within, nn.Module):
            return model
        model = within


# --- which layers -------------------------------------------------------------------------------------------------


def find_layers(model: nn.Module, layers: Layers) -> list[tuple[str, Attention]]:
    """The attention modules that `layers` chooses, in the order of the model."""
    places = block_places(model)
    named = [(name, part) for name, part in model.named_modules() if isinstance(part, Attention)]
    weightless = {
        f"{path}.mixer": block.mixer
        for path, block in model.named_modules()
        if isinstance(block, Block) and not any(isinstance(part, Attention) for part in block.mixer.modules())
    }
    names = [name for name, _ in named] + list(weightless)
    if not names:
        raise ValueError(f"{type(model).__name__} has no attention layer of zoo.nn, so there are no maps to capture")
    choices = [layers] if isinstance(layers, str | int) else layers
    wanted = {name for choice in choices for name in match(choice, names, places)}
    for name in names:
        if name in wanted and name in weightless:
            raise ValueError(without_weights(name, weightless[name], [n for n, _ in named]))
    found = [(name, part) for name, part in named if name in wanted]
    with_weights = [name for name, part in named if type(part.core).weights is not Core.weights]
    for name, part in found:
        if name not in with_weights:
            raise ValueError(without_weights(name, part.core, with_weights))
    return found


def block_places(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Path of each block with a dot behind it -> (its number, how many there are in its stack)."""
    return {
        f"{path}.{i}." if path else f"{i}.": (i, len(stack))
        for path, stack in model.named_modules()
        if isinstance(stack, Stack)
        for i in range(len(stack))
    }


def match(choice: str | int, names: list[str], places: dict[str, tuple[int, int]]) -> list[str]:
    """The names that one choice means. Raises ValueError when there are none."""
    if isinstance(choice, str):
        found = [name for name in names if fnmatchcase(name, choice)]
        if not found:
            near = did_you_mean(choice, names)
            raise ValueError(f"no attention layer is called {choice!r}{near} (there are {spoken(names)})")
        return found
    prefixes = tuple(path for path, (i, depth) in places.items() if choice in (i, i - depth))
    found = [name for name in names if name.startswith(prefixes)] if prefixes else []
    if not found:
        depth = max((depth for _, depth in places.values()), default=0)
        raise ValueError(f"layers={choice}: no block of this number has attention; there are {depth} blocks, from 0")
    return found


def without_weights(name: str, part: nn.Module, others: list[str]) -> str:
    mend = f"choose others: layers={spoken(others)}" if others else "no layer of this model has any"
    return f"{name} is a {type(part).__name__}: it mixes tokens without attention weights, so it has no map; {mend}"


def spoken(names: list[str]) -> str:
    few = names if len(names) <= 4 else [*names[:2], "...", names[-1]]
    return "[" + ", ".join(few) + "]"


def listed(choice: int | Sequence[int] | None, what: str) -> list[int] | None:
    """One index, several or None (all) -> a list or None."""
    if choice is None:
        return None
    numbers = [choice] if isinstance(choice, int) else list(choice)
    if not numbers or not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        raise ValueError(f"{what}={choice!r}: expected a whole number, or a list with at least one")
    return numbers


def within(numbers: list[int] | None, size: int, what: str, name: str) -> list[int] | None:
    """Numbers counted from the start; negative ones come from the end. Raises ValueError for one that is not there."""
    for number in numbers or ():
        if not -size <= number < size:
            raise ValueError(f"{what}={number}: {name} has {size} {what}, from 0 to {size - 1}")
    return None if numbers is None else [number % size for number in numbers]


# --- recording ----------------------------------------------------------------------------------------------------


@dataclass
class Recorder:
    """Puts the maps of one attention module into `maps`."""

    name: str
    attention: Attention
    maps: Maps
    rows: list[int] | None = None
    heads: list[int] | None = None
    reduce: Callable[[Tensor], Tensor] | None = None
    shape: tuple[int, int] = (0, 0)  # rows and tokens of the batch, before its padding was dropped

    @contextmanager
    def attached(self) -> Iterator[None]:
        core = self.attention.core
        handles = [
            self.attention.register_forward_pre_hook(self.begin, with_kwargs=True),
            core.register_forward_hook(self.see, with_kwargs=True),
            self.attention.register_forward_hook(self.end),
        ]
        self.seen_keys: Any = weakref.WeakKeyDictionary()
        if type(core).decode is not Core.decode:  # it need not go through forward
            core.decode = self.decode  # type: ignore[method-assign]
        try:
            yield
        finally:
            core.__dict__.pop("decode", None)
            for handle in handles:
                handle.remove()

    def begin(self, attention: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            raise ValueError("compile the model before zoo.capture, not inside its block")
        self.context: Context = args[1] if len(args) > 1 else kwargs["context"]
        self.map: Tensor | None = None
        self.run = self.start = 0  # of packed rows: the run of equally long ones that comes next, and its first token

    def see(self, core: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> None:
        """The core was called."""
        given = dict(zip(("q", "k", "v", "mask", "bias"), args, strict=False)) | kwargs
        if not recomputing():
            self.take(given["q"], given["k"], given.get("mask"), given.get("bias"))

    def decode(self, q: Tensor, k: Tensor, v: Tensor, state: State, mask: Any = None, bias: Any = None) -> Tensor:
        """In the place of the core's own `decode`: what remembers a sum cannot tell its keys, so keep them here."""
        core = self.attention.core
        keys = k
        if isinstance(state, LinearAttentionState):
            before, known = self.seen_keys.get(state, (k[:, :, :0], state.sum))
            if before.shape[2] != state.length or known is not state.sum:
                raise ValueError(
                    f"{self.name}: {type(core).__name__} remembers a sum over {state.length} earlier tokens and not "
                    "their keys; open zoo.capture before the first token, and do not reorder rows (beams) inside it"
                )
            keys = torch.cat([before, k.detach()], 2)
        y = type(core).decode(core, q, k, v, state, mask, bias)
        if isinstance(state, LinearAttentionState):
            self.seen_keys[state] = keys, state.sum
            if self.map is None:
                self.take(q, keys, mask, bias)
        return y

    def take(self, q: Tensor, k: Tensor, mask: Any, bias: Any) -> None:
        """Make the map of the queries and keys of one call of the core."""
        core, groups = self.attention.core, self.context.groups
        heads = within(self.heads, q.shape[1], "heads", self.name)
        if groups is None:
            rows = within(self.rows, q.shape[0], "rows", self.name)
            self.map = blank(weights_of(core, q, k, mask, bias, rows, heads), self.context.mask, rows)
            return
        wanted = within(self.rows, self.shape[0], "rows", self.name) or list(range(self.shape[0]))
        if self.map is None:
            tokens = self.shape[1]
            self.map = q.new_zeros(len(wanted), q.shape[1] if heads is None else len(heads), tokens, tokens)
        rows_here, columns = self.next_run(groups)
        places = [(place, rows_here.index(row)) for place, row in enumerate(wanted) if row in rows_here]
        if places:
            into, local = zip(*places, strict=True)
            weights = weights_of(core, q, k, mask, bias, list(local), heads)  # b H n n
            at = torch.tensor(into, device=q.device)[:, None, None]
            where = columns[list(local)]
            self.map[at, :, where[:, :, None], where[:, None, :]] = weights.permute(0, 2, 3, 1).to(self.map.dtype)

    def next_run(self, groups: Groups) -> tuple[list[int], Tensor]:
        """The next run of equally long packed rows -> (their numbers in the batch, where their tokens stood [b, n])."""
        count, length = groups.sizes[self.run]
        index = groups.index[self.start : self.start + count * length].view(count, length)
        self.run, self.start = self.run + 1, self.start + count * length
        return (index[:, 0] // self.shape[1]).tolist(), index % self.shape[1]

    def end(self, attention: nn.Module, args: tuple, output: Tensor) -> None:
        """The attention module is done: keep the map."""
        if recomputing():
            return
        if self.map is None:
            core = type(self.attention.core).__name__
            raise ValueError(
                f"{self.name}: {core} did not go through its forward(q, k, v, mask, bias), so its queries and keys "
                "were not seen; capture a full forward instead of decoding"
            )
        value: Any = self.map if self.reduce is None else self.reduce(self.map)
        self.map = None
        if self.name in self.maps:
            before = self.maps[self.name]
            value = [*before, value] if isinstance(before, list) else [before, value]
        self.maps[self.name] = value


@contextmanager
def shapes_noted(stack: Stack, recorders: list[Recorder]) -> Iterator[None]:
    """Tell the recorders within a stack how large its batches are before their padding is dropped."""

    def note(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["x"]
        for recorder in recorders:
            recorder.shape = (x.shape[0], x.shape[1])

    handle = stack.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def recomputing() -> bool:
    """Whether this is the second forward that activation checkpointing makes during the backward pass."""
    return torch._C._current_graph_task_id() != -1


def weights_of(
    core: Core, q: Tensor, k: Tensor, mask: Any, bias: Any, rows: list[int] | None, heads: list[int] | None
) -> Tensor:
    """`core.maps` of the chosen rows and heads: q [B, H, N, P], k [B, G, M, P] -> [rows, heads, N, M], detached."""
    added = as_bias(bias)
    # evaluated with gradients where the forward has them: the layers of a forward share what was evaluated
    dense = None if added is None else added.dense(q.shape[2], k.shape[2], q.device).detach()
    devices = [q.device] if q.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices, enabled=core.training):
        q, k, mask = q.detach(), k.detach(), as_mask(mask)
        if rows is not None:
            q, k, mask, dense = q[rows], k[rows], Chosen(mask, rows), some(dense, 0, rows)
        if heads is None:
            return core.maps(q, k, mask, dense).detach()
        if type(core) not in SEPARATE_HEADS:
            return core.maps(q, k, mask, dense)[:, heads].detach()
        shared = q.shape[1] // k.shape[1]
        q, k, dense = q[:, heads], k[:, [head // shared for head in heads]], some(dense, 1, heads)
        return of_heads(core, heads).maps(q, k, Chosen(mask, None, heads), dense).detach()


def of_heads(core: Core, heads: list[int]) -> Core:
    """The same core for some of its heads."""
    twin = copy.copy(core)
    twin._parameters = core._parameters | {name: getattr(core, name)[heads] for name in SEPARATE_HEADS[type(core)]}
    return twin


def some(values: Tensor | None, dim: int, chosen: list[int] | None) -> Tensor | None:
    """The chosen entries along a dimension; one of size 1 broadcasts, and stays."""
    if values is None or chosen is None or values.shape[dim] == 1:
        return values
    return values.index_select(dim, torch.tensor(chosen, device=values.device))


@dataclass(frozen=True, eq=False)
class Chosen(Mask):
    """A mask for some rows of a batch, or some of its heads."""

    inner: Mask
    rows: list[int] | None = None
    only_heads: list[int] | None = None

    def __and__(self, other: Mask) -> Mask:
        return replace(self, inner=self.inner & other)

    def parts(self) -> tuple[Mask, ...]:
        """PaddingMask is told by row, everything else a core may recognize is the same for all."""
        return tuple(
            PaddingMask(some(part.keep, 0, self.rows)) if isinstance(part, PaddingMask) else part  # type: ignore[arg-type]
            for part in self.inner.parts()
        )

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return self.inner.hides_nothing(queries, keys)

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        return self.of(self.inner.dense(queries, keys, device))

    def evaluate(self, queries: int, keys: int, device: Any) -> tuple[Tensor, Tensor | None]:
        allowed, blind = self.inner.evaluate(queries, keys, device)
        return self.of(allowed), None if blind is None else self.of(blind)

    def of(self, values: Tensor) -> Tensor:
        chosen = some(some(values, 0, self.rows), 1, self.only_heads)
        assert chosen is not None
        return chosen


def blank(weights: Tensor, mask: Any, rows: list[int] | None) -> Tensor:
    """Zeros for the queries that are padding, as where padding is dropped."""
    if not isinstance(mask, MaskView) or mask.keep is None:
        return weights
    real = some(mask.keep[:, -weights.shape[2] :], 0, rows)  # the queries are the last tokens
    assert real is not None
    return weights.masked_fill(~real.bool()[:, None, :, None], 0.0)
