"""Base class of attention kinds that are a recurrence: they form no scores and decode from a state of constant size."""

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nn.core import Core
from zoo.nn.kv_cache import State
from zoo.nn.masks import CAUSAL, AnyMask, Mask, PaddingMask, as_mask
from zoo.nn.position_biases import AnyBias, Bias
from zoo.nn.sdpa import check_inputs, check_mask, repeat_kv


class RecurrentCore(Core):
    """Attention that is linear in the values, without scores. Subclasses define `attend` and `weights`.

    The attention weights are never computed, so attention dropout drops a value for all queries of a head at once, with
    the same expectation.
    """

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: AnyMask, bias: AnyBias, state: State | None = None
    ) -> Tensor:
        """Outputs for values v [B, H, M, E], without dropout. With a state, k and v are those of new tokens."""
        raise NotImplementedError

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        check_inputs(q, k, v)
        check_mask(as_mask(mask), q, k)
        return self.attend(q, k, self.drop_values(repeat_kv(v, q.shape[1])), mask, bias)

    def decode(
        self, q: Tensor, k: Tensor, v: Tensor, state: State, mask: Mask | None = None, bias: Bias | None = None
    ) -> Tensor:
        return self.attend(q, k, repeat_kv(v, q.shape[1]), mask, bias, state)

    def maps(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        return self.weights(q, k, mask, bias)

    def drop_values(self, v: Tensor) -> Tensor:
        return v * F.dropout(torch.ones_like(v[..., :1]), self.dropout) if self.dropout else v

    def check_decoding(self, causal: bool, state: State | None) -> None:
        if state is not None and not causal:
            raise ValueError("decoding needs a causal mask: pass mask=zoo.nn.CAUSAL")

    def parse_mask(self, mask: AnyMask, bias: AnyBias, queries: int, keys: int) -> tuple[bool, Tensor | None]:
        """Split a mask into (causal, keep [B, 1, M, 1] or None). Raises ValueError for other masks and for biases."""
        if bias is not None:
            raise ValueError(
                f"{self.kind} attention has no scores and does not support a bias: use an attention kind with scores "
                "(softmax, additive, local, ...), or absolute or rotary positions"
            )
        keep, causal = None, False
        for part in as_mask(mask).parts():
            if part == CAUSAL:
                causal = True
            elif isinstance(part, PaddingMask):
                keep = part.keep.bool() if keep is None else keep & part.keep.bool()
            elif not part.hides_nothing(queries, keys):
                raise ValueError(
                    f"{self.kind} attention does not compute weights and cannot apply the mask {part}: it supports "
                    "causal masks and padding; for sparse patterns use attention='local', 'longformer', ..."
                )
        if causal and queries > keys:
            raise ValueError(
                f"a causal mask with {queries} queries and {keys} keys masks all keys of the first queries"
            )
        return causal, None if keep is None else keep[:, None, :, None]
