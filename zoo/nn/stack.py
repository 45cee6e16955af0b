"""The stack: the only loop over blocks. Checkpointing, state, intermediate features and dropping padding live here."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.nn.block import Block
from zoo.nn.context import Context, Groups
from zoo.nn.kv_cache import LayerState, StackState
from zoo.nn.masks import as_mask
from zoo.nn.rotary import Rotary


class Stack(nn.Module):
    """Blocks in a row and the final norm, always an attribute named `blocks`: `blocks.0`, ..., `blocks.norm`.

    checkpointing: recompute activations in the backward pass instead of keeping them.
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
        """x [B, N, D] -> hidden states [B, N, D] after the final norm, exact zeros at padding.

        keep [B, N] (or, with a state, [B, M] over all tokens so far) is True or 1 for real tokens. Real tokens are
        numbered in order, so where the padding stands makes no difference. layers: also return the outputs of these
        blocks (negative from the end), before the final norm.
        """
        context = context or Context()
        wanted = None if layers is None else [range(self.depth)[i] for i in layers]
        keep = None if keep is None else keep.bool()
        compiling = torch.compiler.is_compiling()
        if keep is not None and not compiling and bool(keep.all()):
            keep = None
        alike = as_mask(context.mask).batch == 1 and (context.bias is None or context.bias.batch == 1)
        if keep is not None and drop_padding and alike and state is None and context.memory is None and not compiling:
            y, taken = self.run_packed(x, context, keep, wanted)
        else:
            y, taken = self.run(x, context.seen(x.shape[1], keep=keep, remember=not self.checkpointing), state, wanted)
            if keep is not None:
                real = keep[:, -x.shape[1] :, None]
                y, taken = y * real, {i: t * real for i, t in taken.items()}
        return y if wanted is None else (y, [taken[i] for i in wanted])

    def run_packed(
        self, x: Tensor, context: Context, keep: Tensor, wanted: list[int] | None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """`run` on the real tokens alone, put back to their places among zeros."""
        groups = group_rows(keep)
        if not groups.sizes:  # a batch of padding alone
            return x * 0, dict.fromkeys(wanted or (), x * 0)
        y, taken = self.run(pack(x, groups.index), packed(context, groups, not self.checkpointing), None, wanted)
        return unpack(y, groups.index, x.shape), {i: unpack(t, groups.index, x.shape) for i, t in taken.items()}

    def run(
        self, x: Tensor, context: Context, state: StackState | None, wanted: list[int] | None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """All blocks and the norm; -> (output, {layer: its output} for the wanted layers)."""
        taken = {}
        recompute = self.checkpointing and torch.is_grad_enabled() and state is None
        for i, block in enumerate(self):
            own = context.layer(i)
            if recompute:
                x = checkpoint(block, x, own, use_reentrant=False)
            else:
                x = block(x, own, None if state is None else state[i])
            if wanted is not None and i in wanted:
                taken[i] = x
        return (x if self.norm is None else self.norm(x)), taken

    def new_state(self, batch: int, capacity: int, like: Tensor) -> StackState:
        """An empty memory of all layers, for decoding `batch` rows of up to about `capacity` tokens."""
        states = StackState()
        for block in self:
            make = getattr(block.mixer, "new_state", None) or getattr(
                getattr(block.mixer, "core", None), "new_state", None
            )
            if make is None:
                raise ValueError(
                    f"{type(block.mixer).__name__} has no new_state(batch, capacity, like): it cannot decode"
                )
            states.append(LayerState(make(batch, capacity, like)))
        return states


def group_rows(keep: Tensor) -> Groups:
    """keep [B, N] -> the real tokens of all rows, rows ordered by length, so equally long rows are neighbors."""
    lengths = keep.sum(1)
    order = lengths.argsort(stable=True)
    rows, columns = keep[order].nonzero(as_tuple=True)
    positions = (keep.long().cumsum(1) - 1)[order][rows, columns]
    sizes, counts = lengths[order].unique_consecutive(return_counts=True)
    runs = tuple((c, n) for n, c in zip(sizes.tolist(), counts.tolist(), strict=True) if n > 0)
    return Groups(runs, order[rows] * keep.shape[1] + columns, positions)


def packed(context: Context, groups: Groups, remember: bool) -> Context:
    """The context for packed rows; rotary tables follow the tokens."""

    def follow(tables: Rotary) -> Rotary:
        return tables.rows(groups.positions if tables.cos.ndim == 2 else groups.index)

    rotary = context.rotary
    if isinstance(rotary, tuple):
        once = {id(tables): follow(tables) for tables in rotary}
        rotary = tuple(once[id(tables)] for tables in rotary)
    elif rotary is not None:
        rotary = follow(rotary)
    return replace(context.seen(0, remember=remember), rotary=rotary, groups=groups)


def pack(x: Tensor, index: Tensor) -> Tensor:
    return x.flatten(0, 1)[index][None]  # B N D -> 1 T D


def unpack(y: Tensor, index: Tensor, shape: torch.Size) -> Tensor:
    """[1, T, D] -> [B, N, D], zeros where nothing was packed."""
    full = y.new_zeros(shape[0] * shape[1], y.shape[-1])
    return full.index_copy(0, index, y[0]).view(*shape[:2], y.shape[-1])
