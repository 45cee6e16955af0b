"""Attention whose output is multiplied by a gate, along one axis of a grid, with a bias for each pair of tokens."""

from typing import Any

from torch import Tensor

from zoo.models.evoformer.part import Gate, ZeroLinear
from zoo.nn.attention import Attention
from zoo.nn.context import Context
from zoo.nn.core import CoreSpec
from zoo.nn.kv_cache import LayerState
from zoo.nn.masks import NO_MASK, MaskView
from zoo.nn.position_biases import BiasOfHeads, TensorBias


class GatedAttention(Attention):
    """out(sigmoid(W x + b) * heads): attention with a gate for each channel of each head (Jumper et al. 2021,
    supplement, algorithms 7, 8, 13 and 14). q, k and v have no bias; the gate and the output have one."""

    def __init__(self, width: int, spec: CoreSpec, attention: Any = "softmax") -> None:
        super().__init__(width, spec, attention=attention, bias=False)
        self.out = ZeroLinear(spec.heads * spec.head_dim, width)
        self.output_gate = Gate(width, spec.heads * spec.head_dim)

    def forward(
        self, x: Tensor, context: Context, state: LayerState | None = None, memory: Tensor | None = None
    ) -> Tensor:
        """x [B, N, D] -> [B, N, D]; there is no cache and no cross-attention."""
        bias = context.bias
        if self.kept_heads is not None and bias is not None:
            bias = BiasOfHeads.of(bias, self.kept_heads)
        q, k, v = self.project_heads(x)
        if context.edit_qkv is not None:
            q, k, v = context.edit_qkv(q, k, v, False)
        gates = () if self.gate is None else (self.gates(x),)  # of a kind of attention that has its own
        y = self.core(q, k, v, context.mask, bias, *gates)
        return self.out(y.transpose(1, 2).flatten(2) * self.output_gate(x).sigmoid())


class PairBias(TensorBias):
    """A bias of all pairs, [B or 1, H, N, N], which hides none."""

    hides = False


def attend_within_rows(attention: GatedAttention, x: Tensor, keep: Tensor | None, bias: Tensor | None) -> Tensor:
    """Attention within each row of a grid x [B, R, N, D] -> [B, R, N, D].

    keep [B, R, N]: True for real tokens. bias [B, H, N, N]: of pairs of tokens, the same for all rows.
    """
    rows = x.shape[:2]
    if bias is not None and bias.shape[0] > 1:  # a core has one for each row, or one for all
        bias = bias[:, None].expand(-1, rows[1], -1, -1, -1).flatten(0, 1)
    context = Context(
        mask=None if keep is None else MaskView(NO_MASK, keep=keep.flatten(0, 1)),
        bias=None if bias is None else PairBias(bias),
    )
    return attention(x.flatten(0, 1), context).unflatten(0, rows)
