"""Edits of the queries, keys and values of an attention module, as they enter its core."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from zoo.interpret.core_calls import memory_padding
from zoo.interpret.edits import AppliedEdit
from zoo.interpret.hooks import Layout, attached
from zoo.nn.block import NO_CONTEXT
from zoo.nn.context import Context


class InputEdits:
    """Edits of the queries ("q"), keys ("k") or values ("v") of one attention module.

    The module is called with a context that has the edits (`Context.edit_qkv`): after norms and rotary embeddings, and
    before rows are padded for the core or keys and values are put into a cache.
    """

    def __init__(self, which: str, attention: nn.Module, layout: Layout, changes: list[AppliedEdit]) -> None:
        self.place, self.attention, self.layout, self.changes = "qkv".index(which), attention, layout, changes

    @contextmanager
    def attach(self) -> Iterator[None]:
        register = partial(self.attention.register_forward_pre_hook, with_kwargs=True)
        with attached([(register, self.before_attention)]):
            yield

    def before_attention(self, attention: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Hook: the attention module is called; its context gets these edits after those that it has."""
        given = args[1] if len(args) > 1 else kwargs.get("context", NO_CONTEXT)
        context = replace(given, edit_qkv=partial(self.edit, given))
        if len(args) > 1:
            return (args[0], context, *args[2:]), kwargs
        return args, {**kwargs, "context": context}

    def edit(self, given: Context, q: Tensor, k: Tensor, v: Tensor, of_memory: bool) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, H, N, P], k and v [B, G, M, P], or packed [1, ..., T, P] -> the same with the edits.

        given: the context of the module without these edits. of_memory: k and v are of its memory.
        """
        if given.edit_qkv is not None:
            q, k, v = given.edit_qkv(q, k, v, of_memory)
        parts = [q, k, v]
        layout = MemoryLayout(given) if of_memory and self.place else self.layout
        x = parts[self.place].transpose(1, 2)  # B N H P
        y = layout.pad(x).transpose(1, 2)
        for change in self.changes:
            y = change(y, layout)
        parts[self.place] = layout.unpad(y.transpose(1, 2), x).transpose(1, 2)
        return parts[0], parts[1], parts[2]


class MemoryLayout(Layout):
    """Where the tokens of the memory of cross-attention are: in rows of their own, under the mask of the memory."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.keep = memory_padding(context.memory_mask)

    def real(self, count: int) -> Tensor | None:
        return None if self.keep is None else self.keep.bool()
