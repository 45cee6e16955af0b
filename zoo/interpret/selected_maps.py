"""Attention maps of selected rows and heads, for `zoo.capture`."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.nn.core import Core
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

EXTRA = ("gates", "global_inputs")  # what some cores take beside queries, keys, mask and bias
NOTHING: Mapping[str, Any] = {}
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
) -> Tensor:
    """`core.maps` of selected rows and heads: q [B, H, N, P], k [B, G, M, P] -> [rows, heads, N, M], detached."""
    added = as_bias(bias)
    # evaluated with gradients if the forward has them: its layers share the evaluated bias
    dense = None if added is None else added.dense(q.shape[2], k.shape[2], q.device).detach()
    devices = [q.device] if q.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices, enabled=core.training):
        q, k, mask = q.detach(), k.detach(), as_mask(mask)
        if rows is not None:
            q, k, mask, dense = q[rows], k[rows], SelectedMask(mask, rows), select(dense, 0, rows)
        more = of_rows(extra, rows)
        if heads is None:
            return core.maps(q, k, mask, dense, **more).detach()
        if type(core) not in SEPARATE_HEADS:
            return core.maps(q, k, mask, dense, **more)[:, heads].detach()
        shared = q.shape[1] // k.shape[1]
        q, k, dense = q[:, heads], k[:, [head // shared for head in heads]], select(dense, 1, heads)
        return with_heads(core, heads).maps(q, k, SelectedMask(mask, None, heads), dense).detach()


def of_rows(extra: Mapping[str, Any], rows: list[int] | None) -> dict[str, Any]:
    """The extra inputs of a core for selected rows of a batch."""
    found = {name: value.detach() if isinstance(value, Tensor) else value for name, value in extra.items()}
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
        """The parts; a PaddingMask has rows to select, other masks that cores recognize are the same for all rows."""
        return tuple(
            PaddingMask(select(part.keep, 0, self.rows)) if isinstance(part, PaddingMask) else part  # type: ignore[arg-type]
            for part in self.inner.parts()
        )

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
