"""Mamba-2: a state space with one decay per head and token, computed as attention in chunks (Dao and Gu 2024)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.core import check_positive
from zoo.nn.exporting import any_length
from zoo.nn.init import Initializer
from zoo.nn.kv_cache import RecurrentState, State
from zoo.nn.mixers.base import MixerConfig, mixer
from zoo.nn.mixers.causal_conv import causal_conv, time_step_bias
from zoo.nn.mixers.recurrences import decay_sums
from zoo.nn.mixers.state_space import StateSpaceMixer
from zoo.nn.mlp import activation

CHUNK = 64  # tokens that attend to each other; those before are read from a state
SHORT = 128  # rows of at most so many tokens are one chunk


class GatedRMSNorm(nn.Module):
    """RMSNorm of y * gate, over each of `groups` equal parts of the channels."""

    def __init__(self, width: int, groups: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.empty(width))

    def initialize(self, generator_for: Initializer) -> None:
        nn.init.ones_(self.weight)

    def forward(self, y: Tensor, gate: Tensor) -> Tensor:
        y = (y * gate.to(y.dtype)).unflatten(-1, (self.groups, -1))
        return F.rms_norm(y, y.shape[-1:], eps=self.eps).flatten(-2) * self.weight.to(y.dtype)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, groups={self.groups}, eps={self.eps}"


def chunked_scan(
    dt: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, start: Tensor | None = None, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """h_t = exp(dt_t A) h_(t-1) + dt_t x_t B_t^T and y_t = h_t C_t in each head, as (y [B, N, H, P], the last h).

    dt: [B, N, H], at least 0. x: [B, N, H, P]. A: [H], at most 0. B, C: [B, N, G, S], each for H / G heads in a row.
    start: h [B, H, P, S] before the first token, zeros if omitted. chunk: tokens of a chunk, chosen if omitted.
    Source: state space duality, https://arxiv.org/abs/2405.21060, section 6.
    """
    n, groups = x.shape[1], B.shape[2]
    chunk = n if any_length(n) else min(chunk or (CHUNK if n > SHORT else n), n)
    if extra := -n % chunk:  # tokens with dt = 0 keep the state
        dt, x, B, C = (F.pad(t, (*(0, 0) * (t.ndim - 2), 0, extra)) for t in (dt, x, B, C))
    dt, x, B, C = (t.unflatten(1, (-1, chunk)) for t in (dt, x, B, C))
    v = (x * dt[..., None]).permute(0, 1, 3, 2, 4)  # b chunk H l P
    v = v.unflatten(2, (groups, -1))  # b chunk G R l P
    B, C = B.transpose(2, 3)[:, :, :, None], C.transpose(2, 3)[:, :, :, None]  # b chunk G 1 l S
    logs = (dt * A).transpose(2, 3).unflatten(2, (groups, -1))  # b chunk G R l
    sums, decays = logs.cumsum(-1), decay_sums(logs).exp()
    y = ((C @ B.mT) * decays) @ v  # within chunks
    new = (v * decays[..., -1, :, None]).mT @ B  # b chunk G R P S: what each chunk adds to the state
    whole = sums[..., -1, None, None].exp()
    h = torch.zeros_like(new[:, 0]) if start is None else start.unflatten(1, (groups, -1))
    before = []
    # unbound at once: the gradient of an index is a tensor of all chunks, for each chunk
    for own_new, own_whole in zip(new.unbind(1), whole.unbind(1), strict=True):
        before.append(h)
        h = torch.addcmul(own_new, own_whole, h)
    if start is not None or len(before) > 1:
        y = y + (C @ torch.stack(before, 1).mT) * sums.exp()[..., None]  # b chunk G R l P
    return y.flatten(2, 3).transpose(2, 3).flatten(1, 2)[:, :n], h.flatten(1, 2)


@mixer("mamba2")
class Mamba2(StateSpaceMixer):
    """The mixer of Mamba-2: `heads` heads, in `expand` times the width, with one decay for each head and token.

    heads: None for heads of 64 channels, or a single one in narrower models. groups: groups of heads, of which each
    shares the vectors B and C and is normalized together, with the norm_eps of the block. state: size of B and C. conv,
    bias, conv_bias, act: as in `Mamba`. The scan is computed in float32 or float64. Models that are not
    causal compute the mean over both directions, with shared parameters.
    Source: https://arxiv.org/abs/2405.21060.
    """

    no_weight_decay = ("A_log", "D", "dt_bias")  # as published

    def __init__(
        self,
        spec: MixerConfig,
        state: int = 128,
        conv: int = 4,
        expand: float = 2,
        heads: int | None = None,
        groups: int = 1,
        bias: bool = False,
        conv_bias: bool = True,
        act: str = "silu",
    ) -> None:
        super().__init__(spec)
        self.inner, self.state, self.groups = int(expand * spec.width), state, groups
        self.heads = max(self.inner // 64, 1) if heads is None else heads
        check_positive(state=state, conv=conv, expand=self.inner, heads=self.heads, groups=groups)
        if self.inner % self.heads or self.heads % groups:
            raise ValueError(
                f"mixer 'mamba2': its {self.inner} channels must be divisible by heads={self.heads}, and these by "
                f"groups={groups}: set heads= and groups= to divisors"
            )
        self.act = activation(act)
        mixed = self.inner + 2 * groups * state
        self.in_proj = nn.Linear(spec.width, self.inner + mixed + self.heads, bias=bias)
        self.conv = nn.Conv1d(mixed, mixed, conv, groups=mixed, bias=conv_bias)
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.empty(self.heads))
        self.norm = GatedRMSNorm(self.inner, groups, spec.block.norm_eps)
        self.out_proj = nn.Linear(self.inner, spec.width, bias=bias)

    def initialize(self, generator_for: Initializer) -> None:
        self.dt_bias.copy_(time_step_bias(self.heads, 1e-3, 0.1, generator_for("dt_bias")))
        self.A_log.copy_(torch.empty(self.heads).uniform_(1, 16, generator=generator_for("A_log")).log())
        nn.init.ones_(self.D)

    def mix(self, rows: Tensor, state: Any) -> Tensor:
        """One direction; state: a RecurrentState with the inputs of the convolution and the states of the heads."""
        shared = self.groups * self.state
        z, x, dt = rows.split([self.inner, self.inner + 2 * shared, self.heads], -1)
        x, past = causal_conv(self.conv, x, None if state is None else state["conv"])
        dtype = torch.promote_types(x.dtype, torch.float32)
        x, B, C = self.act(x).to(dtype).split([self.inner, shared, shared], -1)
        dt = F.softplus(dt.to(dtype) + self.dt_bias.to(dtype))
        A = -self.A_log.to(dtype).exp()
        x = x.unflatten(-1, (self.heads, -1))
        B, C = (t.unflatten(-1, (self.groups, -1)) for t in (B, C))
        with torch.autocast(x.device.type, enabled=False):
            y, last = chunked_scan(dt, x, A, B, C, None if state is None else state["ssm"])
        if state is not None:
            state.update(conv=past, ssm=last)
        y = torch.addcmul(y, x, self.D.to(dtype)[:, None]).flatten(-2)
        return self.norm(y, F.silu(z))

    def new_state(self, batch: int, capacity: int, like: Tensor) -> State:
        conv = like.new_zeros(batch, self.conv.kernel_size[0] - 1, self.inner + 2 * self.groups * self.state)
        dtype = torch.promote_types(like.dtype, torch.float32)
        shape = (batch, self.heads, self.inner // self.heads, self.state)
        return RecurrentState(conv=conv, ssm=like.new_zeros(shape, dtype=dtype))
