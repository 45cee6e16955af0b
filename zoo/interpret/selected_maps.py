"""Attention maps of selected rows and heads, for `zoo.capture`."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.nn.core import Core
from zoo.nn.graphs.neighbors import NeighborMask
from zoo.nn.linear_attention import LinearAttention, Performer, RandomFeatureAttention
from zoo.nn.masks import Mask, MaskView, PaddingMask, as_mask
from zoo.nn.position_biases import as_bias
from zoo.nn.softmax_attention import AdditiveAttention, SoftmaxAttention
from zoo.nn.sparse_attention import (
    BigBird,
    BlockSparseAttention,
    DilatedAttention,
    LocalAttention,
    Longformer,
    ShiftedWindowAttention,
    StridedAttention,
)

EXTRA = ("gates", "global_inputs", "edge_inputs")  # what some cores take beside queries, keys, mask and bias
NOTHING: Mapping[str, Any] = {}
SLICE_ENTRIES = 1 << 17  # of a map that is computed at once, where heads are independent
# Cores with independent heads, and their parameters with a row per head: heads are selected before maps are computed.
# For other cores, which may mix heads, all heads are computed first.
SEPARATE_HEADS: dict[type[Core], tuple[str, ...]] = {
    SoftmaxAttention: (), LocalAttention: (), StridedAttention: (), Longformer: (), BigBird: (),
    DilatedAttention: (), ShiftedWindowAttention: (), BlockSparseAttention: (),
    AdditiveAttention: ("w",),
    LinearAttention: (), Performer: (), RandomFeatureAttention: (),
}  # fmt: skip


def compute_maps(
    core: Core,
    q: Tensor,
    k: Tensor,
    mask: Any,
    bias: Any,
    rows: list[int] | None,
    heads: list[int] | None,
    extra: Mapping[str, Any],
    *,
    grad: bool = False,
) -> Tensor:
    """`core.maps` of selected rows and heads: q [B, H, N, P], k [B, G, M, P] -> [rows, heads, N, M], detached but with
    `grad`."""
    added = as_bias(bias)
    # evaluated with gradients if the forward has them: its layers share the evaluated bias
    dense = None if added is None else added.dense(q.shape[2], k.shape[2], q.device)
    devices = [q.device] if q.device.type == "cuda" else []
    with (
        torch.set_grad_enabled(grad and torch.is_grad_enabled()),
        torch.random.fork_rng(devices, enabled=core.training),
    ):
        if not grad:
            q, k, dense = q.detach(), k.detach(), None if dense is None else dense.detach()
        mask, more = as_mask(mask), of_rows(extra, rows, grad)
        if rows is not None:
            q, k, mask, dense = q[rows], k[rows], SelectedMask(mask, rows), select(dense, 0, rows)
        if type(core) in SEPARATE_HEADS and not more:
            return separate_maps(core, q, k, mask, dense, heads, slices=not grad)
        maps = core.maps(q, k, mask, dense, **more)
        return maps if heads is None else maps[:, heads]


def separate_maps(
    core: Core, q: Tensor, k: Tensor, mask: Mask, dense: Tensor | None, heads: list[int] | None, *, slices: bool
) -> Tensor:
    """Maps of a core with independent heads. slices: a few rows and heads at a time, so that what is computed on the
    way takes little memory beside the map."""
    rows, queries, keys = q.shape[0], q.shape[2], k.shape[2]
    chosen = list(range(q.shape[1])) if heads is None else heads
    entries = len(chosen) * queries * keys
    if not slices or rows * entries <= SLICE_ENTRIES:
        return core.maps(q, k, mask, dense) if heads is None else maps_of_heads(core, q, k, mask, dense, heads)
    full = q.new_empty(0)
    few = max(1, SLICE_ENTRIES // (queries * keys))
    for row in range(rows):
        own = SelectedMask(mask, [row])
        for start in range(0, len(chosen), few):
            part = q[row : row + 1], k[row : row + 1], own, select(dense, 0, [row]), chosen[start : start + few]
            weights = maps_of_heads(core, *part)
            if not full.numel():
                full = weights.new_empty(rows, len(chosen), queries, keys)
            full[row, start : start + few] = weights[0]
    return full


def maps_of_heads(core: Core, q: Tensor, k: Tensor, mask: Mask, dense: Tensor | None, heads: list[int]) -> Tensor:
    """`core.maps` of selected heads, for a core with independent heads."""
    shared = q.shape[1] // k.shape[1]
    q, k, dense = q[:, heads], k[:, [head // shared for head in heads]], select(dense, 1, heads)
    return with_heads(core, heads).maps(q, k, SelectedMask(mask, None, heads), dense)


def of_rows(extra: Mapping[str, Any], rows: list[int] | None, grad: bool) -> dict[str, Any]:
    """The extra inputs of a core for selected rows of a batch, detached but with `grad`."""
    found = {k: value.detach() if isinstance(value, Tensor) and not grad else value for k, value in extra.items()}
    if rows is None:
        return found
    return {name: value[rows] if isinstance(value, Tensor) else value.select(rows) for name, value in found.items()}


def in_rectangle(extra: Mapping[str, Any], rows: slice, length: int) -> dict[str, Any]:
    """The extra inputs of a core for the first `length` tokens of some rows."""
    return {
        name: value[rows, :, :length] if isinstance(value, Tensor) else value.rectangle(rows, length)
        for name, value in extra.items()
    }


def with_heads(core: Core, heads: list[int]) -> Core:
    """The core with only the given heads."""
    twin = copy.copy(core)
    twin._parameters = core._parameters | {name: getattr(core, name)[heads] for name in SEPARATE_HEADS[type(core)]}
    return twin


def select(values: Tensor | None, dim: int, chosen: list[int] | None) -> Tensor | None:
    """The selected entries along a dimension; a dimension of size 1 broadcasts and is kept."""
    if values is None or chosen is None or values.shape[dim] == 1:
        return values
    return values.index_select(dim, torch.tensor(chosen, device=values.device))


@dataclass(frozen=True, eq=False)
class SelectedMask(Mask):
    """A mask for selected rows of a batch, or selected heads."""

    inner: Mask
    rows: list[int] | None = None
    only_heads: list[int] | None = None

    @property
    def keep(self) -> Tensor | None:  # type: ignore[override]
        return select(self.inner.keep, 0, self.rows)

    def __and__(self, other: Mask) -> Mask:
        return replace(self, inner=self.inner & other)

    def parts(self) -> tuple[Mask, ...]:
        """The parts; of masks that cores recognize, padding and neighbors differ between rows."""
        return tuple(map(self.part, self.inner.parts()))

    def part(self, part: Mask) -> Mask:
        """One part for the selected rows."""
        if isinstance(part, PaddingMask):
            return PaddingMask(select(part.keep, 0, self.rows))  # type: ignore[arg-type]
        return part.select_rows(self.rows) if isinstance(part, NeighborMask) and self.rows is not None else part

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return self.inner.hides_nothing(queries, keys)

    def dense(self, queries: int, keys: int, device: Any = None) -> Tensor:
        return self.select(self.inner.dense(queries, keys, device))

    def evaluate(self, queries: int, keys: int, device: Any) -> tuple[Tensor, Tensor | None]:
        allowed, fully_masked = self.inner.evaluate(queries, keys, device)
        return self.select(allowed), None if fully_masked is None else self.select(fully_masked)

    def select(self, values: Tensor) -> Tensor:
        chosen = select(select(values, 0, self.rows), 1, self.only_heads)
        assert chosen is not None
        return chosen


def zero_padded(weights: Tensor, mask: Any, rows: list[int] | None) -> Tensor:
    """Zeros for queries that are padding, as if padding were dropped."""
    if not isinstance(mask, MaskView) or mask.keep is None:
        return weights
    real = select(mask.keep[:, -weights.shape[2] :], 0, rows)  # the queries are the last tokens
    assert real is not None
    return weights.masked_fill(~real.bool()[:, None, :, None], 0.0)
