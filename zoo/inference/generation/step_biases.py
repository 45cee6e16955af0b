"""What is added to the scores of one token: biases of earlier ones, and -inf at padding of the encoder's states."""

from typing import Any

import torch
from torch import Tensor

from zoo.nn.kv_cache import EncoderDecoderState, StackState
from zoo.nn.position_biases import T5RelativeBias


class TokenBiases:
    """The biases of each new token to the tokens so far, from a table by distance that is computed for many tokens."""

    def __init__(self) -> None:
        self.made_of: tuple[Any, ...] = ()
        self.values = torch.empty(0, 0)

    def row(self, bias: T5RelativeBias, tokens: int, like: Tensor) -> Tensor:
        """The biases [1, H, 1, M] of the last of M = `tokens` tokens, in the dtype of `like`."""
        table = bias.table
        made_of = (table, None if table.is_inference() else table._version, bias.max_distance, bias.bidirectional)
        known = len(self.made_of) > 0 and self.made_of[0] is table and self.made_of[1:] == made_of[1:]
        if not known or tokens > self.values.shape[1]:
            capacity = max(64, 2 * tokens)
            distances = bias.on_device(capacity, like.device).values[:, :capacity]  # type: ignore[attr-defined]
            self.made_of, self.values = made_of, distances.to(like.dtype)  # from the first token to itself
        return self.values[:, self.values.shape[1] - tokens :][None, :, None]


class MemoryBias:
    """What is added to the scores of the encoder's states: -inf at padding."""

    def __init__(self, state: StackState) -> None:
        self.state = state if isinstance(state, EncoderDecoderState) else None
        self.keep: Tensor | None = None
        self.bias: Tensor | None = None

    def __call__(self, like: Tensor) -> Tensor | None:
        """[B, 1, 1, M] in the dtype of `like`; None without padding."""
        keep = None if self.state is None else self.state.memory_mask
        if keep is not self.keep:  # the rows have changed
            self.keep, self.bias = keep, None
            if keep is not None:
                zeros = like.new_zeros(keep.shape)
                self.bias = zeros.masked_fill_(~keep.bool(), -torch.inf)[:, None, None]
        return self.bias
