"""What all blocks of one forward share."""

from dataclasses import dataclass, field, replace

from torch import Tensor

from zoo.nn.masks import Mask, MaskView, as_mask
from zoo.nn.position_biases import Bias, BiasView
from zoo.nn.rotary import Rotary


@dataclass(frozen=True)
class Groups:
    """A batch of ragged rows without their padding: the real tokens laid end to end, [1, T, D], shortest row first.

    sizes: (rows, length) of each run of equally long rows, in order; index: [T], where each token came from in the
    flattened [B * N]; positions: [T], its place among the real tokens of its row.
    """

    sizes: tuple[tuple[int, int], ...]
    index: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Context:
    """One forward's masks, biases and positions.

    mask, bias: of self-attention. rotary: tables for its q and k, the same or one for each layer. memory [B, M, D']
    with memory_mask: what cross-attention looks at. groups: set while padding is dropped.
    """

    mask: Mask | None = None
    bias: Bias | None = None
    rotary: Rotary | tuple[Rotary, ...] | None = None
    memory: Tensor | None = None
    memory_mask: Mask | None = None
    groups: Groups | None = field(default=None, repr=False)

    def layer(self, number: int) -> "Context":
        """What block `number` sees."""
        return replace(self, rotary=self.rotary[number]) if isinstance(self.rotary, tuple) else self

    def seen(self, queries: int, *, keep: Tensor | None = None, remember: bool = True) -> "Context":
        """For one forward: masks and biases look at the places of real tokens, and are evaluated once.

        queries: how many tokens are new. keep [B, M]: which of all tokens are real. remember=False: recompute biases in
        each layer (activation checkpointing).
        """
        k = None if keep is None else (keep.long().cumsum(1) - 1).clamp(min=0)
        q = None if k is None else k[:, -queries:]
        tables = self.rotary
        if k is not None and tables is not None:
            if isinstance(tables, Rotary):
                tables = tables.placed(k, queries)
            else:
                tables = tuple(each.placed(k, queries) for each in tables)
        bias = None if self.bias is None else BiasView(self.bias, q, k, {} if remember else None)
        mask = MaskView(as_mask(self.mask), q, k, keep)
        return replace(self, mask=mask, bias=bias, rotary=tables, memory_mask=MaskView(as_mask(self.memory_mask)))
