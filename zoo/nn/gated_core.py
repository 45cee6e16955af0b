"""Base class of attention kinds that are a recurrence with gates: decays and strengths that depend on the token."""

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from zoo.nn.core import CoreSpec
from zoo.nn.exporting import any_length
from zoo.nn.init import Initializer
from zoo.nn.kv_cache import RecurrentState, State
from zoo.nn.linear_chunks import segments
from zoo.nn.masks import AnyMask, Mask, as_mask
from zoo.nn.position_biases import AnyBias, Bias
from zoo.nn.recurrent_core import RecurrentCore
from zoo.nn.sdpa import check_inputs, check_mask, repeat_kv

Controls = tuple[Tensor | None, Tensor | None]  # log decay [B, G, N, F] or [B, G, N], and strength [B, G, N]


class GatedCore(RecurrentCore):
    """Attention by a state [F, P] for each head, which decays and is written to by gates of each token.

    The gates [B, G, N, gate_width] are a projection of the token's input, which `zoo.nn.Attention` owns and passes as
    `gates=`; `gate_bias` [G, gate_width] is added to them. Without gates, the gates of all tokens are this bias.
    gate_rank: of the projection, None for one matrix.

    Without a causal mask the outputs are the mean over both directions: of the recurrence from the first token to the
    last, and of that from the last to the first. The outputs are not normalized: rows of weights do not sum to 1.
    """

    gate_width: int
    gate_rank: int | None = None
    head_parameters = MappingProxyType({"gate_bias": "kv_heads"})

    def __init__(self, spec: CoreSpec) -> None:
        super().__init__(spec)
        self.gate_bias = nn.Parameter(torch.empty(spec.kv_heads, self.gate_width))

    def initialize(self, generator_for: Initializer) -> None:
        nn.init.zeros_(self.gate_bias)

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """What the recurrence reads and writes with."""
        return q, k

    def controls(self, gates: Tensor) -> Controls:
        """Log decay and strength from gates [B, G, N, gate_width], their bias included."""
        raise NotImplementedError

    def chunked(self, *parts: Any) -> tuple[Tensor, Tensor]:
        """(y, state) for q, k, v, log decay, strength and the state before: in chunks of tokens."""
        raise NotImplementedError

    def recurrence(self, *parts: Any) -> tuple[Tensor, Tensor]:
        """The same token by token."""
        raise NotImplementedError

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: AnyMask = None,
        bias: AnyBias = None,
        gates: Tensor | None = None,
    ) -> Tensor:
        check_inputs(q, k, v)
        check_mask(as_mask(mask), q, k)
        v = self.drop_values(repeat_kv(v, q.shape[1]))
        causal, keep = self.parse_mask(mask, bias, q.shape[2], k.shape[2])
        return self.mix(q, k, v, causal, keep, gates, self.chunked).to(v.dtype)

    def weights(
        self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None, gates: Tensor | None = None
    ) -> Tensor:
        """Attention weights [B, H, N, M]: the recurrence, token by token, for the unit vectors as values."""
        causal, keep = self.parse_mask(mask, bias, q.shape[2], k.shape[2])
        units = torch.eye(k.shape[2], dtype=q.dtype, device=q.device).expand(q.shape[0], q.shape[1], -1, -1)
        return self.mix(q, k, units, causal, keep, gates, self.recurrence).to(q.dtype)

    def maps(
        self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None, gates: Tensor | None = None
    ) -> Tensor:
        return self.weights(q, k, mask, bias, gates)

    def new_state(self, batch: int, capacity: int, like: Tensor) -> State:
        dtype, dim = torch.promote_types(like.dtype, torch.float32), self.spec.head_dim
        return RecurrentState(sum=like.new_zeros(batch, self.spec.heads, dim, dim, dtype=dtype))

    def decode(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: State,
        mask: Mask | None = None,
        bias: Bias | None = None,
        gates: Tensor | None = None,
    ) -> Tensor:
        assert isinstance(state, RecurrentState)
        causal, keep = self.parse_mask(mask, bias, q.shape[2], k.shape[2] + state.length)
        self.check_decoding(causal, state)
        keep = None if keep is None else keep[:, :, -k.shape[2] :]
        parts = self.inputs(q, k, repeat_kv(v, q.shape[1]), keep, gates)
        y, after = self.scan(parts, self.recurrence if q.shape[2] == 1 else self.chunked, state["sum"])
        state.update(sum=after)
        state.length += q.shape[2]
        return y.to(v.dtype)

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, causal: bool, keep: Tensor | None, gates: Tensor | None, run: Any
    ) -> Tensor:
        """Outputs for values v [B, H, M, E]; keep [B, 1, M, 1] is False at padding."""
        queries, keys = q.shape[2], k.shape[2]
        if not causal and queries != keys:
            raise ValueError(
                f"{self.kind} attention with {queries} queries and {keys} keys: its gates belong to the tokens of one "
                "sequence, so it supports self-attention only; use cross_attention='softmax' or another kind"
            )
        if not queries:
            return torch.zeros_like(v[:, :, :0])
        if early := keys - queries:  # queries are the last tokens
            q = torch.cat([q.new_zeros(*q.shape[:2], early, q.shape[3]), q], 2)
        parts = self.inputs(q, k, v, keep, gates)
        y, _ = self.scan(parts, run)
        if not causal:
            backward, _ = self.scan([None if x is None else x.flip(2) for x in parts], run)
            y = (y + backward.flip(2)) / 2
        return y[:, :, early:]

    def inputs(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None, gates: Tensor | None) -> list[Tensor | None]:
        """q, k, v, log decay and strength for each query head; at padding nothing is written and nothing decays."""
        dtype, heads = torch.promote_types(q.dtype, torch.float32), q.shape[1]  # sums over a sequence
        bias = self.gate_bias.to(dtype)[:, None]
        gates = bias.expand(k.shape[0], -1, k.shape[2], -1) if gates is None else gates.to(dtype) + bias
        q, k = self.prepare(q.to(dtype), k.to(dtype))
        parts: list[Tensor | None] = [k, *self.controls(gates)]
        if keep is not None:
            parts = [x if x is None else x.masked_fill(~(keep if x.ndim == 4 else keep[..., 0]), 0.0) for x in parts]
        repeated = [x if x is None else repeat_kv(x, heads) for x in parts]
        return [q, repeated[0], v.to(dtype), *repeated[1:]]

    def scan(self, parts: list[Tensor | None], run: Any, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs and last state, in segments of tokens, each of which continues from the state before."""
        q = parts[0]
        assert q is not None
        if any_length(q.shape[2]):  # which chunks cannot have
            run = self.recurrence
        outputs = []
        for part in segments(q.shape[0] * q.shape[1] * q.shape[3], *parts):
            y, state = run(*part, state)
            outputs.append(y)
        assert state is not None
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2), state
