"""Functions of indices, `f(b, h, q, k)`: what masks and position biases have in common."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

Index = Tensor


class IndexFunction:
    """Base class: a value for each batch row, head, query and key. Subclasses are frozen dataclasses."""

    batch: int = 1  # number of rows with values of their own; 1: the same values for all rows
    heads: int = 1
    q: Tensor | None = None  # positions of the queries; None: they are the last of the keys
    keep: Tensor | None = None  # [B, M], True for real keys; None: all are real

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        raise NotImplementedError

    def leaves(self) -> tuple["IndexFunction", ...]:
        """The functions of which a combination consists."""
        return (self,)

    def on_device(self, keys: int, device: Any) -> Any:
        """The same function of positions below `keys` as flex_attention takes it: what it looks up are tensors on the
        device, and what differs between layers is a tensor, so that one kernel serves all layers."""
        return self

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        """All values, as a tensor [B or 1, H or 1, N, M] (a size of 1 broadcasts): a bool tensor of a mask, True where
        a query may attend, and a float tensor of a bias. With fewer queries than keys the queries are the last
        positions."""
        b, h, q, k = (torch.arange(n, device=device) for n in (self.batch, self.heads, queries, keys))
        shift = keys - queries if self.q is None else 0
        return self(b.view(-1, 1, 1, 1), h.view(1, -1, 1, 1), (q + shift).view(1, 1, -1, 1), k.view(1, 1, 1, -1))


@dataclass(frozen=True, eq=False)
class TensorFunction(IndexFunction):
    """The values of a tensor [B or 1, H or 1, N, M]; dimensions of size 1 broadcast."""

    values: Tensor = field(repr=False)

    @property
    def batch(self) -> int:  # type: ignore[override]
        return self.values.shape[0]

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.values.shape[1]

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.values[tuple(i if n > 1 else i * 0 for i, n in zip((b, h, q, k), self.values.shape, strict=True))]

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        if self.values.shape[2] in (1, queries) and self.values.shape[3] in (1, keys):
            return self.values.expand(-1, -1, queries, keys)
        return super().dense(queries, keys, device)


@dataclass(frozen=True)
class Pair(IndexFunction):
    """Base class of two functions whose values are combined."""

    left: Any
    right: Any
    combine: ClassVar[Any]  # a function of two tensors

    @property
    def batch(self) -> int:  # type: ignore[override]
        return max(self.left.batch, self.right.batch)

    @property
    def heads(self) -> int:  # type: ignore[override]
        return max(self.left.heads, self.right.heads)

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        # torch.compile traces methods of objects that are made while it traces, but does not call such objects
        return self.combine(self.left.__call__(b, h, q, k), self.right.__call__(b, h, q, k))

    def leaves(self) -> tuple[IndexFunction, ...]:
        return self.left.leaves() + self.right.leaves()

    def on_device(self, keys: int, device: Any) -> Any:
        return replace(self, left=self.left.on_device(keys, device), right=self.right.on_device(keys, device))

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        return self.combine(self.left.dense(queries, keys, device), self.right.dense(queries, keys, device))


@dataclass(frozen=True, eq=False)
class View(IndexFunction):
    """A function of positions within one forward pass. `q` and `k` [B or 1, N]: position of each index."""

    inner: Any
    q: Tensor | None = None
    k: Tensor | None = None

    @property
    def batch(self) -> int:  # type: ignore[override]
        return max([self.inner.batch, *(x.shape[0] for x in (self.q, self.k, self.keep) if x is not None)])

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.inner.heads

    def leaves(self) -> tuple[IndexFunction, ...]:
        return self.inner.leaves()

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.inner.__call__(b, h, positions_at(self.q, b, q), positions_at(self.k, b, k))


def positions_at(positions: Tensor | None, b: Index, i: Index) -> Tensor:
    """positions[b, i], or the index itself if positions is None."""
    if positions is None:
        return i
    return positions[b if positions.shape[0] > 1 else b * 0, i]
