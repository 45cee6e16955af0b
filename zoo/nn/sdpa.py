"""Softmax attention: the one place that calls a fused kernel, and the plain form beside it.

`attend` chooses by device, dtype, length and gradient; every choice computes the same numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nn.masks import CAUSAL, Mask, MaskView, Window
from zoo.nn.position_biases import Bias

# On a CPU in bfloat16, matmul-softmax-matmul beats torch's fused kernel up to about this many queries and keys
# (most of all in the backward pass); beyond, its N x M scores cost more than they save.
SHORT = 512
# For a single query (decoding) the fused kernel wins only up to this many keys; scores are small at any length.
FEW = 64


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Bias | None, scale: float, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T * scale + bias, where mask) v.

    q: [B, H, N, P]; k, v: [B, G, M, P], each serving H / G query heads. Returns [B, H, N, P]; a query that may see no
    key gets zeros.
    """
    heads, groups, queries, keys = q.shape[1], k.shape[1], q.shape[2], k.shape[2]
    if bias is None and mask.hides_nothing(queries, keys):
        allowed, blind, causal = None, None, False
    elif bias is None and is_causal(mask, queries, keys):
        allowed, blind, causal = None, None, True
    else:
        allowed, blind, causal = *added(q, keys, mask, bias), False
    if plain_is_faster(q, k, dropout, allowed):
        if causal:
            allowed = CAUSAL.dense(queries, keys, q.device)
        y = plain(q, k, v, allowed, scale, dropout)
    elif queries == 1 and heads != groups:
        y = one_row(q, k, v, allowed, scale, dropout)
    else:
        y = F.scaled_dot_product_attention(
            q, k, v, allowed, dropout, causal, scale=scale, enable_gqa=heads != groups
        )  # B H N P
    return y if blind is None else y.masked_fill(blind, 0.0)


def is_causal(mask: Mask, queries: int, keys: int) -> bool:
    """Nothing but the future is hidden, and the two ends line up: what kernels call `is_causal`."""
    if queries != keys or (isinstance(mask, MaskView) and mask.placed):
        return False
    hiding = {part for part in mask.parts() if not part.hides_nothing(queries, keys)}
    return bool(hiding) and hiding <= {CAUSAL, *(w for w in hiding if only_hides_the_future(w, keys))}


def only_hides_the_future(mask: Mask, keys: int) -> bool:
    """A causal window that reaches back over all keys: it hides the future and nothing else."""
    return isinstance(mask, Window) and mask.right == 0 and mask.left >= keys - 1


def added(q: Tensor, keys: int, mask: Mask, bias: Bias | None) -> tuple[Tensor | None, Tensor | None]:
    """(what kernels take as `attn_mask`: bool, or the bias with -inf where hidden; rows that see nobody)."""
    queries = q.shape[2]
    allowed = blind = None
    if not mask.hides_nothing(queries, keys):
        allowed, blind = mask.evaluate(queries, keys, q.device)
    if bias is None:
        return allowed, blind
    value = bias.dense(queries, keys, q.device).to(q.dtype)
    if allowed is not None:
        value = value.masked_fill(~allowed, -torch.inf)
    if bias.hides:  # whole rows, perhaps, and kernels differ on those
        empty = (value == -torch.inf).all(-1, keepdim=True)
        value, blind = value.masked_fill(empty, 0.0), empty if blind is None else blind | empty
    return value, blind


def plain_is_faster(q: Tensor, k: Tensor, dropout: float, allowed: Tensor | None) -> bool:
    if q.device.type != "cpu":
        return False
    short = max(q.shape[2], k.shape[2]) <= SHORT
    if q.dtype in (torch.bfloat16, torch.float16):
        return short if q.shape[2] > 1 else k.shape[2] >= FEW
    # torch has no fused CPU kernel for these two; its own fallback materializes more than the plain form does
    return dropout > 0 or (allowed is not None and allowed.requires_grad)


def plain(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float, dropout: float = 0.0) -> Tensor:
    """Matmul, softmax, matmul. The queries of a group are laid under each other, so keys are never repeated."""
    heads, queries, keys = q.shape[1], q.shape[2], k.shape[2]
    scores = fold(q * scale, k) @ k.mT  # B G gN M
    if allowed is not None:
        scores = scores.reshape(-1, heads, queries, keys)  # B H N M
        if allowed.dtype == torch.bool:
            scores = scores.masked_fill(~allowed, -torch.inf)
        else:
            scores = scores + allowed
    weights = scores.softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    y = weights.reshape(-1, k.shape[1], heads // k.shape[1] * queries, keys) @ v  # B G gN P
    return y.reshape(-1, heads, queries, v.shape[-1])  # B H N P


def one_row(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float, dropout: float) -> Tensor:
    """One query per head and shared keys, as in decoding: the group becomes the rows of one small matrix."""
    if allowed is not None:
        allowed = fold(allowed.expand(-1, q.shape[1], -1, -1), k)  # B G g M
    y = F.scaled_dot_product_attention(fold(q, k), k, v, allowed, dropout, scale=scale)
    return y.reshape(q.shape[0], q.shape[1], 1, v.shape[-1])  # B H 1 P


def fold(x: Tensor, k: Tensor) -> Tensor:
    """[B, H, N, P] -> [B, G, H / G * N, P]: the query heads that share a key head, one under the other."""
    return x.reshape(x.shape[0], k.shape[1], -1, x.shape[-1])


def share(kv: Tensor, heads: int) -> Tensor:
    """[B, G, M, P] -> [B, H, M, P]: each group of query heads gets its key or value head."""
    return kv if kv.shape[1] == heads else kv.repeat_interleave(heads // kv.shape[1], 1)
