"""Longformer's attention: a sliding window, and global tokens with projections of their own."""

import torch
from torch import Tensor, nn

from zoo.nn.attention import Attention
from zoo.nn.context import Context
from zoo.nn.core import CoreSpec
from zoo.nn.global_tokens import GlobalInputs, GlobalTokens, padding_of
from zoo.nn.kv_cache import LayerState
from zoo.nn.masks import AnyMask, Window
from zoo.nn.position_biases import AnyBias
from zoo.nn.sdpa import attend
from zoo.nn.softmax_attention import SoftmaxAttention


class GlobalWindowAttention(SoftmaxAttention):
    """`window // 2` keys on either side and the global keys for most queries, all keys for those of global tokens.

    The latter come in `global_inputs`, by other projections: for them the output is `weights @ global_inputs.v`.
    """

    def __init__(self, spec: CoreSpec, window: int) -> None:
        super().__init__(spec)
        self.pattern = Window(window // 2, window // 2)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: AnyMask = None,
        bias: AnyBias = None,
        global_inputs: GlobalInputs | None = None,
    ) -> Tensor:
        if global_inputs is None:
            return super().forward(q, k, v, mask, bias)
        own_q, own_k, own_v, rows = global_inputs
        y = attend(q, k, v, mask, bias, self.scale, self.dropout, self.pattern | rows.keys)
        own = attend(own_q, own_k, own_v, padding_of(mask), None, self.scale, self.dropout)
        return global_inputs.write(y, own)

    def maps(
        self,
        q: Tensor,
        k: Tensor,
        mask: AnyMask = None,
        bias: AnyBias = None,
        global_inputs: GlobalInputs | None = None,
    ) -> Tensor:
        if global_inputs is None:
            return super().maps(q, k, mask, bias)
        plain = SoftmaxAttention(self.spec)  # has no pattern of its own
        plain.pattern = self.pattern | global_inputs.rows.keys
        weights = plain.maps(q, k, mask, bias)
        plain.pattern = padding_of(mask)
        return global_inputs.write(weights, plain.maps(global_inputs.q, global_inputs.k))


class LongformerAttention(Attention):
    """Attention with a window of `window` tokens and with the global tokens of `Context.global_tokens`.

    Global tokens attend to all tokens, by the projections q_global, k_global and v_global. Their queries are computed
    for them alone; in a compiled graph, which does not know how many there are, for all tokens.
    """

    def __init__(self, width: int, spec: CoreSpec, *, window: int) -> None:
        super().__init__(width, spec)
        self.core = GlobalWindowAttention(spec, window)
        size, groups = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        self.q_global = nn.Linear(width, size)
        self.k_global, self.v_global = nn.Linear(width, groups), nn.Linear(width, groups)

    def forward(
        self, x: Tensor, context: Context, state: LayerState | None = None, memory: Tensor | None = None
    ) -> Tensor:
        """x [B, N, D] -> [B, N, D]."""
        tokens = context.global_tokens
        if not isinstance(tokens, GlobalTokens):
            return super().forward(x, context, state, memory)
        own = self.split(self.k_global(x)), self.split(self.v_global(x))
        q, k, v = self.project_heads(x)
        if context.edit_qkv is not None:
            q, k, v = context.edit_qkv(q, k, v, False)
        parts = (q, k, v, *own, x[:, None])
        outputs = []
        for rows in tokens.rows:
            q, k, v, own_k, own_v, hidden = map(rows.take, parts)
            index = rows.places[..., None].expand(-1, -1, x.shape[-1])
            own_q = self.split(self.q_global(hidden[:, 0].gather(1, index)))
            mask = context.mask if tokens.mask is None else tokens.mask
            y = self.core(q, k, v, mask, None, global_inputs=GlobalInputs(own_q, own_k, own_v, rows))
            outputs.append(rows.put(y))
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)
        return self.out(y.transpose(1, 2).flatten(2))  # B H N P -> B N D
