"""The delta rule as attention kinds: a state of constant size in which a key's new value replaces its old one."""

import math
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.core import CoreSpec, attention
from zoo.nn.delta_rule import chunk_delta_rule, recurrent_delta_rule
from zoo.nn.gated_core import Controls, GatedCore
from zoo.nn.init import Initializer


@attention("delta")
class DeltaAttention(GatedCore):
    """DeltaNet (Yang et al. 2024): S_i = S_(i-1) + k_i^T b_i (v_i - k_i S_(i-1)), y_i = q_i S_i.

    Queries and keys are SiLU(q) and SiLU(k) of norm 1, and the strength of writing is b_i = sigmoid(x_i W + bias), for
    each head of keys. The paper's norm after attention, which is not linear in the values, is left out.
    """

    gate_width = 1

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(F.silu(q), dim=-1), F.normalize(F.silu(k), dim=-1)

    def controls(self, gates: Tensor) -> Controls:
        return None, gates[..., 0].sigmoid()

    def chunked(
        self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, strength: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return chunk_delta_rule(q, k, v, log_decay, strength, state)

    def recurrence(
        self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, strength: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return recurrent_delta_rule(q, k, v, log_decay, strength, state)


@attention("gated_delta")
class GatedDeltaAttention(DeltaAttention):
    """Gated DeltaNet (Yang et al. 2025): the delta rule in a state that also decays, by a gate for each head of keys.

    The decay is a_i = exp(-exp(log_rate) softplus(x_i W + bias)), as in Mamba-2; at the start exp(log_rate) is between
    1 and 16, and softplus(bias) between 0.001 and 0.1.
    """

    gate_width = 2  # decay and strength
    head_parameters = MappingProxyType({"gate_bias": "kv_heads", "log_rate": "kv_heads"})

    def __init__(self, spec: CoreSpec) -> None:
        super().__init__(spec)
        self.log_rate = nn.Parameter(torch.empty(spec.kv_heads))

    def initialize(self, generator_for: Initializer) -> None:
        super().initialize(generator_for)
        rate = torch.empty(self.log_rate.shape).uniform_(1, 16, generator=generator_for("log_rate"))
        self.log_rate.copy_(rate.log())
        low, high = math.log(1e-3), math.log(1e-1)
        step = torch.empty(self.log_rate.shape).uniform_(low, high, generator=generator_for("gate_bias")).exp()
        self.gate_bias[:, 0].copy_(step + (-torch.expm1(-step)).log())  # the inverse of softplus

    def controls(self, gates: Tensor) -> Controls:
        decay, strength = gates.unbind(-1)
        return -self.log_rate.to(gates.dtype).exp()[:, None] * F.softplus(decay), strength.sigmoid()
