"""Recurrences over the tokens of a row, computed for many tokens at once, and what mixers with a recurrence share.

None of these loops over the tokens: linear recurrences take blocks of about sqrt(N) tokens, all blocks side by side,
and matrix states take chunks of a fixed number of tokens.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nn.context import Context
from zoo.nn.exporting import any_length, each_token
from zoo.nn.masks import MaskView


def kept_tokens(context: Context, tokens: int) -> Tensor | None:
    """[B, N], True at the real ones among the new tokens; None where all are real."""
    mask = context.mask
    return mask.keep[:, -tokens:].bool() if isinstance(mask, MaskView) and mask.keep is not None else None


def previous_tokens(x: Tensor, last: Tensor | None, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(the real token before each one [B, N, D], the last real one [B, D]); zeros before the first of a text.

    x [B, N, D]; last [B, D]: the token before x. keep [B, N]: True at real tokens.
    """
    last = x.new_zeros(x.shape[0], x.shape[2]) if last is None else last.to(x.dtype)
    extended = torch.cat([last[:, None], x], 1)
    if keep is None:
        return extended[:, :-1], extended[:, -1]
    numbers = torch.arange(1, x.shape[1] + 1, device=x.device)
    latest = F.pad(running_max(numbers * keep), (1, 0))  # B N+1: the last real token up to each
    found = extended.gather(1, latest[..., None].expand_as(extended))
    return found[:, :-1], found[:, -1]


def linear_recurrence(gates: Tensor, inputs: Tensor, start: Tensor) -> Tensor:
    """h_t = gates_t * h_{t-1} + inputs_t for t = 1 ... N, with h_0 = start.

    inputs [B, N, ...], gates [B, N, ...] (may broadcast over the later dimensions) between 0 and 1, start [B, ...].
    """
    if torch.is_grad_enabled():
        h: Tensor = _LinearRecurrence.apply(gates, inputs, start)
        return h
    return scan(gates, inputs, start)


class _LinearRecurrence(torch.autograd.Function):
    """Its backward pass is the same recurrence from the last token to the first, so that only h is stored."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, inputs: Tensor, start: Tensor) -> Tensor:
        h = scan(gates, inputs, start)
        ctx.save_for_backward(gates, h, start)
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gates, h, start = ctx.saved_tensors
        later = torch.cat([gates[:, 1:], torch.zeros_like(gates[:, :1])], 1)
        grad = scan(later.flip(1), grad.flip(1), torch.zeros_like(start)).flip(1)
        before = torch.cat([start[:, None], h[:, :-1]], 1)
        return (grad * before).sum_to_size(gates.shape), grad, gates[:, 0] * grad[:, 0]


def scan(gates: Tensor, inputs: Tensor, start: Tensor) -> Tensor:
    """`linear_recurrence` without its gradient: in blocks of about sqrt(N) tokens, then from block to block."""
    tokens = inputs.shape[1]
    if tokens == 1:
        return gates * start[:, None] + inputs
    if any_length(tokens):
        return each_token(_one_token, (gates.expand_as(inputs), inputs), start, 1)[0]
    size = math.isqrt(tokens)
    tail = (0, 0) * (inputs.ndim - 2) + (0, -tokens % size)
    steps_x = F.pad(inputs, tail).unflatten(1, (-1, size)).unbind(2)  # each [B, C, ...]
    steps_g = F.pad(gates, tail).unflatten(1, (-1, size)).unbind(2)
    h, decay = steps_x[0], steps_g[0]
    all_h, all_decays = [h], [decay]
    for g, x in zip(steps_g[1:], steps_x[1:], strict=True):
        h, decay = torch.addcmul(x, g, h), g * decay
        all_h.append(h)
        all_decays.append(decay)
    state, before = start, []
    for end, product in zip(h.unbind(1), decay.unbind(1), strict=True):
        before.append(state)
        state = torch.addcmul(end, product, state)
    y = torch.addcmul(torch.stack(all_h, 2), torch.stack(all_decays, 2), torch.stack(before, 1)[:, :, None])
    return y.flatten(1, 2)[:, :tokens]


def _one_token(gate: Tensor, x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    h = scan(gate, x, start)
    return h, h[:, 0]


def running_max(x: Tensor) -> Tensor:
    """x [B, N, ...] -> the greatest value up to each token; not with a gradient."""
    if not any_length(x.shape[1]):
        return x.cummax(1).values
    return each_token(_greater, (x,), x[:, 0], 1)[0]


def _greater(x: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    top = torch.maximum(x[:, 0], top)
    return top[:, None], top


def decay_sums(x: Tensor) -> Tensor:
    """[..., N] -> [..., N, N]: the sum of x over the tokens after column s up to row t, -inf where s > t.

    Sums of exactly these tokens: differences of sums over all tokens would lose the digits of small ones.
    """
    n = x.shape[-1]
    later = torch.ones(n, n, dtype=torch.bool, device=x.device).tril(-1)
    sums = torch.where(later, x[..., None], 0).cumsum(-2)
    return sums.masked_fill(later.mT, -torch.inf)


def chunk_states(decays: Tensor, sums: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """(the state before each chunk [B, H, C, K, V], the state after the last): S_c = decays_c * S_{c-1} + sums_c.

    decays [B, H, C, K, 1], or 1 for B or K; sums [B, H, C, K, V], start [B, H, K, V].
    """
    state, before = start, []
    for decay, total in zip(
        decays.expand(*decays.shape[:2], sums.shape[2], -1, -1).unbind(2), sums.unbind(2), strict=True
    ):
        before.append(state)
        state = torch.addcmul(total, decay, state)
    return torch.stack(before, 2), state


def sums_before(x: Tensor) -> Tensor:
    """[..., N, P] -> [..., N, P]: the sum of the tokens before each one, zero for the first."""
    return F.pad(x[..., :-1, :], (0, 0, 1, 0)).cumsum(-2)


def sums_after(x: Tensor) -> Tensor:
    """[..., N, P] -> [..., N, P]: the sum of the tokens after each one, zero for the last."""
    return sums_before(x.flip(-2)).flip(-2)


def float32(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is: sums over a sequence are not computed in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
