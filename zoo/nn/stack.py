"""A stack of blocks, with activation checkpointing, caches, intermediate features and removal of padding."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.nn.block import Block
from zoo.nn.context import Context, Groups
from zoo.nn.kv_cache import LayerState, StackState
from zoo.nn.masks import as_mask
from zoo.nn.padding import real_tokens
from zoo.nn.rotary import Rotary


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
        context = context or Context()
        selected = None if layers is None else [range(self.depth)[i] for i in layers]
        compiling = torch.compiler.is_compiling()
        if keep is not None:
            keep = keep.bool() if compiling else real_tokens(keep)
        shared_mask = as_mask(context.mask).batch == 1 and (context.bias is None or context.bias.batch == 1)
        if (
            keep is not None
            and drop_padding
            and shared_mask
            and state is None
            and context.memory is None
            and not compiling
        ):
            y, outputs = self.run_packed(x, context, keep, selected)
        else:
            y, outputs = self.run(
                x, context.for_forward(x.shape[1], keep=keep, cache_biases=not self.checkpointing), state, selected
            )
            if keep is not None:
                real = keep[:, -x.shape[1] :, None]
                y, outputs = y * real, {i: t * real for i, t in outputs.items()}
        return y if selected is None else (y, [outputs[i] for i in selected])

    def run_packed(
        self, x: Tensor, context: Context, keep: Tensor, selected: list[int] | None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """`run` on the real tokens only; the outputs are zero at padding."""
        groups = group_rows(keep)
        if not groups.sizes:  # all tokens are padding
            return x * 0, dict.fromkeys(selected or (), x * 0)
        y, outputs = self.run(
            pack(x, groups.index), packed_context(context, groups, not self.checkpointing), None, selected
        )
        return unpack(y, groups.index, x.shape), {i: unpack(t, groups.index, x.shape) for i, t in outputs.items()}

    def run(
        self, x: Tensor, context: Context, state: StackState | None, selected: list[int] | None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """All blocks and the norm. Returns (output, {layer: output} for the selected layers)."""
        outputs, tokens = {}, x.shape[1]
        recompute = self.checkpointing and torch.is_grad_enabled() and state is None
        for i, block in enumerate(self):
            layer_context = context.layer(i)
            if recompute:
                x = checkpoint(block, x, layer_context, use_reentrant=False)
            else:
                x = block(x, layer_context, None if state is None else state[i])
            if selected is not None and i in selected:
                outputs[i] = x
        if state is not None:
            state.advance(tokens)
        return (x if self.norm is None else self.norm(x)), outputs

    def new_state(self, batch: int, capacity: int, like: Tensor) -> StackState:
        """Empty caches of all layers, for decoding `batch` rows of about `capacity` tokens."""
        states = StackState()
        for block in self:
            make = getattr(block.mixer, "new_state", None) or getattr(
                getattr(block.mixer, "core", None), "new_state", None
            )
            if make is None:
                raise ValueError(
                    f"{type(block.mixer).__name__} cannot decode: it does not define new_state(batch, capacity, like)"
                )
            states.append(LayerState(make(batch, capacity, like)))
        return states


def group_rows(keep: Tensor) -> Groups:
    """Layout of the real tokens of keep [B, N], with rows sorted by length."""
    lengths = keep.sum(1)
    order = lengths.argsort(stable=True)
    rows, columns = keep[order].nonzero(as_tuple=True)
    positions = (keep.long().cumsum(1) - 1)[order][rows, columns]
    sizes, counts = lengths[order].unique_consecutive(return_counts=True)
    runs = tuple((c, n) for n, c in zip(sizes.tolist(), counts.tolist(), strict=True) if n > 0)
    return Groups(runs, order[rows] * keep.shape[1] + columns, positions)


def packed_context(context: Context, groups: Groups, cache_biases: bool) -> Context:
    """The context for packed rows, with rotary tables reordered like the tokens."""

    def take_rows(tables: Rotary) -> Rotary:
        return tables.rows(groups.positions if tables.cos.ndim == 2 else groups.index)

    rotary = context.rotary
    if isinstance(rotary, tuple):
        once = {id(tables): take_rows(tables) for tables in rotary}
        rotary = tuple(once[id(tables)] for tables in rotary)
    elif rotary is not None:
        rotary = take_rows(rotary)
    return replace(context.for_forward(0, cache_biases=cache_biases), rotary=rotary, groups=groups)


def pack(x: Tensor, index: Tensor) -> Tensor:
    """[B, N, D] -> [1, T, D], real tokens only."""
    return x.flatten(0, 1)[index][None]


def unpack(y: Tensor, index: Tensor, shape: torch.Size) -> Tensor:
    """[1, T, D] -> [B, N, D], zeros at padding."""
    full = y.new_zeros(shape[0] * shape[1], y.shape[-1])
    return full.index_copy(0, index, y[0]).view(*shape[:2], y.shape[-1])
