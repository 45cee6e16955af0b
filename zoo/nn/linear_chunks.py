"""Causal sums of features in chunks, without a step for each token: y_i = sum over j <= i of (phi(q_i) . phi(k_j)) v_j.

Chunks attend to the chunks before them by a running sum of phi(k)^T v, and within a chunk by the scores of its tokens.
`causal_sums` is for plain features. `causal_exponents` is for features factor * exp(exponent), whose exponents are
shifted by running maxima, so that nothing overflows and nothing depends on later keys. `causal_decay` is for states
that decay: those are features with the sum of the log decays as their exponent.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nn.exporting import any_length, each_token, is_exporting

CHUNK = 64  # a power of 2
PADDING = 1 / 8  # of the tokens: with more padding in the last chunk, it is cut into smaller ones
SEGMENT = 1 << 20  # entries of the features of a segment: its temporaries stay in the cache of a CPU
LEAST_SEGMENT = 256  # tokens
LEAST_LOG_DECAY = -40.0  # of one token: exp(-40) is nothing, and sums of lower ones would be rounded in float32
LOWEST = -1e30  # in place of -inf, whose differences are NaN

Features = tuple[Tensor | None, Tensor]  # factor and exponent of factor * exp(exponent), [..., N, F]; None: factor 1
Sums = tuple[Tensor, Tensor]  # top [..., 1, F] and total [..., F, E]: phi(k)^T v is exp(top)^T * total


def segments(entries: int, *parts: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Tensors [B, H, N, ...] or [B, H, N], cut into segments of tokens that have about SEGMENT entries. entries: of the
    features of one token of all heads."""
    length = next(x.shape[2] for x in parts if x is not None)
    size = max(LEAST_SEGMENT, SEGMENT // max(1, entries) // CHUNK * CHUNK)
    if is_exporting() or (torch.compiler.is_compiling() and length <= size):  # a graph is for any number of tokens
        return iter((parts,))
    sizes = segment_lengths(length, size)
    if len(sizes) == 1:
        return iter((parts,))
    # split at once: the gradient of a slice is a tensor of all tokens, for each segment
    return zip(*([None] * len(sizes) if x is None else x.split(sizes, 2) for x in parts), strict=True)


def segment_lengths(length: int, size: int) -> list[int]:
    """Lengths of segments of at most `size` tokens: one token more than a chunk is not computed as two chunks."""
    lengths, rest = [size] * (length // size), length % size
    while rest:
        chunk = chunk_size(rest)
        whole = rest
        if -rest % chunk > PADDING * length:
            whole = rest // CHUNK * CHUNK or chunk // 2
        lengths.append(whole)
        rest -= whole
    return lengths


def chunk_size(length: int) -> int:
    """CHUNK, or the least power of 2 that holds fewer tokens."""
    return CHUNK if length >= CHUNK else 1 << (length - 1).bit_length()


def chunks(x: Tensor, size: int, fill: float = 0.0) -> Tensor:
    """[..., N, F] -> [..., C, size, F], padded with `fill`."""
    missing = -x.shape[-2] % size
    return (F.pad(x, (0, 0, 0, missing), value=fill) if missing else x).unflatten(-2, (-1, size))


# --- plain features ---------------------------------------------------------------------------------------------------


def causal_sums(q: Tensor, k: Tensor, v: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numerators [B, H, N, P] and denominators [B, H, N, 1] for features q and k [B, H, N, F], and the sums after them.

    start [B, H, F, P + 1]: the sums of phi(k)^T [v, 1] over earlier keys.
    """
    length = q.shape[2]
    size = length if is_exporting() else chunk_size(length)
    q, k, v = (chunks(x, size) for x in (q, k, v))
    sums = torch.cat([k.mT @ v, k.sum(-2)[..., None]], -1)  # B H C F P+1
    before = torch.cat([start[:, :, None], sums[:, :, :-1]], 2)
    lower = torch.ones(before.shape[2], before.shape[2], dtype=q.dtype, device=q.device).tril()
    before = (lower @ before.flatten(3)).view_as(before)  # cumsum(2), five times as fast
    scores = (q @ k.mT).tril()
    y = q @ before
    total = y[..., -1:] + scores.sum(-1, keepdim=True)
    y = y[..., :-1] + scores @ v
    return y.flatten(2, 3)[:, :, :length], total.flatten(2, 3)[:, :, :length], before[:, :, -1] + sums[:, :, -1]


# --- features with exponents ------------------------------------------------------------------------------------------


def value(phi: Features, shift: Tensor) -> Tensor:
    """The features times exp(shift)."""
    grown = (phi[1] + shift).exp()
    return grown if phi[0] is None else phi[0] * grown


def summarize(k: Features, v: Tensor) -> Sums:
    """The sum of phi(k)^T v over the keys."""
    top = k[1].amax(-2, keepdim=True).detach().clamp(min=LOWEST)
    return top, value(k, -top).mT @ v


def add(a: Sums, b: Sums) -> Sums:
    """The sum over the keys of both."""
    top = torch.maximum(a[0], b[0])
    return top, a[1] * (a[0] - top).exp().mT + b[1] * (b[0] - top).exp().mT


def read(q: Features, sums: Sums) -> Tensor:
    """y [..., N, E] of queries that attend to all keys of the sums, up to one factor for each query."""
    exponent = q[1] + sums[0]
    return value((q[0], exponent), -exponent.amax(-1, keepdim=True).detach()) @ sums[1]


def causal_exponents(q: Features, k: Features, v: Tensor, start: Sums) -> tuple[Tensor, Sums]:
    """y [B, H, N, E] for values v [B, H, N, E], up to one factor for each query, and the sums after the last token.

    start: the sums over earlier keys.
    """
    if any_length(v.shape[2]):
        return exponents_by_token(q, k, v, start)
    length, size = v.shape[2], chunk_size(v.shape[2])
    top = torch.maximum(k[1].detach().cummax(-2).values, start[0])  # of each feature up to each token
    exponent = q[1] - (q[1] + top).amax(-1, keepdim=True).detach()  # plus top: at most 0
    last = top[:, :, -1:]
    if missing := -length % size:  # padding sees what the last token sees
        top = torch.cat([top, last.expand(-1, -1, missing, -1)], 2)
    top = chunks(top, size)
    before = torch.cat([start[0][:, :, None], top[:, :, :-1, -1:]], 2)  # B H C 1 F
    queries = None if q[0] is None else chunks(q[0], size), chunks(exponent, size, LOWEST)
    keys = None if k[0] is None else chunks(k[0], size), chunks(k[1], size, -torch.inf)
    ends = top[..., -1:, :]
    y, end = scan_chunks(queries, keys, chunks(v, size), top, before, -ends, before - ends, start[1])
    return y.flatten(2, 3)[:, :, :length], (last, end)


def exponents_by_token(q: Features, k: Features, v: Tensor, start: Sums) -> tuple[Tensor, Sums]:
    """`causal_exponents` token by token, for features without a factor; the state has `top` as its last column."""
    if q[0] is not None or k[0] is not None:
        raise ValueError("features with a factor are computed in chunks, which a graph for any length cannot have")

    def step(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        sums = add((state[..., -1:].mT, state[..., :-1]), summarize((None, k), v))
        return read((None, q), sums), torch.cat([sums[1], sums[0].mT], -1)

    y, state = each_token(step, (q[1], k[1], v), torch.cat([start[1], start[0].mT], -1), 2)
    return y, (state[..., -1:].mT, state[..., :-1])


def causal_decay(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """y_i = q_i S_i for the states S_i = exp(log_decay_i)^T * S_(i-1) + k_i^T v_i, and the last state.

    q, k, log_decay [B, H, N, F], v [B, H, N, E], start [B, H, F, E]: the state before. log_decay is at most 0.
    """
    length, size = v.shape[2], chunk_size(v.shape[2])
    q, k, v, total = (chunks(x, size) for x in (q, k, v, log_decay))
    total = total.clamp(min=LEAST_LOG_DECAY).cumsum(-2)  # since the start of the chunk
    leave = total[..., -1:, :]
    y, end = scan_chunks((q, total), (k, -total), v, -total.detach(), torch.zeros_like(leave), leave, leave, start)
    return y.flatten(2, 3)[:, :, :length], end


def scan_chunks(
    q: Features, k: Features, v: Tensor, top: Tensor, enter: Tensor, leave: Tensor, log_decay: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs [B, H, C, c, E] of chunks of c tokens, and the state after the last.

    top [B, H, C, c, F]: upper bounds of the exponents of the keys up to each token, which never decrease. enter: what
    is added to the exponents of queries that read the state before their chunk; leave: to those of keys in the state
    after it; log_decay: of the state in each chunk. All three are [B, H, C, 1, F]. start [B, H, F, E]: the state
    before the first chunk.
    """
    sums = value(k, leave).mT @ v  # B H C F E
    states = carried(log_decay.squeeze(3), torch.cat([start[:, :, None], sums], 2))
    y = value(q, enter) @ states[:, :, :-1] + chunk_scores(q, k, top) @ v
    return y, states[:, :, -1]


def carried(log_decay: Tensor, sums: Tensor) -> Tensor:
    """States S_c = exp(log_decay_c)^T * S_(c-1) + sums_c: log_decay [B, H, C, F], sums [B, H, C + 1, F, E]."""
    count = sums.shape[2]
    if count == 2:
        later = log_decay[:, :, 0, :, None].exp() * sums[:, :, 0] + sums[:, :, 1]
        return torch.stack([sums[:, :, 0], later], 2)
    steps = F.pad(log_decay, (0, 0, 1, 0)).transpose(2, 3)[..., None].expand(-1, -1, -1, -1, count)  # B H F to from
    ones = torch.ones(count, count, dtype=torch.bool, device=sums.device)
    factor = steps.masked_fill(ones.triu(), 0.0).cumsum(3).masked_fill(ones.triu(1), -torch.inf).exp()
    return (factor @ sums.transpose(2, 3)).transpose(2, 3)


def chunk_scores(q: Features, k: Features, top: Tensor) -> Tensor:
    """phi(q_i) . phi(k_j) for j <= i within chunks [..., c, F], else 0: [..., c, c].

    The late half of every 2, 4, 8, ... tokens attends to the early half, whose exponents are shifted by its last top.
    """
    own = (q[1] + k[1]).exp()
    for factor in (q[0], k[0]):
        own = own if factor is None else own * factor
    scores, half = own.sum(-1)[..., None, None], 1  # ... c 1 1: each token attends to itself
    while half < top.shape[-2]:
        bound = side(top, half, 0)[..., -1:, :]
        late = value((side(q[0], half, 1), side(q[1], half, 1)), bound)
        early = value((side(k[0], half, 0), side(k[1], half, 0)), -bound)
        between = late @ early.mT
        first, second = scores.unflatten(-3, (-1, 2)).unbind(-3)
        above = torch.cat([first, torch.zeros_like(between)], -1)
        scores = torch.cat([above, torch.cat([between, second], -1)], -2)
        half *= 2
    return scores.squeeze(-3)


def side(x: Tensor | None, half: int, late: int) -> Tensor:
    """The early or the late half of every `2 * half` tokens: [..., c, F] -> [..., c / 2 half, half, F]."""
    return x if x is None else x.unflatten(-2, (-1, 2, half)).select(-3, late)  # type: ignore[return-value]
