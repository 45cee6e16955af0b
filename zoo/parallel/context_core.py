"""Attention whose queries, keys and values are those of some tokens of a sequence, with exchanges around its core."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.nn.core import Core
from zoo.nn.index_functions import Index
from zoo.nn.position_biases import Bias
from zoo.parallel.document_rows import SequenceMask
from zoo.parallel.token_slices import TokenSlices


@dataclass(frozen=True, eq=False)
class BiasOfHeads(Bias):
    """A bias for `heads` heads from `start` on of those of `inner`."""

    inner: Bias
    start: int
    heads: int

    @property
    def batch(self) -> int:  # type: ignore[override]
        return self.inner.batch

    @property
    def hides(self) -> bool:  # type: ignore[override]
        return self.inner.hides

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.inner(b, h + self.start, q, k)

    def on_device(self, keys: int, device: Any) -> Bias:
        return BiasOfHeads(self.inner.on_device(keys, device), self.start, self.heads)


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
    """All tokens of the heads of this process."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Any = None, bias: Any = None, *gates: Tensor) -> Tensor:
        """q [B, H, n, P], k and v [B, G, n, P] of the tokens of this process -> [B, H, n, P]."""
        q, k, v, *gates = self.slices.to_heads((q, k, v, *gates), self.tokens_of(mask))  # type: ignore[assignment]
        with self.own_parameters():
            return self.slices.to_tokens(super().forward(q, k, v, mask, bias, *gates))

    @contextmanager
    def own_parameters(self) -> Iterator[None]:
        """Within, parameters of the core, which have a row for each head, are those of the heads of this process."""
        slices = self.slices
        own = {name: x.chunk(slices.ranks)[slices.rank] for name, x in self.named_parameters(recurse=False)}
        vars(self).update(own)  # found before parameters
        try:
            yield
        finally:
            for name in own:
                del vars(self)[name]


class KeysCore(DividedCore):
    """The queries of this process with the keys and values of all tokens."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Any = None, bias: Any = None, *gates: Tensor) -> Tensor:
        """q [B, H, n, P], k and v [B, G, n, P] of the tokens of this process -> [B, H, n, P]."""
        k, v = self.slices.gather(torch.stack([k, v]), self.tokens_of(mask), dim=3)
        return super().forward(q, k, v, mask, bias, *gates)


def divide_core(core: Core, slices: TokenSlices, method: str) -> None:
    """Exchange what a core needs between the processes, in place; its parameters and their names stay."""
    cls: Any = type(core)
    divided: Any = {"ulysses": HeadsCore, "gather": KeysCore}[method]
    core.__class__ = type(f"Divided{cls.__name__}", (divided, cls), {"__module__": cls.__module__})
    core.slices = slices  # type: ignore[assignment]
