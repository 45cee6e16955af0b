"""RWKV-4 (Peng et al. 2023): time mixing, which replaces attention, and channel mixing, which replaces the MLP."""

import math

import torch
from torch import Tensor, nn

from zoo.nn.context import Context
from zoo.nn.init import Initializer
from zoo.nn.kv_cache import LayerState, RecurrentState
from zoo.nn.mixers.base import Mixer, MixerConfig, mixer
from zoo.nn.mixers.recurrences import (
    float32,
    kept_tokens,
    linear_recurrence,
    previous_tokens,
    running_max,
)

LOWEST = -1e30  # in place of -inf, whose differences are NaN

Sums = tuple[Tensor, Tensor]  # top [B, N, A], sums [B, N, 2, A]: the numerator and denominator are exp(top) * sums


@mixer("rwkv4")
class RWKV4(Mixer):
    """Time mixing of RWKV-4: per channel, an average of the values of all tokens so far with the weights
    exp(k_s - (t - 1 - s) w), and exp(u + k_t) for the token itself, times a gate sigmoid(r).

    k, v and r are of each token mixed with the one before it. All sums are relative to their greatest term so far, so
    that no k and no decay overflows. In a model that is not causal the later tokens have their part in the average,
    too, with the decay of their distance (as in Vision-RWKV, Duan et al. 2024); the token shift stays as it is.
    """

    masks_padding = True

    def __init__(self, spec: MixerConfig) -> None:
        super().__init__(spec)
        inner = spec.heads * (spec.block.head_dim or spec.width // spec.heads)
        self.decay, self.bonus = (nn.Parameter(torch.empty(inner)) for _ in range(2))  # w = exp(decay), u
        self.mix_k, self.mix_v, self.mix_r = (nn.Parameter(torch.empty(spec.width)) for _ in range(3))
        self.k, self.v, self.r = (nn.Linear(spec.width, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, spec.width, bias=False)

    def initialize(self, generator_for: Initializer) -> None:
        """Decays from slow to fast over the channels, and more of the present token in later layers."""
        late, rest = layer_ratios(self.spec)
        inner, ramp = len(self.decay), channel_ramp(self.mix_k)
        channels = torch.arange(inner, device=self.decay.device)
        self.decay.copy_(-5 + 8 * (channels / max(inner - 1, 1)) ** (0.7 + 1.3 * late))
        self.bonus.copy_(math.log(0.3) + 0.5 * ((channels + 1) % 3 - 1))
        self.mix_k.copy_(ramp**rest)
        self.mix_v.copy_(ramp**rest + 0.3 * late)
        self.mix_r.copy_(ramp ** (0.5 * rest))

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """x [B, N, D] -> [B, N, D]."""
        keep, cache = kept_tokens(context, x.shape[1]), None if state is None else state.mixer
        assert cache is None or isinstance(cache, RecurrentState)
        before, last = previous_tokens(x, None if cache is None else cache["x"], keep)
        k, v, r = (
            f(torch.lerp(before, x, mix.to(x.dtype)))
            for f, mix in ((self.k, self.mix_k), (self.v, self.mix_v), (self.r, self.mix_r))
        )
        key, value = float32(k), float32(v)
        decay, bonus = self.decay.to(key.dtype).exp(), self.bonus.to(key.dtype)
        start = empty_sums(key) if cache is None else (cache["top"][:, None], cache["sums"][:, None])
        past, end = past_sums(key, value, decay, start, keep)
        parts = [past, (key + bonus, torch.stack([value, torch.ones_like(value)], 2))]
        if cache is not None:
            cache.update(x=last, top=end[0][:, 0], sums=end[1][:, 0])
        if not self.spec.causal:
            later, _ = past_sums(key.flip(1), value.flip(1), decay, start, None if keep is None else keep.flip(1))
            parts.append((later[0].flip(1), later[1].flip(1)))
        return self.out(r.sigmoid() * weighted_average(parts).to(r.dtype))

    def new_state(self, batch: int, capacity: int, like: Tensor) -> RecurrentState:
        top, sums = empty_sums(float32(like.new_zeros(batch, 1, len(self.decay))))
        return RecurrentState(x=like.new_zeros(batch, self.spec.width), top=top[:, 0], sums=sums[:, 0])


class ChannelMixing(nn.Module):
    """Channel mixing of RWKV-4: sigmoid(r(x)) * down(relu(up(x))^2), of each token mixed with the one before it.

    A block calls it with its context and state, as it does a mixer.
    """

    shifts_tokens = True

    def __init__(self, spec: MixerConfig, hidden: int) -> None:
        super().__init__()
        self.spec = spec
        self.mix_up, self.mix_r = (nn.Parameter(torch.empty(spec.width)) for _ in range(2))
        self.up = nn.Linear(spec.width, hidden, bias=False)
        self.r = nn.Linear(spec.width, spec.width, bias=False)
        self.down = nn.Linear(hidden, spec.width, bias=False)

    def initialize(self, generator_for: Initializer) -> None:
        mix = channel_ramp(self.mix_up) ** layer_ratios(self.spec)[1]
        self.mix_up.copy_(mix)
        self.mix_r.copy_(mix)

    def forward(self, x: Tensor, context: Context, state: RecurrentState | None = None) -> Tensor:
        """x [B, N, D] -> [B, N, D]; rows packed without padding have the shape [1, T, D]."""
        before, last = previous_tokens(x, None if state is None else state["x"], kept_tokens(context, x.shape[1]))
        if state is not None:
            state.update(x=last)
        if context.groups is not None:
            before = before.masked_fill((context.groups.positions == 0)[:, None], 0.0)
        up, r = (torch.lerp(before, x, mix.to(x.dtype)) for mix in (self.mix_up, self.mix_r))
        return self.r(r).sigmoid() * self.down(self.up(up).relu().square())

    def new_state(self, batch: int, like: Tensor) -> RecurrentState:
        return RecurrentState(x=like.new_zeros(batch, self.spec.width))


def layer_ratios(spec: MixerConfig) -> tuple[float, float]:
    """(0 in the first layer to 1 in the last, 1 in the first to almost 0 in the last)."""
    return spec.layer / max(spec.depth - 1, 1), 1 - spec.layer / spec.depth


def channel_ramp(like: Tensor) -> Tensor:
    """0, 1/D, 2/D, ..."""
    return torch.arange(len(like), device=like.device) / len(like)


def empty_sums(like: Tensor) -> Sums:
    """The sums of no tokens; like [B, N, A]."""
    return torch.full_like(like[:, :1], LOWEST, dtype=torch.float64), torch.zeros_like(
        like[:, :1, None].expand(-1, -1, 2, -1)
    )


def past_sums(k: Tensor, v: Tensor, decay: Tensor, start: Sums, keep: Tensor | None) -> tuple[Sums, Sums]:
    """(the sums over the tokens before each one, those after the last token), relative to their greatest terms.

    k, v [B, N, A]; decay [A]: what each step subtracts from the exponents. keep [B, N] is True at real tokens.
    """
    steps = torch.ones_like(k[:1, :, :1]) if keep is None else keep[..., None].to(k.dtype)
    shown = k if keep is None else k.masked_fill(~keep[..., None], -torch.inf)
    with torch.no_grad():  # the average does not depend on what its sums are relative to
        # in float64: a slow decay is lost in the digits of a large k, and that at each step
        moved = torch.cat([torch.zeros_like(steps[:, :1]), steps.cumsum(1)], 1).double() * decay  # B N+1 A
        top = running_max(torch.cat([start[0], shown], 1) + moved) - moved
        lowered, end = (top[:, :-1] - top[:, 1:]).to(k.dtype), top[:, -1:]
        top = top.to(k.dtype)
        before, after = top[:, :-1], top[:, 1:]
    gates, weights = (lowered - steps * decay).exp(), (shown - after).exp()
    sums = linear_recurrence(gates[:, :, None], torch.stack([weights * v, weights], 2), start[1][:, 0])
    past = torch.cat([start[1], sums[:, :-1]], 1)
    return (before, past), (end, sums[:, -1:])


def weighted_average(parts: list[Sums]) -> Tensor:
    """The numerators of all parts divided by their denominators [B, N, A]."""
    top = torch.stack([top for top, _ in parts]).amax(0).detach()
    total = sum(sums * (own - top).exp()[:, :, None] for own, sums in parts)
    assert isinstance(total, Tensor)
    return total[:, :, 0] / total[:, :, 1]
