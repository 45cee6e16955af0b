"""Updates of a representation, computed for some of its rows or columns at a time, so that they need less memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from zoo.nn.exporting import is_exporting

ALL = slice(None)
Compute = Callable[[Tensor, slice], Tensor]  # (a part of x, where it is in x) -> what is computed of it


@dataclass(frozen=True)
class Chunks:
    """How much is computed at once: `size` rows or columns, None for all of them.

    With gradients the intermediate results of a chunk are not stored but computed again in the backward pass.
    inplace: without gradients, updates are written into the tensor that they are added to.
    """

    size: int | None = None
    inplace: bool = False

    def divides(self, length: int) -> bool:
        """Whether there is more than one chunk."""
        return self.size is not None and not is_exporting() and self.size < length

    def places(self, length: int) -> Iterator[slice]:
        """The places of the chunks."""
        step = self.size or length
        return (slice(start, min(start + step, length)) for start in range(0, length, step))

    def map(self, compute: Compute, x: Tensor, dim: int, to: int | None = None) -> Tensor:
        """compute(x, ALL), for chunks of x along `dim`, which is the dimension `to` (None: the same) of the result."""
        to, length = dim if to is None else to, x.shape[dim]
        if not self.divides(length):
            return compute(x, ALL)
        if torch.is_grad_enabled():
            return torch.cat(self.recomputed(compute, x, dim), to)
        result: Tensor | None = None
        for where in self.places(length):
            part = compute(at(x, where, dim), where)
            if result is None:
                result = part.new_empty([*part.shape[:to], length, *part.shape[to + 1 :]])
            at(result, where, to).copy_(part)
        assert result is not None
        return result

    def add(self, x: Tensor, compute: Compute, dim: int, factor: Tensor | None = None) -> Tensor:
        """x + factor * compute(x, ALL), for chunks of x along `dim`. factor: broadcasts to x, of dropout."""

        def scaled(part: Tensor, where: slice) -> Tensor:
            y = compute(part, where)
            return y if factor is None else y * (at(factor, where, dim) if factor.shape[dim] > 1 else factor)

        if not self.divides(x.shape[dim]) or torch.is_grad_enabled():
            return x + self.map(scaled, x, dim)
        result = x if self.inplace else torch.empty_like(x)
        for where in self.places(x.shape[dim]):
            part = at(x, where, dim)
            torch.add(part, scaled(part, where), out=at(result, where, dim))
        return result

    def recomputed(self, compute: Compute, x: Tensor, dim: int) -> list[Tensor]:
        """compute of each chunk, of which the backward pass has the input alone."""
        parts = zip(x.split(self.size or x.shape[dim], dim), self.places(x.shape[dim]), strict=True)
        return [checkpoint(compute, part, where, use_reentrant=False) for part, where in parts]


def at(x: Tensor, where: slice, dim: int) -> Tensor:
    """x[where] along a dimension."""
    return x if where == ALL else x.narrow(dim, where.start, where.stop - where.start)


WHOLE = Chunks()
