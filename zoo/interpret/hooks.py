"""What the hooks of `zoo.capture` and `zoo.intervene` share: one thread, eager code, where tokens are in a batch."""

import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from zoo.nn.attention import Attention
from zoo.nn.block import NO_CONTEXT, Block
from zoo.nn.context import Context
from zoo.nn.gated_cross import GatedCrossAttention
from zoo.nn.masks import MaskView
from zoo.nn.padding import Groups
from zoo.nn.stack import Stack

METHOD_LOCK = threading.Lock()
EAGER_LOCK = threading.Lock()
EAGER: list[ExitStack] = []  # one for each open context; the first restores the stance of torch.compile
WITH_CONTEXT = (Block, GatedCrossAttention, Attention)


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


def unwrap(model: nn.Module) -> nn.Module:
    """The model without the wrappers of torch.compile and DistributedDataParallel, so that names have no prefix."""
    while True:
        parallel = isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel)
        wrapped = model.module if parallel else getattr(model, "_orig_mod", None)
        if not isinstance(wrapped, nn.Module):
            return model
        model = wrapped


def stacks(model: nn.Module) -> list[Stack]:
    """The stacks of blocks of a model."""
    return [module for module in model.modules() if isinstance(module, Stack)]


def check_model(model: nn.Module) -> None:
    """Raise ValueError for what is not a model."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a zoo.Model, given a {type(model).__name__}: zoo.load loads one from a folder")


def check_not_compiling() -> None:
    """Raise ValueError while a model is being compiled, whose graph would not have the hooks."""
    if torch.compiler.is_compiling():
        raise ValueError("the model is being compiled inside zoo.capture or zoo.intervene: compile it before")


def recomputing() -> bool:
    """Whether activation checkpointing is recomputing a forward pass during the backward pass."""
    return torch._C._current_graph_task_id() != -1


@contextmanager
def eager_mode() -> Iterator[None]:
    """Context in which compiled modules run eagerly: hooks do not run in a compiled graph."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; importing the compiler takes a second
        yield
        return
    with EAGER_LOCK:  # the stance is that of the process: the first context sets it, the last one to end restores it
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


# --- hooks of one thread ------------------------------------------------------------------------------------------


def in_thread(hook: Callable[..., Any], *, reads_only: bool = False) -> Callable[..., Any]:
    """The hook, for calls from this thread. reads_only: whether it leaves what it sees as it is."""
    thread = threading.get_ident()

    def called(*args: Any) -> Any:
        return hook(*args) if threading.get_ident() == thread else None

    called.reads_only = reads_only  # type: ignore[attr-defined]
    return called


@contextmanager
def attached(
    hooks: Iterable[tuple[Callable[..., Any], Callable[..., Any]]], *, reads_only: bool = False
) -> Iterator[None]:
    """Context with hooks that run in this thread: pairs of a function that registers a hook, and the hook."""
    handles = [register(in_thread(hook, reads_only=reads_only)) for register, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def attached_edit(module: nn.Module, hook: Callable[..., Any], *, of_inputs: bool = False) -> Iterator[None]:
    """Context with a hook that changes the output of a module, or its inputs; it runs before those that only read."""
    register = module.register_forward_pre_hook if of_inputs else module.register_forward_hook
    with attached([(register, hook)]):
        hooks: Any = module._forward_pre_hooks if of_inputs else module._forward_hooks
        for key in [key for key, other in hooks.items() if getattr(other, "reads_only", False)]:
            hooks.move_to_end(key)
        yield


@contextmanager
def replaced_method(
    module: Any, name: str, replacement: Callable[..., Tensor], *, reads_only: bool = False
) -> Iterator[None]:
    """Context in which a method of a module is `replacement(inner, ...)` in this thread, `inner` being what it was.

    Threads may enter and leave in any order. Replacements that only read are called around the others.
    """
    thread, key, entry = threading.get_ident(), f"{name}_of_thread", (reads_only, replacement)
    with METHOD_LOCK:
        table: dict[int, list[Any]] = module.__dict__.setdefault(key, {})
        table[thread] = sorted([*table.get(thread, []), entry], key=itemgetter(0))

        def dispatch(*args: Any, **kwargs: Any) -> Tensor:
            method = partial(getattr(type(module), name), module)
            for _, own in table.get(threading.get_ident(), []):
                method = partial(own, method)
            y: Tensor = method(*args, **kwargs)
            return y

        setattr(module, name, dispatch)
    try:
        yield
    finally:
        with METHOD_LOCK:
            table[thread] = [other for other in table[thread] if other is not entry]
            if not table[thread]:
                del table[thread]
            if not table and module.__dict__.get(key) is table:
                del module.__dict__[name], module.__dict__[key]


# --- where the tokens of a batch are --------------------------------------------------------------------------------


class Layout:
    """Where the tokens of the current forward pass are: packed without padding, or under a mask of real tokens.

    shape: rows and tokens of the batch before padding is dropped. start: tokens that the cache had before these, None
    where the cache does not say. decodes: whether there is a cache. context: of the block or attention that runs.
    """

    def __init__(self) -> None:
        self.shape = (0, 0)
        self.start: int | None = 0
        self.decodes = False
        self.context = self.outer = Context()
        self.shapes: Any = weakref.WeakKeyDictionary()  # of Groups: a recomputed block has those of its forward pass

    @contextmanager
    def attach(self, model: nn.Module, names: Iterable[str]) -> Iterator[None]:
        """Follow the stacks, blocks and attention modules that contain the named modules of a model."""
        modules = dict(model.named_modules())
        paths = dict.fromkeys(path for name in names for path in prefixes(name) if path in modules)
        hooks: list[tuple[Callable[..., Any], Callable[..., Any]]] = []
        for path in paths:
            module = modules[path]
            register = partial(module.register_forward_pre_hook, with_kwargs=True)
            inner = any(isinstance(modules[outer], Attention) for outer in prefixes(path)[:-1])
            if isinstance(module, Block) and inner:  # the attention that it is a part of keeps its own context
                hooks.append((register, self.enter_inner))
                hooks.append((module.register_forward_hook, self.leave_inner))
            if isinstance(module, Stack):
                hooks.append((register, self.enter_stack))
            elif isinstance(module, WITH_CONTEXT):
                hooks.append((register, self.enter_block))
        with attached(hooks):
            yield

    def enter_stack(self, stack: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["x"]
        state = kwargs.get("state")
        self.shape = (x.shape[0], x.shape[1])
        self.decodes = state is not None
        self.start = 0 if state is None else None if state.is_static else state.length

    def enter_block(self, block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        check_not_compiling()
        context = args[1] if len(args) > 1 else kwargs.get("context", NO_CONTEXT)
        self.context = context
        if context.groups is not None and context.groups not in self.shapes:
            self.shapes[context.groups] = self.shape

    def enter_inner(self, block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.outer = self.context

    def leave_inner(self, block: nn.Module, args: tuple, output: Any) -> None:
        self.context = self.outer

    def shape_of(self, groups: Groups) -> tuple[int, int]:
        """Rows and tokens of a packed batch."""
        shape: tuple[int, int] = self.shapes.get(groups, self.shape)
        return shape

    def real(self, count: int) -> Tensor | None:
        """[B, N], True at the real ones of the `count` tokens that the current block computes; None if all are real."""
        groups = self.context.groups
        if groups is not None:
            rows, tokens = self.shape_of(groups)
            flat = torch.zeros(rows * tokens, dtype=torch.bool, device=groups.index.device)
            return flat.index_fill(0, groups.index, True).view(rows, tokens)
        mask = self.context.mask
        keep = mask.keep if isinstance(mask, MaskView) else None
        return None if keep is None else keep[:, -count:].bool()

    def pad(self, x: Tensor) -> Tensor:
        """What a module computes [B, N, ...], or packed [1, T, ...] -> [B, N, ...], zeros at padding."""
        groups = self.context.groups
        if groups is not None:
            rows, tokens = self.shape_of(groups)
            full = x.new_zeros(rows * tokens, *x.shape[2:])
            return full.index_copy(0, groups.index, x.squeeze(0)).unflatten(0, (rows, tokens))
        real = self.real(x.shape[1])
        return x if real is None else x.masked_fill(~spread(real, x), 0.0)

    def unpad(self, y: Tensor, x: Tensor) -> Tensor:
        """The inverse of `pad`: y [B, N, ...] as x, with what x has at padding."""
        groups = self.context.groups
        if groups is not None:
            return y.flatten(0, 1).index_select(0, groups.index)[None]
        real = self.real(x.shape[1])
        return y if real is None else torch.where(spread(real, x), y, x)


def spread(real: Tensor, x: Tensor) -> Tensor:
    """real [B, N] -> [B, N, 1, ...], as many dimensions as x."""
    return real.reshape(*real.shape, *[1] * (x.ndim - 2))


def prefixes(name: str) -> list[str]:
    """ "a.b.c" -> ["a", "a.b", "a.b.c"]; the model itself is the first one."""
    parts = name.split(".")
    return ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]
