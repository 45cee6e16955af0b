"""A stack of blocks, with activation checkpointing, caches, intermediate features and removal of padding."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.nn.block import Block
from zoo.nn.context import Context, Groups
from zoo.nn.kv_cache import LayerState, StackState
from zoo.nn.masks import as_mask
from zoo.nn.padding import real_tokens


class Stack(nn.Module):
    """Blocks and the final norm. In all models the attribute `blocks`: `blocks.0`, ..., `blocks.norm`.

    checkpointing: recompute activations in the backward pass instead of storing them.
    """

    def __init__(self, blocks: Iterable[Block], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.depth = 0
        for block in blocks:
            self.add_module(str(self.depth), block)
            self.depth += 1
        self.norm = norm
        self.checkpointing = False

    def __len__(self) -> int:
        return self.depth

    def __iter__(self) -> Iterator[Block]:
        return (self[i] for i in range(self.depth))

    def __getitem__(self, i: int) -> Block:
        return getattr(self, str(range(self.depth)[i]))

    def forward(
        self,
        x: Tensor,
        context: Context | None = None,
        *,
        keep: Tensor | None = None,
        state: StackState | None = None,
        layers: Sequence[int] | None = None,
        drop_padding: bool = True,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """x [B, N, D] -> hidden states [B, N, D] after the final norm, zeros at padding.

        keep [B, N] (or, with a state, [B, M] for all tokens so far): True or 1 for real tokens. Positions count real
        tokens only, so the side of the padding does not matter. layers: also return the outputs of these blocks
        (negative from the end), before the final norm. drop_padding: compute real tokens only, where possible.
        """
        context, shape, outputs = context or Context(), x.shape, {}
        selected = None if layers is None else [range(self.depth)[i] for i in layers]
        compiling, groups = torch.compiler.is_compiling(), None
        if keep is not None:
            keep = keep.bool() if compiling else real_tokens(keep)
        drop_padding = drop_padding and state is None and context.memory is None and not compiling
        shared = context.mask is None or as_mask(context.mask).batch == 1
        shared = shared and (context.bias is None or context.bias.batch == 1)
        if keep is not None and drop_padding and shared:
            groups, keep = group_rows(keep), None
            if not groups.sizes:  # all tokens are padding
                return x * 0 if selected is None else (x * 0, [x * 0 for _ in selected])
            x = x.flatten(0, 1)[groups.index][None]  # B N D -> 1 T D
        context = context.for_forward(shape[1], keep=keep, groups=groups, cache_biases=not self.checkpointing)
        recompute = self.checkpointing and torch.is_grad_enabled() and state is None
        for i in range(self.depth):
            block = getattr(self, str(i))
            own = context.layer(i) if isinstance(context.rotary, tuple) else context
            if recompute:
                x = checkpoint(block, x, own, use_reentrant=False)
            else:
                x = block(x, own, None if state is None else state[i])
            if selected is not None and i in selected:
                outputs[i] = x
        if state is not None:
            state.advance(shape[1])
        if self.norm is not None:
            x = self.norm(x)
        if groups is not None or keep is not None:
            x = restore_padding(x, shape, groups, keep)
            for i in outputs:
                outputs[i] = restore_padding(outputs[i], shape, groups, keep)
        return x if selected is None else (x, [outputs[i] for i in selected])

    def new_state(self, batch: int, capacity: int, like: Tensor) -> StackState:
        """Empty caches of all layers, for decoding `batch` rows of about `capacity` tokens."""
        states = StackState()
        for block in self:
            cached: Any = block.mixer if hasattr(block.mixer, "new_state") else getattr(block.mixer, "core", None)
            if not hasattr(cached, "new_state"):
                raise ValueError(
                    f"{type(block.mixer).__name__} cannot decode: it does not define new_state(batch, capacity, like)"
                )
            states.append(LayerState(cached.new_state(batch, capacity, like)))
        return states


def group_rows(keep: Tensor) -> Groups:
    """Layout of the real tokens of keep [B, N], with rows sorted by length."""
    lengths = keep.sum(1)
    order = lengths.argsort(stable=True)
    rows, columns = keep[order].nonzero(as_tuple=True)
    positions = (keep.long().cumsum(1) - 1)[order][rows, columns]
    sizes, counts = lengths[order].unique_consecutive(return_counts=True)
    runs = list(zip(counts.tolist(), sizes.tolist(), strict=True))
    if runs[0][1] == 0:  # rows of padding only
        del runs[0]
    return Groups(tuple(runs), order[rows] * keep.shape[1] + columns, positions)


def restore_padding(x: Tensor, shape: torch.Size, groups: Groups | None, keep: Tensor | None) -> Tensor:
    """Hidden states [B, N, D] with exact zeros at padding, from packed rows [1, T, D] or under the mask `keep`."""
    if groups is not None:
        full = x.new_zeros(shape[0] * shape[1], x.shape[-1])
        return full.index_copy(0, groups.index, x[0]).view(*shape[:2], x.shape[-1])
    return x if keep is None else x * keep[:, -shape[1] :, None]
