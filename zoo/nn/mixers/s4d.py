"""S4D: a diagonal state space that is the same for all tokens, so that a row is one convolution (Gu et al. 2022)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.context import Context
from zoo.nn.core import check_positive
from zoo.nn.exporting import any_length, each_token
from zoo.nn.init import Initializer, normal_
from zoo.nn.kv_cache import LayerState, RecurrentState, State
from zoo.nn.mixers.base import Mixer, MixerConfig, mixer
from zoo.nn.mixers.directions import padding_behind
from zoo.nn.mixers.recurrences import kept_tokens

MIN_STEP, MAX_STEP = 1e-3, 0.1  # of the time steps at the start


def powers(log: Tensor, count: int) -> Tensor:
    """exp(log * t) for t = 0 ... count - 1: [..., S] -> [..., S, count]."""
    return (log[..., None] * torch.arange(count, device=log.device)).exp()


@mixer("s4d")
class S4D(Mixer):
    """S4D-Lin: h_t = exp(dt A) h_(t-1) + B x_t and y_t = 2 Re(C h_t) + D x_t in each channel, GELU, a gated projection.

    state: number of complex states of each channel, conjugate pairs counted once. A = -1/2 + i pi n at the start, and B
    is that of a zero-order hold. Rows are convolved by FFT, in N log N; decoding is the recurrence. Models that are not
    causal have a second kernel, for the tokens after, with its own C. Computed in float32 or float64.
    Source: https://arxiv.org/abs/2206.11893; layer as in github.com/state-spaces/s4, s4d.py.
    """

    no_weight_decay = ("log_dt", "A_log", "A_imag", "D")  # as published

    def __init__(self, spec: MixerConfig, state: int = 32) -> None:
        super().__init__(spec)
        check_positive(state=state)
        self.masks_padding = not spec.causal  # causal rows arrive with their padding behind the real tokens
        width, self.state = spec.width, state
        self.log_dt = nn.Parameter(torch.empty(width))
        self.A_log = nn.Parameter(torch.empty(width, state))  # log(-real part)
        self.A_imag = nn.Parameter(torch.empty(width, state))
        self.C = nn.Parameter(torch.empty(1 if spec.causal else 2, width, state, 2))  # real and imaginary parts
        self.D = nn.Parameter(torch.empty(width))
        self.out_proj = nn.Linear(width, 2 * width)

    def initialize(self, generator_for: Initializer) -> None:
        exponent = torch.empty(self.log_dt.shape).uniform_(generator=generator_for("log_dt"))
        self.log_dt.copy_(math.log(MIN_STEP) + exponent * math.log(MAX_STEP / MIN_STEP))
        nn.init.constant_(self.A_log, math.log(0.5))
        self.A_imag.copy_((math.pi * torch.arange(self.state)).expand_as(self.A_imag))
        normal_(self.C, 0.5**0.5, generator_for("C"))
        normal_(self.D, 1.0, generator_for("D"))

    def system(self) -> tuple[Tensor, Tensor]:
        """(log of the decay [D, S], C B [directions, D, S]), complex."""
        dtype = torch.promote_types(self.C.dtype, torch.float32)
        A = torch.complex(-self.A_log.to(dtype).exp(), self.A_imag.to(dtype))
        log = A * self.log_dt.to(dtype).exp()[:, None]
        C = torch.view_as_complex(self.C.to(dtype).contiguous())
        return log, C * torch.expm1(log) / A

    def kernel(self, n: int) -> Tensor:
        """The convolution kernels [directions, D, n]."""
        log, CB = self.system()
        block = max(math.isqrt(n), 1)  # powers of a product of two: memory of the square root of n
        blocks = -(-n // block)
        outer = powers(log * block, blocks).mT * CB[:, :, None]  # 2 D blocks S
        return 2 * (outer @ powers(log, block)).real.flatten(-2)[..., :n]

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """x [B, N, D] -> [B, N, D]."""
        keep = None if self.spec.causal else kept_tokens(context, x.shape[1])
        return self.mix(x, state) if keep is None else padding_behind(lambda rows: self.mix(rows, None), x, keep)

    def mix(self, x: Tensor, state: LayerState | None) -> Tensor:
        """`forward` of rows without padding, or with padding behind the real tokens."""
        with torch.autocast(x.device.type, enabled=False):
            u = x.to(torch.promote_types(x.dtype, torch.float32)).mT  # B D N
            y = self.convolve(u) if state is None else self.step(u, state.mixer)
            y = y + self.D.to(u.dtype)[:, None] * u
        return F.glu(self.out_proj(F.gelu(y).mT.to(x.dtype)), -1)

    def convolve(self, u: Tensor) -> Tensor:
        """u [B, D, N] -> [B, D, N], by FFT."""
        n = u.shape[-1]
        if any_length(n):
            y = self.recurrence(u, 0)
            later = None if self.spec.causal else self.recurrence(u.flip(-1), 1).flip(-1)
            return y if later is None else y + F.pad(later[..., 1:], (0, 1))
        kernel = self.kernel(n)
        k = F.pad(kernel[0], (0, n))
        if not self.spec.causal:
            k = k + F.pad(kernel[1].flip(-1), (n, 0))  # the tokens after, at negative distances
        return torch.fft.irfft(torch.fft.rfft(k, 2 * n) * torch.fft.rfft(u, 2 * n), 2 * n)[..., :n]

    def recurrence(self, u: Tensor, direction: int) -> Tensor:
        """The convolution of u [B, D, N] with one kernel, token by token and in real numbers, as a graph has it."""
        dt, C = self.log_dt.exp()[:, None], self.C[direction]
        real, imag = -self.A_log.exp(), self.A_imag
        size, angle = (real * dt).exp(), imag * dt
        cos, sin = size * angle.cos(), size * angle.sin()
        # exp(A dt) - 1, without the difference of two numbers close to 1
        grown = (real * dt / 2).tanh() * (size + 1) * angle.cos() - 2 * (angle / 2).sin().square()
        squared, (c, d) = real.square() + imag.square(), C.unbind(-1)
        a, b = (grown * real + sin * imag) / squared, (sin * real - grown * imag) / squared  # B is a + bi, C is c + di
        cos, sin, read = cos.mT, sin.mT, torch.cat([a * c - b * d, -a * d - b * c], 1).mT  # S D, S D, 2S D

        def step(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            real, imag = h[:, : self.state], h[:, self.state :]
            h = torch.cat([cos * real - sin * imag + x, sin * real + cos * imag], 1)
            return 2 * (h * read).sum(1, keepdim=True), h

        start = u.new_zeros(u.shape[0], 2 * self.state, u.shape[1])
        return each_token(step, (u.mT,), start, 1)[0].mT

    def step(self, u: Tensor, state: Any) -> Tensor:
        """Continue a RecurrentState by the tokens u [B, D, N]."""
        (log, CB), h, n = self.system(), state["ssm"], u.shape[-1]
        if n == 1:
            h = log.exp() * h + u
            state.update(ssm=h)
            return 2 * (CB[0] * h).sum(-1, keepdim=True).real
        y = self.convolve(u) + 2 * ((h * CB[0] * log.exp())[:, :, None] @ powers(log, n)).real[:, :, 0]
        block = max(math.isqrt(n), 1)
        blocks = F.pad(u, (-n % block, 0)).unflatten(-1, (-1, block)).to(h.dtype)  # B D blocks l
        each = blocks @ powers(log, block).flip(-1).mT  # B D blocks S: to the end of each block
        h = (log * n).exp() * h + (each * powers(log * block, each.shape[2]).flip(-1).mT).sum(2)
        state.update(ssm=h)
        return y

    def new_state(self, batch: int, capacity: int, like: Tensor) -> State:
        dtype = torch.promote_types(like.dtype, torch.float32).to_complex()
        return RecurrentState(ssm=like.new_zeros(batch, self.spec.width, self.state, dtype=dtype))
