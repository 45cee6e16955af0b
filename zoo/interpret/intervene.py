"""Interventions: run a model with some of its activations replaced, and see what changes.

with zoo.intervene(model, {"blocks.3.mixer": zoo.ablate(heads=[2, 5])}):
    loss = F.cross_entropy(model(**batch), labels)

with zoo.capture(model, what="residual") as clean:
    model(**other_batch)
with zoo.intervene(model, {"blocks.3": zoo.patch(clean["blocks.3"], positions=4)}):
    logits = model(**batch)
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.interpret.core_calls import by_head
from zoo.interpret.edited_inputs import InputEdits
from zoo.interpret.edited_maps import MapEdits
from zoo.interpret.edits import EDITED, WITHOUT_HEADS, AppliedEdit, Edit, ablate, patch
from zoo.interpret.hooks import (
    Layout,
    attached,
    attached_edit,
    check_model,
    check_not_compiling,
    eager_mode,
    replaced_method,
    stacks,
    unwrap,
)
from zoo.interpret.select_layers import block_places, find_places, match_layers, places_of, shorten
from zoo.nn.attention import Attention
from zoo.nn.block import Block

__all__ = ["ablate", "intervene", "patch"]

Edits = Mapping[str | int, Edit | Sequence[Edit]]
# {(what, name of a module): (the module, its edits)}
Applied = dict[tuple[str, str], tuple[nn.Module, list[AppliedEdit]]]


@contextmanager
def intervene(model: nn.Module, edits: Edits) -> Iterator[None]:
    """Context in which a model computes with edited activations, in the thread that opened it.

    edits: {name of a module: edit, or a list of them in order}. Names have wildcards, or are block numbers (-1 is the
    last), as `layers` of `zoo.capture`; an edit is made by `zoo.ablate` or `zoo.patch`. What is edited follows from the
    name, or is `what` of the edit:

    - "blocks.3.mixer", an attention module: what="head_output" [B, H, N, P], the mixed values of each head before the
      output projection; or what="attention", its map [B, H, N, M] of weights, which then multiplies the
      values of the chosen heads and queries, without attention dropout; or what="q" [B, H, N, P], "k" or "v"
      [B, G, M, P], its queries, and keys and values of the key heads, as they enter the core (with norms and rotary
      embeddings, as `zoo.capture` returns them); or what="mixer", its output [B, N, D].
    - "blocks.3.mixer" without attention heads (a state-space model): what="mixer", its output [B, N, D].
    - "blocks.3.mlp": what="mlp", the output of an MLP [B, N, D].
    - "blocks.3": what="residual", the output of a block [B, N, D], which the next one reads.

    The rest of the model runs unchanged, with its fused kernels, on padded or packed batches and with a cache; padding
    is never edited, and functions see zeros there. A cache keeps edited keys and values of self-attention; those of
    cross-attention it keeps as they were, to be edited in each step. Gradients pass through the edits. Afterwards, also
    after an error, the model is as before. In nested contexts the edits of the inner one come last. `zoo.capture`
    records edited activations, whichever is opened first.

    Raises ValueError for modules that do not exist or do not have what is edited (maps of a mixer without attention
    weights), for heads, rows and positions out of range, and for values of another shape. Warns if an edit was never
    applied.
    """
    check_model(model)
    inner = unwrap(model)
    applied = applied_edits(inner, edits)
    layout = Layout()
    with ExitStack() as stack:
        stack.enter_context(eager_mode())
        stack.enter_context(layout.attach(inner, [name for _, name in applied]))
        checks = [partial(part.register_forward_pre_hook, with_kwargs=True) for part in stacks(inner)]
        stack.enter_context(attached([(register, check_recomputed) for register in checks]))
        for (what, name), (module, changes) in applied.items():
            stack.enter_context(attach(what, name, module, layout, changes))
        yield
        report_unused(applied)


def check_recomputed(stack: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
    """Hook: a stack is called. Recomputation on a GPU runs in a thread of its own, without the hooks."""
    x = args[0] if args else kwargs["x"]
    if getattr(stack, "checkpointing", False) and torch.is_grad_enabled() and x.is_cuda:
        raise ValueError(
            "activation checkpointing on a GPU recomputes blocks in another thread, without the edits: set "
            "checkpointing = False on the stack, or compute without gradients"
        )


def report_unused(applied: Applied) -> None:
    """Warn of edits that were never applied."""
    unused = [name for (_, name), (_, changes) in applied.items() if not all(change.calls for change in changes)]
    if unused:
        warnings.warn(
            f"edits of {shorten(unused)} were never applied: these modules did not run in this thread inside "
            "zoo.intervene, or not at the chosen positions",
            stacklevel=4,
        )


# --- which edits apply where --------------------------------------------------------------------------------------


def applied_edits(model: nn.Module, edits: Edits) -> Applied:
    """{(what, name of a module): its edits}, in the order of a block. Raises ValueError for what cannot be edited."""
    if not isinstance(edits, Mapping):
        raise ValueError(
            f"edits: expected a dictionary such as {{'blocks.0.mixer': zoo.ablate(heads=0)}}, given a "
            f"{type(edits).__name__}"
        )
    found: Applied = {}
    for layers, given in edits.items():
        for edit in [given] if isinstance(given, Edit) else given if isinstance(given, list | tuple) else [given]:
            if not isinstance(edit, Edit):
                raise ValueError(
                    f"the edit of {layers!r} is a {type(edit).__name__}: expected zoo.ablate(...), zoo.patch(tensor), "
                    "zoo.patch(function), or a list of these"
                )
            what = edit.what or what_of(model, layers)
            if edit.heads is not None and what in WITHOUT_HEADS:
                raise ValueError(f"heads={list(edit.heads)}: {layers!r} is edited as what={what!r}, which has no heads")
            for name, module in find_places(model, layers, what).found:  # type: ignore[arg-type]
                found.setdefault((what, name), (module, []))[1].append(AppliedEdit(edit, name))
    order = ("q", "k", "v", "attention", "head_output", "mixer", "mlp", "residual")
    return dict(sorted(found.items(), key=lambda item: order.index(item[0][0])))


def what_of(model: nn.Module, layers: str | int) -> str:
    """What an edit without `what` changes: by the kind of the modules that are named."""
    places = {what: places_of(model, what) for what in EDITED}  # type: ignore[arg-type]
    heads = places["head_output"][0]
    kinds = dict.fromkeys(places["mlp"][0], "mlp") | dict.fromkeys(places["residual"][0], "residual")
    kinds |= dict.fromkeys(places["mixer"][0], "mixer") | dict.fromkeys(heads, "head_output")
    if not kinds:
        raise ValueError(f"{type(model).__name__} has no block of zoo.nn, so there is nothing to edit")
    matched = match_layers(layers, list(kinds), block_places(model), "module to edit")
    of_kind: dict[str, str] = {}
    for name in matched:
        of_kind.setdefault(kinds[name], name)
    if len(of_kind) > 1:
        several = ", ".join(f"{name} ({what})" for what, name in of_kind.items())
        raise ValueError(
            f"{layers!r} names modules of several kinds: {several}; name one kind, such as 'blocks.*.mixer' or "
            "'blocks.*.mlp', or say what= in the edit"
        )
    return next(iter(of_kind))


# --- hooks ----------------------------------------------------------------------------------------------------------


def attach(what: str, name: str, module: nn.Module, layout: Layout, changes: list[AppliedEdit]) -> Any:
    """Context with what applies the edits of one module."""
    if what == "attention":
        assert isinstance(module, Attention)
        return MapEdits(name, module, layout, changes).attach()
    if what in ("q", "k", "v"):
        return InputEdits(what, module, layout, changes).attach()
    if what == "head_output":
        assert isinstance(module, Attention)
        return attached_edit(module.out, head_output_hook(module, layout, changes), of_inputs=True)
    hook = output_hook(layout, changes)
    if what == "mixer" and isinstance(module, Block):
        return replaced_method(module, "mix_rows", lambda inner, *args: hook(module, args, inner(*args)))
    return attached_edit(module, hook)


def output_hook(layout: Layout, changes: list[AppliedEdit]) -> Callable[..., Tensor]:
    """A hook for a module that returns [B, N, D]."""

    def after(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        check_not_compiling()
        x = layout.pad(output)
        for change in changes:
            x = change(x, layout)
        return layout.unpad(x, output)

    return after


def head_output_hook(attention: Attention, layout: Layout, changes: list[AppliedEdit]) -> Callable[..., tuple[Tensor]]:
    """A hook for the output projection of an attention module, whose input is edited."""

    def before(out: nn.Module, args: tuple) -> tuple[Tensor]:
        check_not_compiling()
        x = by_head(layout.pad(args[0]), attention)
        for change in changes:
            x = change(x, layout)
        return (layout.unpad(x.transpose(1, 2).flatten(2), args[0]),)

    return before
