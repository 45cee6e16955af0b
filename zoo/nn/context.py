"""Inputs that all blocks of a forward pass share: masks, biases, positions and packing."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor

from zoo.nn.core import Core
from zoo.nn.global_tokens import GlobalTokens
from zoo.nn.masks import NO_MASK, Mask, MaskView, as_mask
from zoo.nn.padding import Groups
from zoo.nn.position_biases import Bias, BiasView
from zoo.nn.rotary import Rotary


@dataclass(frozen=True)
class Context:
    """Masks, biases and positions of one forward pass.

    mask, bias: for self-attention. rotary: rotary embeddings for its q and k, one for all layers or one per layer.
    memory [B, M, D'], memory_mask: encoder outputs for cross-attention. groups: layout of a packed batch, None where
    padding is kept. global_tokens: of models whose attention has them. read_maps: called by each self-attention with
    its core and its attention maps [B, H, N, N], for heads that read them; padding is then kept. edit_qkv: called by
    each attention with q, k, v as they enter its core, and whether k and v are of a memory; returns others in their
    place (`zoo.intervene`).
    """

    mask: Mask | None = None
    bias: Bias | None = None
    rotary: Rotary | tuple[Rotary, ...] | None = None
    memory: Tensor | None = None
    memory_mask: Mask | None = None
    groups: Groups | None = field(default=None, repr=False)
    global_tokens: GlobalTokens | None = field(default=None, repr=False)
    read_maps: Callable[[Core, Tensor], None] | None = field(default=None, repr=False)
    edit_qkv: Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor, Tensor]] | None = field(
        default=None, repr=False
    )

    def layer(self, number: int) -> "Context":
        """The context of block `number`."""
        return replace(self, rotary=self.rotary[number]) if isinstance(self.rotary, tuple) else self

    def for_forward(
        self, queries: int, *, keep: Tensor | None = None, groups: Groups | None = None, cache_biases: bool = True
    ) -> "Context":
        """The context for one forward pass: positions count real tokens only, masks and biases are evaluated once.

        queries: number of new tokens. keep [B, M]: True for real tokens, among all tokens so far; or groups: the layout
        of rows packed without padding. cache_biases: False recomputes biases in each layer (needed for activation
        checkpointing).
        """
        k = None if keep is None else (keep.long().cumsum(1) - 1).clamp(min=0)
        q = None if k is None else k[:, -queries:]
        rotary = self.rotary
        if rotary is not None and (k is not None or groups is not None):
            moved = {}
            for table in set(rotary if isinstance(rotary, tuple) else (rotary,)):  # layers share few tables
                if groups is not None:
                    moved[table] = table.rows(groups.positions if table.cos.ndim == 2 else groups.index)
                elif k is not None:
                    moved[table] = table.at_positions(k, queries)
            rotary = tuple(moved[table] for table in rotary) if isinstance(rotary, tuple) else moved[rotary]
        return replace(
            self,
            mask=MaskView(NO_MASK if self.mask is None else as_mask(self.mask), q, k, keep),
            bias=None if self.bias is None else BiasView(self.bias, q, k, {} if cache_biases else None),
            rotary=rotary,
            memory_mask=None if self.memory is None else MaskView(as_mask(self.memory_mask)),
            groups=groups,
            global_tokens=None if self.global_tokens is None else self.global_tokens.for_forward(keep, groups),
        )
