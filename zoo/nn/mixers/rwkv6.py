"""RWKV-6 (Finch, Peng et al. 2024): linear attention whose sums decay by a factor of each channel and token."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.context import Context
from zoo.nn.core import check_positive
from zoo.nn.exporting import any_length, each_token
from zoo.nn.init import Initializer, uniform_
from zoo.nn.kv_cache import LayerState, RecurrentState
from zoo.nn.linear_chunks import chunks
from zoo.nn.mixers.base import Mixer, MixerConfig, mixer
from zoo.nn.mixers.recurrences import (
    chunk_states,
    float32,
    kept_tokens,
    previous_tokens,
    sums_after,
    sums_before,
)
from zoo.nn.mixers.rwkv4 import channel_ramp, layer_ratios

CHUNK = 32
FASTEST = 20.0  # exp(-exp(20)) is 0 in any dtype, and exp(20) is not infinite
SHIFTED = 5  # w, k, v, r and the gate are each of another mixture of a token with the one before


@mixer("rwkv6")
class RWKV6(Mixer):
    """Time mixing of RWKV-6: y_t = r_t (S_{t-1} + diag(u) k_t^T v_t) and S_t = diag(w_t) S_{t-1} + k_t^T v_t in each
    head, with w_t = exp(-exp(d_t)) from the token, a norm of each head and a gate silu(x W).

    Training computes chunks of tokens by products of matrices, with decays at most 1, decoding keeps one matrix per
    head. In a model that is not causal, tokens also see the later ones, by the product of the decays in between.
    shift_rank, decay_rank: of the two low-rank maps from a token to its mixtures and to its decay.
    """

    masks_padding = True

    def __init__(self, spec: MixerConfig, shift_rank: int = 32, decay_rank: int = 64) -> None:
        super().__init__(spec)
        check_positive(shift_rank=shift_rank, decay_rank=decay_rank)
        self.heads, width = spec.heads, spec.width
        inner = spec.heads * (spec.block.head_dim or width // spec.heads)
        self.mix_x = nn.Parameter(torch.empty(width))
        self.mix = nn.Parameter(torch.empty(SHIFTED, width))
        self.mix_down = nn.Linear(width, SHIFTED * shift_rank, bias=False)
        self.mix_up = nn.Parameter(torch.empty(SHIFTED, shift_rank, width))
        self.decay, self.bonus = (nn.Parameter(torch.empty(inner)) for _ in range(2))
        self.decay_down = nn.Linear(width, decay_rank, bias=False)
        self.decay_up = nn.Linear(decay_rank, inner, bias=False)
        self.k, self.v, self.r, self.gate = (nn.Linear(width, inner, bias=False) for _ in range(4))
        self.norm = nn.GroupNorm(self.heads, inner, eps=64e-5)
        self.out = nn.Linear(inner, width, bias=False)

    def initialize(self, generator_for: Initializer) -> None:
        """Decays from slow to fast over the channels, and more of the present token in later layers."""
        late, rest = layer_ratios(self.spec)
        inner, ramp = len(self.decay), channel_ramp(self.mix_x)
        channels = torch.arange(inner, device=self.decay.device)
        ramp_of = channels / max(inner - 1, 1)
        self.decay.copy_(-6 + 5 * ramp_of ** (0.7 + 1.3 * late))
        self.bonus.copy_(late * (1 - ramp_of) + 0.1 * ((channels + 1) % 3 - 1))
        self.mix_x.copy_(1 - ramp**rest)
        self.mix.copy_(1 - ramp**rest)
        self.mix[2].sub_(0.3 * late)  # v
        self.mix[3:].copy_(1 - ramp ** (0.5 * rest))  # r and the gate
        uniform_(self.mix_up, 0.01, generator_for("mix_up"))

    def mixtures(self, x: Tensor, before: Tensor) -> list[Tensor]:
        """The inputs of w, k, v, r and the gate, [B, N, D] each: x and the token before in proportions from both."""
        change = before - x
        low = self.mix_down(x + change * self.mix_x.to(x.dtype)).tanh().unflatten(-1, (SHIFTED, -1))
        shares = torch.einsum("bnsr,srd->sbnd", low, self.mix_up.to(low.dtype)) + self.mix[:, None, None].to(x.dtype)
        return [x + change * share for share in shares.to(x.dtype)]

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """x [B, N, D] -> [B, N, D]."""
        keep, cache = kept_tokens(context, x.shape[1]), None if state is None else state.mixer
        assert cache is None or isinstance(cache, RecurrentState)
        before, last = previous_tokens(x, None if cache is None else cache["x"], keep)
        w, k, v, r, gate = self.mixtures(x, before)
        k, v, r = self.k(k), self.v(v), self.r(r)
        d = float32(self.decay.to(k.dtype) + self.decay_up(self.decay_down(w).tanh()))
        d = -d.clamp(max=FASTEST).exp()
        k, v, r, d = (float32(t).unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (k, v, r, d))  # B H N P
        own = (r * self.bonus.to(r.dtype).unflatten(0, (self.heads, 1, -1)) * k).sum(-1, keepdim=True) * v
        if keep is not None:
            k, d = (t * keep[:, None, :, None] for t in (k, d))
        start = k.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1]) if cache is None else cache["sums"]
        y, end = gated_attention(r, k, v, d, start)
        if cache is not None:
            cache.update(x=last, sums=end)
        if not self.spec.causal:
            later, _ = gated_attention(r.flip(2), k.flip(2), v.flip(2), d.flip(2), start)
            y = y + later.flip(2)
        y = (y + own).transpose(1, 2).flatten(2).to(x.dtype)
        return self.out(self.norm(y.flatten(0, 1)).view_as(y) * F.silu(self.gate(gate)))

    def new_state(self, batch: int, capacity: int, like: Tensor) -> RecurrentState:
        size = len(self.decay) // self.heads
        sums = float32(like.new_zeros(batch, self.heads, size, size))
        return RecurrentState(x=like.new_zeros(batch, self.spec.width), sums=sums)


def gated_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, start: Tensor, size: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """y_t = q_t S_{t-1} with S_t = diag(exp(log_decay_t)) S_{t-1} + k_t^T v_t and S_0 = start: (y [B, H, N, V], S_N).

    q, k, log_decay (at most 0) [B, H, N, K], v [B, H, N, V], start [B, H, K, V]. size: tokens of a chunk, a power of 2.
    Each token attends to the chunks before by their sums. Within a chunk, the late half of every 2, 4, 8, ... tokens
    attends to the early half, both relative to the border between them: no factor is above 1, however fast the decay.
    """
    tokens = q.shape[2]
    if tokens == 1:
        return q @ start, torch.addcmul(k.mT @ v, log_decay.exp().mT, start)
    if any_length(tokens):
        return each_token(gated_attention, (q, k, v, log_decay), start, 2)
    size = min(size, 1 << (tokens - 1).bit_length())
    q, k, v, d = (chunks(x, size) for x in (q, k, v, log_decay))  # B H C c P
    with torch.autocast(q.device.type, enabled=False):
        sums = (k * sums_after(d).exp()).mT @ v
        before, end = chunk_states(d.sum(-2)[..., None].exp(), sums, start)
        y = (q * sums_before(d).exp()) @ before
        half = 1
        while half < size:
            late_q, early_k, early_v = (halves(x, half)[i] for x, i in ((q, 1), (k, 0), (v, 0)))
            early_d, late_d = halves(d, half)
            scores = (late_q * sums_before(late_d).exp()) @ (early_k * sums_after(early_d).exp()).mT
            part = scores @ early_v  # B H C b half V
            y = y + torch.stack([torch.zeros_like(part), part], 4).flatten(3, 5)
            half *= 2
    return y.flatten(2, 3)[:, :, :tokens], end


def halves(x: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """[B, H, C, c, P] -> the early and the late half of every 2 * half tokens, each [B, H, C, b, half, P]."""
    early, late = x.unflatten(3, (-1, 2, half)).unbind(4)
    return early, late
