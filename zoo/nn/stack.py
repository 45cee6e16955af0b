"""A stack of blocks, with activation checkpointing, caches, intermediate features and removal of padding."""

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.nn import kernels
from zoo.nn.block import Block
from zoo.nn.context import Context
from zoo.nn.kv_cache import LayerState, StackState
from zoo.nn.lengths import AnyLengths, check_lengths
from zoo.nn.masks import as_mask
from zoo.nn.padding import Groups, count_real, group_rows, pack_rows, real_tokens


class Stack(nn.Module):
    """Blocks and the final norm. In all models the attribute `blocks`: `blocks.0`, ..., `blocks.norm`.

    checkpointing: recompute activations in the backward pass instead of storing them. keeps: further arguments of
    `torch.utils.checkpoint.checkpoint`, such as the `context_fn` of a policy of what is stored all the same.
    """

    keeps: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, blocks: Iterable[Block], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.depth = 0
        for block in blocks:
            self.add_module(str(self.depth), block)
            self.depth += 1
        self.by_length = any(not getattr(block.mixer, "packs", False) for block in self)
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
        lengths: AnyLengths | None = None,
        before: Mapping[int, nn.Module] | None = None,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """x [B, N, D] -> hidden states [B, N, D] after the final norm, zeros at padding.

        keep [B, N] (or, with a state, [B, M] for all tokens so far): True or 1 for real tokens. Positions count real
        tokens only, so the side of the padding does not matter. layers: also return the outputs of these blocks, before
        the final norm. drop_padding: compute real tokens only, where possible. lengths: the sums of `keep`, on a host.
        before: modules that run before these blocks, with the same arguments (gated cross-attention).
        """
        context, shape, outputs, numbers, groups = context or Context(), x.shape, {}, None, None
        selected = None if layers is None else [range(self.depth)[i] for i in layers]
        shared = context.mask is None or as_mask(context.mask).batch == 1
        if context.bias is not None or state is not None:
            shared = check_inputs(self, context, state, shape[0]) and shared
        drop = drop_padding and shared and state is None and context.memory is None and context.read_maps is None
        if lengths is not None and state is None:
            keep, numbers = check_lengths(lengths, keep, x, trust=True)
        if keep is not None:
            record = kernels.RECORDS.get(keep.device) or kernels.capabilities(keep.device)
            if record.packs or torch.compiler.is_compiling():
                unread = state is not None or (context.memory is not None and numbers is None)
                keep, groups = find_padding(keep, numbers, drop, by_length=self.by_length, unread=unread)
            else:
                real = real_tokens(keep)
                keep, groups = (real, None) if real is None or not drop else (None, group_rows(real))
        if groups is not None:
            if not groups.sizes:  # all tokens are padding
                return x * 0 if selected is None else (x * 0, [x * 0 for _ in selected])
            x = x.flatten(0, 1).index_select(0, groups.index)[None]  # its gradient needs no sorting, unlike x[index]
        context = context.for_forward(shape[1], keep=keep, groups=groups, cache_biases=not self.checkpointing)
        recompute = self.checkpointing and torch.is_grad_enabled() and state is None
        for i in range(self.depth):
            block = getattr(self, str(i))
            own = context.layer(i) if isinstance(context.rotary, tuple) else context
            cache = None if state is None else state[i]
            for part in (block,) if before is None or i not in before else (before[i], block):
                x = checkpoint(part, x, own, use_reentrant=False, **self.keeps) if recompute else part(x, own, cache)
            if selected is not None and i in selected:
                outputs[i] = x
        if state is not None:
            state.advance(shape[1])
        outputs[self.depth] = x if self.norm is None else self.norm(x)
        for i, y in list(outputs.items()):  # exact zeros at padding
            if groups is not None:
                full = y.new_zeros(shape[0] * shape[1], y.shape[-1])
                outputs[i] = full.index_copy_(0, groups.index, y.squeeze(0)).view(*shape[:2], y.shape[-1])
            elif keep is not None:
                outputs[i] = y * keep[:, -shape[1] :, None]
        x = outputs[self.depth]
        return x if selected is None else (x, [outputs[i] for i in selected])

    def new_state(self, batch: int, capacity: int, like: Tensor) -> StackState:
        """Empty caches of all layers, for decoding `batch` rows of about `capacity` tokens."""
        states = StackState()
        states.stack, states.rows = weakref.ref(self), batch
        for block in self:
            cached: Any = block.mixer if hasattr(block.mixer, "new_state") else getattr(block.mixer, "core", None)
            if not hasattr(cached, "new_state"):
                raise ValueError(
                    f"{type(block.mixer).__name__} cannot decode: it does not define new_state(batch, capacity, like)"
                )
            mlp: Any = block.mlp if block.shifts_tokens else None
            states.append(
                LayerState(cached.new_state(batch, capacity, like), None if mlp is None else mlp.new_state(batch, like))
            )
        return states


def check_inputs(stack: Stack, context: Context, state: StackState | None, rows: int) -> bool:
    """Whether all rows share the bias. Raises ValueError for a bias that no block adds, and for a state of another
    stack or of other rows."""
    if state is not None:
        state.check(stack, rows)
    if context.bias is None:
        return True
    check_bias(stack)
    return context.bias.batch == 1


def check_bias(blocks: Iterable[Block]) -> None:
    """Raise ValueError if no block adds the bias of a model."""
    mixers = [block.mixer for block in blocks]
    if not any(getattr(mixer, "reads_bias", True) for mixer in mixers):
        names = ", ".join(sorted({type(mixer).__name__ for mixer in mixers}))
        raise ValueError(
            f"{names}: mixers without attention have no scores to which this model could add its bias: keep attention "
            'in some layers, such as mixer=["NAME", "attention"], or choose a model without a bias'
        )


def find_padding(
    keep: Tensor, lengths: Sequence[int] | None, drop: bool, *, by_length: bool, unread: bool
) -> tuple[Tensor | None, Groups | None]:
    """(mask of real tokens or None, layout of the rows without padding or None: `drop` asks for it).

    For a GPU, which is waited for once, and not with checked `lengths` nor for `unread` masks: while decoding, and with
    cross-attention, which keeps padding under a mask in any case; and for the compiler, which does so, too. by_length:
    some mixer computes rows of equal length at a time.
    """
    if unread or torch.compiler.is_compiling():
        return keep.bool(), None
    counts = count_real(keep, lengths)
    if min(counts) == keep.shape[1]:
        return None, None
    return (None, pack_rows(keep, counts, by_length=by_length)) if drop else (keep.bool(), None)
