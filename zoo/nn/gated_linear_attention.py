"""Gated linear attention: linear attention whose sum over earlier tokens decays, by a gate for each feature."""

import torch.nn.functional as F
from torch import Tensor

from zoo.nn.core import CoreSpec, attention
from zoo.nn.delta_rule import recurrent_decay
from zoo.nn.gated_core import Controls, GatedCore
from zoo.nn.linear_chunks import causal_decay

TEMPERATURE = 16  # a decay of sigmoid(0) ** (1 / 16) = 0.96 for each token at the start


@attention("gated_linear")
class GatedLinearAttention(GatedCore):
    """Gated Linear Attention (Yang et al. 2023): S_i = a_i^T * S_(i-1) + k_i^T v_i, y_i = q_i S_i / sqrt(P).

    The decay of each feature of a key is a_i = sigmoid(x_i W1 W2 + b) ** (1 / 16), with W1 W2 of rank 16, for each head
    of keys. The paper's norm and output gate after attention, which are not linear in the values, are left out.
    """

    gate_rank = 16

    def __init__(self, spec: CoreSpec) -> None:
        self.gate_width = spec.head_dim
        super().__init__(spec)

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q * self.scale, k

    def controls(self, gates: Tensor) -> Controls:
        return F.logsigmoid(gates) / TEMPERATURE, None

    def chunked(
        self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, strength: None, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        start = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if state is None else state
        return causal_decay(q, k, v, log_decay, start)

    def recurrence(
        self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, strength: None, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return recurrent_decay(q, k, v, log_decay, state)
