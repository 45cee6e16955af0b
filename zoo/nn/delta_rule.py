"""The delta rule in chunks (DeltaNet, Yang et al. 2024; Gated DeltaNet, Yang et al. 2025), and its recurrence.

The state S [F, P] is a memory of values by keys. A token takes out what the memory has for its key, and writes its own:

    S_i = a_i S_(i-1) + k_i^T b_i (v_i - k_i a_i S_(i-1)),    y_i = q_i S_i

with a decay a_i = exp(log_decay_i) <= 1 of the whole memory and a strength b_i of writing, usually in (0, 1). Keys are
expected to have the norm 1. In a chunk the values that are written solve a triangular system (the WY form).
"""

import torch
from torch import Tensor

from zoo.nn.exporting import each_token
from zoo.nn.linear_chunks import LEAST_LOG_DECAY, chunk_size, chunks


def chunk_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs y [B, H, N, P] and the state [B, H, F, P] after the last token.

    q, k [B, H, N, F], v [B, H, N, P], log_decay (None: no decay) and beta [B, H, N], state [B, H, F, P] (None: zeros).
    The steps over chunks of 64 tokens are the only loop. All tensors have one dtype, float32 or float64.
    """
    length, size = v.shape[2], chunk_size(v.shape[2])
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if state is None else state
    q, k, v, beta = (chunks(x, size) for x in (q, k, v, beta[..., None]))  # padding has beta = 0 and writes nothing
    products, scores, writing = k @ k.mT, q @ k.mT, k * beta
    k_end, keep = k, None
    if log_decay is None:
        scores = scores.tril()
    else:
        total = chunks(log_decay[..., None].clamp(min=LEAST_LOG_DECAY), size)
        total = total.cumsum(-2)  # B H C c 1: since the start of the chunk
        future = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
        between = (total - total.mT).masked_fill(future, -torch.inf).exp()  # from each token to later ones
        products, scores = products * between, scores * between
        q, writing = q * total.exp(), writing * total.exp()
        k_end, keep = k * (total[..., -1:, :] - total).exp(), total[..., -1:, :].exp()
    system = beta * products  # its strictly lower part: what earlier tokens of the chunk have written for a key
    right = torch.cat([v * beta, writing], -1)
    new, read = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True).split(
        [v.shape[-1], q.shape[-1]], -1
    )
    states, values = [], []
    # unbound at once: the gradient of an index is a tensor of all chunks, for each chunk
    kept = [None] * new.shape[2] if keep is None else keep.unbind(2)
    for own_new, own_read, own_k, own_keep in zip(new.unbind(2), read.unbind(2), k_end.unbind(2), kept, strict=True):
        states.append(state)
        values.append(own_new - own_read @ state)
        state = (state if own_keep is None else state * own_keep) + own_k.mT @ values[-1]
    y = q @ torch.stack(states, 2) + scores @ torch.stack(values, 2)
    return y.flatten(2, 3)[:, :, :length], state


def recurrent_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`chunk_delta_rule` token by token: its readable definition, and the step of decoding."""
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if state is None else state

    def step(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        *decay, state = rest
        for log_decay in decay:
            state = state * log_decay[..., None].exp()
        state = state + k.mT @ (beta[..., None] * (v - k @ state))  # k [B, H, 1, F]
        return q @ state, state

    return each_token(step, (q, k, v, beta, *([] if log_decay is None else [log_decay])), state, 2)


def recurrent_decay(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`linear_chunks.causal_decay` token by token: S_i = exp(log_decay_i)^T * S_(i-1) + k_i^T v_i, y_i = q_i S_i."""
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if state is None else state

    def step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = state * log_decay.exp().mT + k.mT * v
        return q @ state, state

    return each_token(step, (q, k, v, log_decay), state, 2)
