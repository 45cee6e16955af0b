"""A stack whose rows keep their shape, for processes that divide the tokens or the blocks of a model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.nn.context import Context
from zoo.nn.kv_cache import StackState
from zoo.nn.lengths import AnyLengths, check_lengths
from zoo.nn.padding import real_tokens
from zoo.nn.stack import Stack


class RowStack(Stack):
    """The methods that pipelines and context parallelism put before those of a stack: padding is kept under a mask.

    refusal: the end of the error for what such a stack does not compute.
    """

    refusal: ClassVar[str]

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
    ) -> Any:
        """As in Stack, without a state and without modules between the blocks."""
        self.refuse("decoding with a cache", state)
        self.refuse("gated cross-attention between blocks", before)
        tokens = self.row_tokens(x)
        if lengths is not None:
            keep, _ = check_lengths(lengths, keep, x.new_empty(len(x), tokens), trust=True)
        keep = None if keep is None else real_tokens(keep)
        context = (context or Context()).for_forward(tokens, keep=keep, cache_biases=not self.checkpointing)
        return self.run(x, context, tokens, keep, layers)

    def refuse(self, what: str, given: Any) -> None:
        """Raise ValueError if an argument is given that this stack has no use for."""
        if given is not None:
            raise ValueError(f"{what} is not possible {self.refusal}")

    def row_tokens(self, x: Tensor) -> int:
        """Number of tokens of the rows whose hidden states are x [B, N, D]."""
        return x.shape[1]

    def run(
        self, x: Tensor, context: Context, tokens: int, keep: Tensor | None, layers: Sequence[int] | None = None
    ) -> Any:
        """The output of the stack, in a context for this forward over rows of so many tokens. keep [B, tokens]: False
        at padding."""
        raise NotImplementedError

    def run_blocks(
        self, x: Tensor, context: Context, numbers: Iterable[int], selected: Sequence[int] = ()
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """(hidden states after the blocks of these numbers, {number of a block: its output} of the selected ones)."""
        outputs, recompute = {}, self.checkpointing and torch.is_grad_enabled()
        for i in numbers:
            block = getattr(self, str(i))
            own = context.layer(i) if isinstance(context.rotary, tuple) else context
            x = checkpoint(block, x, own, use_reentrant=False, **self.keeps) if recompute else block(x, own)
            if i in selected:
                outputs[i] = x
        return x, outputs
