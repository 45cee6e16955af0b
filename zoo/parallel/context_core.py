"""Attention whose queries, keys and values are those of some tokens of a sequence, with exchanges around its core."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zoo.nn.core import Core
from zoo.nn.position_biases import BiasView
from zoo.parallel.document_rows import SequenceMask
from zoo.parallel.head_parts import HeadBias, HeadRange
from zoo.parallel.token_slices import TokenSlices


class DividedCore(Core):
    """Base class of the classes that `divide_core` makes: its methods come before those of an attention kind."""

    slices: TokenSlices

    def tokens_of(self, mask: Any) -> int:
        """Number of tokens of the sequence. Raises ValueError outside of a divided stack."""
        if not isinstance(mask, SequenceMask):
            raise ValueError(
                f"{type(self).__name__}: a block of a model with context parallelism runs within its stack alone, "
                "which knows the tokens of the other processes: call the model"
            )
        return mask.tokens


class HeadsCore(DividedCore):
    """All tokens of the heads of this process.

    computes: whether it does so now; parameters with a row for each head are then those of the heads of this process.
    """

    computes: bool = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Any = None, bias: Any = None, *gates: Tensor) -> Tensor:
        """q [B, H, n, P], k and v [B, G, n, P] of the tokens of this process -> [B, H, n, P]."""
        tokens = self.tokens_of(mask)
        if mask.inner.heads > 1:
            raise ValueError("a mask that differs between heads is not divided by method='ulysses': use 'gather'")
        q, k, v, *gates = self.slices.to_heads((q, k, v, *gates), tokens)  # type: ignore[assignment]
        with self.own_heads() as own:
            return self.slices.to_tokens(super().forward(q, k, v, mask, bias_of_heads(bias, own, mask), *gates))

    @contextmanager
    def own_heads(self) -> Iterator[HeadRange]:
        """Within, the core is one of the heads of this process, as its `spec` and `first_head` say."""
        spec, first, (rank, ranks) = self.spec, self.first_head, (self.slices.rank, self.slices.ranks)
        heads = spec.heads // ranks
        self.spec = replace(spec, heads=heads, kv_heads=spec.kv_heads // ranks)
        self.first_head, self.computes = first + rank * heads, True
        try:
            yield HeadRange(rank * heads, heads)
        finally:
            self.spec, self.first_head, self.computes = spec, first, False


def bias_of_heads(bias: Any, own: HeadRange, mask: SequenceMask) -> Any:
    """A bias for some of its heads; all layers that add the same bias share it."""
    if bias is None or bias.heads == 1:
        return bias
    key = bias, own
    if key not in mask.cache:
        if isinstance(bias, BiasView):
            cache: dict[Any, Any] | None = None if bias.cache is None else {}
            mask.cache[key] = replace(bias, inner=HeadBias(bias.inner, own), cache=cache)
        else:
            mask.cache[key] = HeadBias(bias, own)
    return mask.cache[key]


class KeysCore(DividedCore):
    """The queries of this process with the keys and values of all tokens."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Any = None, bias: Any = None, *gates: Tensor) -> Tensor:
        """q [B, H, n, P], k and v [B, G, n, P] of the tokens of this process -> [B, H, n, P]."""
        k, v = self.slices.gather(torch.stack([k, v]), self.tokens_of(mask), dim=3)
        return super().forward(q, k, v, mask, bias, *gates)


def divide_core(core: Core, slices: TokenSlices, method: str) -> None:
    """Exchange what a core needs between the processes, in place; its parameters and their names stay."""
    cls: Any = type(core)
    mixin = HeadsCore if method == "ulysses" else KeysCore
    made: Any = type(f"Divided{cls.__name__}", (mixin, cls), {"__module__": cls.__module__})
    for name in core.head_parameters if method == "ulysses" else ():
        setattr(made, name, property(partial(read_own, made, name)))
    core.__class__ = made
    core.slices = slices  # type: ignore[assignment]


def read_own(cls: Any, name: str, core: Any) -> Any:
    """A parameter of a core of class `cls` with a row for each head: those of this process, while it computes."""
    value = core._parameters[name]
    value = getattr(super(cls, core), name, value)  # tensor parallelism reads its part of it
    return value.chunk(core.slices.ranks)[core.slices.rank] if core.computes and value is not None else value
