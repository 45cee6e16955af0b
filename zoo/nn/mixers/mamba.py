"""Mamba: a selective state space, whose time steps, inputs and outputs depend on the token (Gu and Dao 2023)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.core import check_positive
from zoo.nn.init import Initializer, uniform_
from zoo.nn.kv_cache import RecurrentState, State
from zoo.nn.mixers.base import MixerConfig, mixer
from zoo.nn.mixers.causal_conv import causal_conv, time_step_bias
from zoo.nn.mixers.selective_scan import selective_scan
from zoo.nn.mixers.state_space import StateSpaceMixer
from zoo.nn.mlp import activation


class TimeStep(nn.Linear):
    """The projection of time steps, initialized so that softplus(bias) is between 0.001 and 0.1."""

    def initialize(self, generator_for: Initializer) -> None:
        uniform_(self.weight, self.in_features**-0.5, generator_for("weight"))
        self.bias.copy_(time_step_bias(self.out_features, 1e-3, 0.1, generator_for("bias")))


@mixer("mamba")
class Mamba(StateSpaceMixer):
    """The mixer of Mamba: a gated short convolution and a selective scan, in `expand` times the width.

    state: states of each channel. conv: tokens that the short convolution sees. dt_rank: rank of the time steps (None:
    width / 16). bias, conv_bias: whether the projections and the convolution have a bias. act: activation of the
    convolution; that of the gate is SiLU. The scan is computed in float32 or float64. Models that are not
    causal compute the mean over both directions, with shared parameters.
    Source: https://arxiv.org/abs/2312.00752.
    """

    no_weight_decay = ("A_log", "D")  # as published

    def __init__(
        self,
        spec: MixerConfig,
        state: int = 16,
        conv: int = 4,
        expand: float = 2,
        dt_rank: int | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        act: str = "silu",
    ) -> None:
        super().__init__(spec)
        self.inner, self.state = int(expand * spec.width), state
        self.dt_rank = math.ceil(spec.width / 16) if dt_rank is None else dt_rank
        check_positive(state=state, conv=conv, expand=self.inner, dt_rank=self.dt_rank)
        self.act = activation(act)
        self.in_proj = nn.Linear(spec.width, 2 * self.inner, bias=bias)
        self.conv = nn.Conv1d(self.inner, self.inner, conv, groups=self.inner, bias=conv_bias)
        self.x_proj = nn.Linear(self.inner, self.dt_rank + 2 * state, bias=False)
        self.dt_proj = TimeStep(self.dt_rank, self.inner)
        self.A_log = nn.Parameter(torch.empty(self.inner, state))
        self.D = nn.Parameter(torch.empty(self.inner))
        self.out_proj = nn.Linear(self.inner, spec.width, bias=bias)

    def initialize(self, generator_for: Initializer) -> None:
        self.A_log.copy_(torch.arange(1, self.state + 1).log().expand_as(self.A_log))  # S4D-Real
        nn.init.ones_(self.D)

    def mix(self, rows: Tensor, state: Any) -> Tensor:
        """One direction; state: a RecurrentState with the inputs of the convolution and the states of the scan."""
        x, z = rows.chunk(2, -1)
        x, past = causal_conv(self.conv, x, None if state is None else state["conv"])
        x = self.act(x)
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.state, self.state], -1)
        dtype = torch.promote_types(x.dtype, torch.float32)
        dt = F.softplus(self.dt_proj(dt).to(dtype))
        A = -self.A_log.to(dtype).exp().mT.contiguous()
        v = dt * x
        y, last = selective_scan(dt, v, A, B.to(dtype), C.to(dtype), None if state is None else state["ssm"])
        if state is not None:
            state.update(conv=past, ssm=last)
        return torch.addcmul(y, x.to(dtype), self.D.to(dtype)) * F.silu(z)

    def new_state(self, batch: int, capacity: int, like: Tensor) -> State:
        conv = like.new_zeros(batch, self.conv.kernel_size[0] - 1, self.inner)
        dtype = torch.promote_types(like.dtype, torch.float32)
        return RecurrentState(conv=conv, ssm=like.new_zeros(batch, self.state, self.inner, dtype=dtype))
