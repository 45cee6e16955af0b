"""The selective scan of Mamba: h_t = exp(dt_t A) h_(t-1) + v_t B_t and y_t = C_t . h_t, A of each channel and state.

Tokens are computed in segments. A segment is cut into blocks: their tokens are scanned for all blocks at once, then
the state is carried from block to block, so that the number of steps grows like the square root of the segment. All
factors are products of exp(dt A) <= 1: nothing is divided by them, so no time step is too large. Only the states
between segments are kept for the backward pass, which computes the others again.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.nn.exporting import any_length, each_token

SEGMENT = 32  # tokens whose states, [B, SEGMENT, S, E], are in memory at once
MAX_SEGMENTS = 64  # for long rows the segments grow, so that the graph of a compiled model does not


def segment_sizes(tokens: int) -> tuple[int, int]:
    """(tokens of a block, tokens of a segment) for rows of so many tokens."""
    segment = max(SEGMENT, -(-tokens // MAX_SEGMENTS))
    block = 1 << (segment.bit_length() // 2)
    return block, -(-segment // block) * block


def scan_(decay: Tensor, value: Tensor, state: Tensor, block: int, reverse: bool = False) -> None:
    """In place: value_t += decay_t * value_(t-1), from `state` [B, S, E] on; or value_(t+1) with `reverse`.

    decay, value: [B, T, S, E], where `block` divides T. `decay` becomes its products within the blocks.
    """
    decay, value = decay.unflatten(1, (-1, block)), value.unflatten(1, (-1, block))
    blocks, last = list(range(value.shape[1])), block - 1
    for i in range(1, block):
        t, before = (last - i, last - i + 1) if reverse else (i, i - 1)
        value[:, :, t].addcmul_(decay[:, :, t], value[:, :, before])
        decay[:, :, t].mul_(decay[:, :, before])
    for j in reversed(blocks) if reverse else blocks:
        value[:, j].addcmul_(decay[:, j], state[:, None])
        state = value[:, j, 0 if reverse else last]


def states(
    dt: Tensor, v: Tensor, A: Tensor, B: Tensor, start: Tensor, block: int, decays: bool = True
) -> tuple[Tensor, Tensor]:
    """(states [B, T, S, E], decays exp(dt A) of the same shape) of a segment. decays: whether the second is used, which
    takes a copy."""
    decay = (dt[:, :, None] * A).exp_()
    h = v[:, :, None] * B[..., None]
    scan_(decay.clone() if decays else decay, h, start, block)
    return h, decay


class SelectiveScan(torch.autograd.Function):
    """The scan over segments; see `selective_scan` for the arguments, whose number of tokens a block divides."""

    @staticmethod
    def forward(
        ctx: Any, dt: Tensor, v: Tensor, A: Tensor, B: Tensor, C: Tensor, start: Tensor, block: int, segment: int
    ) -> tuple[Tensor, Tensor]:
        outputs, starts = [], [start]
        for dt_, v_, B_, C_ in zip(*(t.split(segment, 1) for t in (dt, v, B, C)), strict=True):
            h, _ = states(dt_, v_, A, B_, starts[-1], block, decays=False)
            outputs.append((C_[:, :, None] @ h)[:, :, 0])
            starts.append(h[:, -1].clone())
        ctx.save_for_backward(dt, v, A, B, C, torch.stack(starts[:-1]))
        ctx.block, ctx.segment = block, segment
        return torch.cat(outputs, 1), starts[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        dt, v, A, B, C, starts = ctx.saved_tensors
        parts: list[tuple[Tensor, ...]] = []
        grad_A, carry = torch.zeros_like(A), grad_last
        segments = list(zip(*(t.split(ctx.segment, 1) for t in (dt, v, B, C, grad)), starts, strict=True))
        for dt_, v_, B_, C_, grad_, start in reversed(segments):
            h, decay = states(dt_, v_, A, B_, start, ctx.block)
            g = C_[..., None] * grad_[:, :, None]  # the gradient of h_t, of which y_t and h_(t+1) are computed
            later = torch.cat([decay[:, 1:], torch.ones_like(decay[:, :1])], 1)
            scan_(later, g, carry, ctx.block, reverse=True)
            grad_C = (h @ grad_[..., None])[..., 0]
            grad_B = (g @ v_[..., None])[..., 0]
            grad_v = (B_[:, :, None] @ g)[:, :, 0]
            g.mul_(decay)  # the gradient of h_(t-1)
            carry = g[:, 0].clone()
            g[:, 1:].mul_(h[:, :-1])
            g[:, 0].mul_(start)  # now that of dt_t A
            grad_A += (g * dt_[:, :, None]).sum((0, 1))
            parts.append(((g * A).sum(2), grad_v, grad_B, grad_C))
        grad_dt, grad_v, grad_B, grad_C = (torch.cat(part, 1) for part in zip(*reversed(parts), strict=True))
        return grad_dt, grad_v, grad_A, grad_B, grad_C, carry, None, None


def selective_scan(
    dt: Tensor, v: Tensor, A: Tensor, B: Tensor, C: Tensor, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(y [B, N, E], the state after the last token [B, S, E]).

    dt, v: [B, N, E], dt >= 0. A: [S, E], at most 0. B, C: [B, N, S]. start: the state before the first token,
    [B, S, E], zeros if omitted. All in one dtype, float32 or float64.
    Source: Gu and Dao 2023, https://arxiv.org/abs/2312.00752, section 3.
    """
    n = dt.shape[1]
    if start is None:
        start = dt.new_zeros(dt.shape[0], *A.shape)
    with torch.autocast(dt.device.type, enabled=False):
        if n == 1:
            return one_token(dt, v, A, B, C, start)
        if any_length(n):
            return each_token(lambda dt, v, B, C, h: one_token(dt, v, A, B, C, h), (dt, v, B, C), start, 1)
        block, segment = segment_sizes(n)
        if extra := -n % block:  # tokens with dt = 0 and v = 0 keep the state
            dt, v, B, C = (F.pad(t, (0, 0, 0, extra)) for t in (dt, v, B, C))
        y, last = SelectiveScan.apply(dt, v, A, B, C, start, block, segment)
        return y[:, :n], last


def one_token(dt: Tensor, v: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """`selective_scan` for one token."""
    h = torch.addcmul(v[:, 0, None] * B[:, 0, :, None], (dt[:, 0, None] * A).exp(), state)
    return C[:, 0, None] @ h, h
