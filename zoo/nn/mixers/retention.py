"""Multi-scale retention (Sun et al. 2023, RetNet): linear attention whose sums decay at a rate of each head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.context import Context
from zoo.nn.core import check_positive
from zoo.nn.exporting import any_length
from zoo.nn.kv_cache import LayerState, RecurrentState
from zoo.nn.linear_chunks import chunks
from zoo.nn.mixers.base import Mixer, MixerConfig, mixer
from zoo.nn.mixers.recurrences import chunk_states, decay_sums, float32, kept_tokens
from zoo.nn.rotary import Rotary


@mixer("retention")
class Retention(Mixer):
    """Multi-scale retention: y_t = sum over s <= t of gamma^(t - s) (q_t . k_s) v_s, with gamma = 1 - 2^(-5 - h) in
    head h, rotated q and k, an RMS norm of each head without weights, and a gate silu(x W).

    Training computes chunks of tokens by products of matrices, decoding keeps one matrix per head: the sums of k v^T.
    In a model that is not causal, tokens also see the later ones, with the factor gamma^|t - s| (Fan et al. 2024, RMT).
    value_dim: width of the values and of the gate (None: that of the queries; in the paper 2 * width). chunk: tokens of
    a chunk. eps: of the norm of the heads.
    """

    masks_padding = True

    def __init__(self, spec: MixerConfig, value_dim: int | None = None, chunk: int = 64, eps: float = 1e-6) -> None:
        super().__init__(spec)
        self.heads, self.head_dim = spec.heads, spec.block.head_dim or spec.width // spec.heads
        inner = self.heads * self.head_dim
        value_dim = inner if value_dim is None else value_dim
        check_positive(value_dim=value_dim, chunk=chunk)
        if self.head_dim % 2:
            raise ValueError(
                f"retention rotates pairs of channels, and heads have {self.head_dim}: choose heads= or head_dim= so "
                "that the size of a head is even"
            )
        if value_dim % self.heads:
            raise ValueError(f"value_dim={value_dim} is not divisible by heads={self.heads}: choose a multiple")
        if not eps > 0:
            raise ValueError(f"retention: eps={eps}: expected more than 0")
        self.chunk, self.eps = chunk, eps
        self.q, self.k = (nn.Linear(spec.width, inner, bias=False) for _ in range(2))
        self.v, self.gate = (nn.Linear(spec.width, value_dim, bias=False) for _ in range(2))
        self.out = nn.Linear(value_dim, spec.width, bias=False)

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """x [B, N, D] -> [B, N, D]."""
        keep, cache = kept_tokens(context, x.shape[1]), None if state is None else state.mixer
        assert cache is None or isinstance(cache, RecurrentState)
        q, k, v = (float32(f(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        real = torch.ones_like(x[:1, :, 0], dtype=torch.bool) if keep is None else keep
        position = real.long().cumsum(1)  # 1, 2, ... at real tokens
        position = position if cache is None else position + cache["position"][:, None]
        rotate = self.rotation(position, q)
        q, k = rotate(q), rotate(k) * self.head_dim**-0.5
        if keep is not None:
            k = k * keep[:, None, :, None]
        decay = self.log_decay(q)[:, None] * real[:, None].to(q.dtype)  # B H N
        start = q.new_zeros(*q.shape[:2], self.head_dim, v.shape[-1]) if cache is None else cache["sums"]
        y, sums = decayed_attention(q, k, v, decay, start, self.chunk)
        if cache is not None:
            cache.update(sums=sums, position=position[:, -1].expand(len(x)))
        if not self.spec.causal:
            # the decay between two tokens is that of the steps in between, whichever of them is the query
            steps = torch.cat([torch.zeros_like(decay[..., :1]), decay.flip(2)[..., :-1]], -1)
            later, _ = decayed_attention(q.flip(2), k.flip(2), v.flip(2), steps, start, self.chunk)
            y = y + later.flip(2) - (q * k).sum(-1, keepdim=True) * v  # each token once
        y = (y * (y.square().mean(-1, keepdim=True) + self.eps).rsqrt()).to(x.dtype)
        return self.out(F.silu(self.gate(x)) * y.transpose(1, 2).flatten(2))

    def log_decay(self, like: Tensor) -> Tensor:
        """log(1 - 2^(-5 - h)) of each head [H]."""
        return torch.log1p(-torch.exp2(-5 - torch.arange(self.heads, dtype=like.dtype, device=like.device)))

    def rotation(self, positions: Tensor, like: Tensor) -> Rotary:
        """The rotation of q and k at positions [B, N], by angles 10000^(-i / (P/2 - 1)) of the P/2 pairs."""
        pairs = torch.linspace(0, 1, self.head_dim // 2, dtype=torch.float64, device=like.device)
        angle = (positions[..., None] * 10000.0**-pairs).repeat_interleave(2, -1)[:, None]  # float64: B 1 N P
        return Rotary(angle.cos().to(like.dtype), angle.sin().to(like.dtype), interleaved=True)

    def new_state(self, batch: int, capacity: int, like: Tensor) -> RecurrentState:
        sums = float32(like.new_zeros(batch, self.heads, self.head_dim, self.v.out_features // self.heads))
        return RecurrentState(sums=sums, position=like.new_zeros(batch, dtype=torch.long))

    def extra_repr(self) -> str:
        return f"heads={self.heads}, chunk={self.chunk}"


def decayed_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, start: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """y_t = q_t S_t with S_t = exp(log_decay_t) S_{t-1} + k_t^T v_t and S_0 = start: (y [B, H, N, V], S_N).

    q, k [B, H, N, K], v [B, H, N, V], log_decay [B or 1, H, N] (at most 0), start [B, H, K, V]. size: tokens of a
    chunk, within which the products are those of attention. One chunk is the parallel form, chunks of one token are
    the recurrent form.
    """
    tokens = q.shape[2]
    size = tokens if any_length(tokens) else min(size, tokens)
    q, k, v, decay = chunks(q, size), chunks(k, size), chunks(v, size), chunks(log_decay[..., None], size)
    total = decay.cumsum(3)  # B H C c 1
    if any_length(tokens):  # as one chunk, for whose length differences would not be exact enough
        between = decay_sums(decay[..., 0])
    else:
        between = (total - total.mT).masked_fill(torch.ones(size, size, device=q.device).triu(1).bool(), -torch.inf)
    with torch.autocast(q.device.type, enabled=False):
        sums = (k * (total[..., -1:, :] - total).exp()).mT @ v
        before, end = chunk_states(total[..., -1:, :].exp(), sums, start)
        y = (q @ k.mT * between.exp()) @ v + (q * total.exp()) @ before
    return y.flatten(2, 3)[:, :, :tokens], end
