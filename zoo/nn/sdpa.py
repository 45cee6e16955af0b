"""Softmax attention by torch's fused kernels or in plain operations; the only file that calls fused kernels.

`attend` chooses the faster one by device, dtype, length and gradient; all compute the same results. It chooses once for
all layers of a forward pass that have the same pattern, shapes and dtypes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from zoo.nn import kernels
from zoo.nn.kernels import HALF, AttentionCall, plain_in_half
from zoo.nn.masks import CAUSAL, NO_MASK, AnyMask, Mask, MaskView, PaddingMask, TensorMask, Window, as_mask
from zoo.nn.position_biases import AnyBias, Bias, BiasView, as_bias
from zoo.nn.sparse import block_sparse, tile_biases
from zoo.nn.sparse.block_sparse import Tiles, tiles_of
from zoo.nn.sparse.flex_attention import FlexError, FlexKernel, check_table, flex_attend, flex_kernel, is_pattern
from zoo.nn.sparse.tiled_attention import tiled_attention

TORCH_KERNELS: dict[SDPBackend, kernels.KernelName] = {
    SDPBackend.MATH: "math",
    SDPBackend.FLASH_ATTENTION: "flash",
    SDPBackend.EFFICIENT_ATTENTION: "efficient",
    SDPBackend.CUDNN_ATTENTION: "cudnn",
}


class Packed(NamedTuple):
    """Packed rows: the first token of each and the end of the last, int32 [R + 1]; the longest row; how many keys
    before and after itself a query sees, -1 for all."""

    starts: Tensor
    longest: int
    window: tuple[int, int]


class Kernel(NamedTuple):
    """How to compute one attention: `attn_mask` and `is_causal` of torch's kernels, the queries to set to zero because
    all of their keys are masked (None: there are none), whether in plain operations, whether q and k share heads; or
    the layout of packed rows, or what flex_attention needs, or the tiles of an attention that skips blocks; and the
    reason."""

    allowed: Tensor | None
    causal: bool
    fully_masked: Tensor | None
    plain: bool
    shared: bool
    packed: Packed | None = None
    reason: str = ""
    flex: FlexKernel | None = None
    tiles: Tiles | None = None


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: AnyMask,
    bias: AnyBias,
    scale: float,
    dropout: float = 0.0,
    pattern: Mask = NO_MASK,
    softcap: float | None = None,
) -> Tensor:
    """softmax(q k^T * scale + bias, where mask and pattern) v; with a softcap c, c tanh(q k^T * scale / c) + bias.

    q: [B, H, N, P]; k, v: [B, G, M, P], each head shared by H / G query heads. Returns [B, H, N, P], zeros for queries
    whose keys are all masked.
    """
    cache = kernel = None
    if isinstance(mask, MaskView) and not torch.compiler.is_compiling():
        cache = mask.kernels if bias is None or (isinstance(bias, BiasView) and bias.cache is not None) else None
    if cache is not None:
        key = (pattern, bias, q.shape, k.shape, v.shape, q.dtype, k.dtype, v.dtype, q.device, dropout, softcap)
        kernel = cache.get(key)
    if kernel is None:
        kernel = choose_kernel(q, k, v, mask, bias, dropout, pattern, softcap)
        if cache is not None:
            cache[key] = kernel
    allowed, causal, fully_masked, plain, shared, packed, _, flex, tiles = kernel
    if packed is not None:
        return packed_attention(q, k, v, packed, scale, dropout)
    if tiles is not None:
        return tiled_attention(q, k, v, tiles, scale, as_bias(bias), dropout, softcap)
    if flex is not None:
        try:
            return flex_attend(q, k, v, flex, scale)
        except FlexError:  # it is not chosen again
            if cache is not None:
                del cache[key]
            return attend(q, k, v, mask, bias, scale, dropout, pattern, softcap)
    if plain:
        y = plain_attention(q, k, v, allowed, scale, dropout, softcap)
    elif shared and q.shape[2] == 1:
        y = single_query(q, k, v, allowed, scale, dropout)
    else:
        y = F.scaled_dot_product_attention(q, k, v, allowed, dropout, causal, scale=scale, enable_gqa=shared)  # B H N P
    return y if fully_masked is None else y.masked_fill(fully_masked, 0.0)


def attend_to_all(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None, softcap: float | None = None
) -> Tensor:
    """`attend` without a mask for few queries of each head, while decoding; its inputs are not checked.

    bias: added to the scores, [B or 1, H or 1, N or 1, M], with -inf at keys that are masked.
    """
    queries, shared = q.shape[2], q.shape[1] != k.shape[1]
    plain = q.dtype in HALF and plain_in_half(queries, k.shape[2]) and q.device.type == "cpu"
    if plain or softcap is not None:
        return plain_attention(q, k, v, bias, scale, softcap=softcap)
    if shared and queries == 1:
        return single_query(q, k, v, bias, scale, 0.0)
    return F.scaled_dot_product_attention(q, k, v, bias, scale=scale, enable_gqa=shared)


def choose_kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: AnyMask,
    bias: AnyBias,
    dropout: float,
    pattern: Mask,
    softcap: float | None = None,
) -> Kernel:
    """The fastest way to compute an attention. Raises ValueError for inputs that do not go together."""
    check_inputs(q, k, v)
    mask = mask if isinstance(mask, Mask) else as_mask(mask)
    mask = mask if pattern is NO_MASK else mask & pattern
    if isinstance(mask, MaskView) and mask.rows is not None and mask.rows.starts is not None:
        window = kernels.packed_window(mask.inner)
        assert window is not None and bias is None, "zoo.nn.attention chose another kernel"
        packed = Packed(mask.rows.starts, mask.rows.longest, window)
        return Kernel(None, False, None, False, False, packed, "rows packed without padding")
    bias = None if bias is None else as_bias(bias)
    queries, keys = q.shape[2], k.shape[2]
    allowed, fully_masked, causal, reason, shared = None, None, False, "", q.shape[1] != k.shape[1]
    call = AttentionCall(
        *(q.dtype, q.shape[1], k.shape[1], q.shape[3], queries, keys, mask),
        bias="none" if bias is None else "fixed",
        dropout=dropout,
        grad=q.requires_grad and torch.is_grad_enabled(),
        softcap=softcap,
    )
    record = kernels.RECORDS.get(q.device) or kernels.capabilities(q.device)
    plain = softcap is not None or (dropout > 0 and record.device == "cpu")
    if bias is not None or not mask.hides_nothing(queries, keys) or (plain and record.device == "cpu"):
        check_mask(mask, q, k)
        causal = bias is None and is_causal(mask, queries, keys)
        if not causal or plain:
            if record.device == "cuda":
                call = call._replace(pattern=is_pattern(mask, bias))
                flex, reason = choose_flex(record, call, q, k, bias)
                if flex is not None:
                    return Kernel(None, False, None, False, shared, None, reason, flex)
                check_table(mask, bias, queries, keys, reason)
            tiles, reason = choose_tiles(record, call, q, v, bias)
            if tiles is not None:
                return Kernel(None, False, None, False, shared, None, reason, None, tiles)
            causal = causal and record.device == "cpu"
            allowed, fully_masked = (None, None) if causal else combine_mask_and_bias(q, keys, mask, bias)
    if allowed is not None and allowed.requires_grad:
        call = call._replace(bias="learned")
    chosen, why = kernels.choose(record, call)
    plain = chosen == "plain"
    if plain and causal:
        allowed = CAUSAL.dense(queries, keys, q.device)
    kernel = Kernel(allowed, causal, fully_masked, plain, shared, None, reason or why)
    if (
        record.device == "cuda"
        and not torch.compiler.is_compiling()
        and call.heads * queries * keys * q.shape[0] > kernels.MAX_SCORES
    ):
        kernels.check_scores(call, q.shape[0], *chosen_by_torch(q, k, v, kernel, dropout))
    return kernel


def explain_kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: AnyMask,
    bias: AnyBias,
    dropout: float,
    pattern: Mask,
    softcap: float | None = None,
) -> kernels.Choice:
    """The kernel that `attend` takes, with torch's own choice among its fused kernels, and why."""
    kernel = choose_kernel(q, k, v, mask, bias, dropout, pattern, softcap)
    if kernel.flex is not None or kernel.tiles is not None:
        return kernels.Choice("flex" if kernel.tiles is None else "tiles", kernel.reason)
    if kernel.packed is not None:
        return kernels.Choice("varlen", kernel.reason)
    return chosen_by_torch(q, k, v, kernel, dropout)


def chosen_by_torch(q: Tensor, k: Tensor, v: Tensor, kernel: Kernel, dropout: float) -> kernels.Choice:
    """Which of its fused kernels torch takes, if the choice is left to it, and why."""
    if kernel.plain:
        return kernels.Choice("plain", kernel.reason)
    options = (kernel.allowed, dropout, kernel.causal)
    number = torch._fused_sdp_choice(q, k, v, *options, enable_gqa=kernel.shared)
    form = "a causal mask" if kernel.causal else "no mask" if kernel.allowed is None else "a mask of all pairs"
    return kernels.Choice(TORCH_KERNELS[SDPBackend(number)], f"{kernel.reason}, with {form}")


def choose_tiles(
    record: kernels.Capabilities, call: AttentionCall, q: Tensor, v: Tensor, bias: Bias | None
) -> tuple[Tiles | None, str]:
    """The tiles of an attention that skips blocks, if it serves and is faster, else None; and the reason."""
    if record.device != "cpu" or call.queries * call.keys < block_sparse.MIN_PAIRS:
        return None, ""
    if torch.compiler.is_compiling() or v.shape[-1] != call.head_dim:
        return None, ""
    if not torch.backends.cuda.flash_sdp_enabled():
        return None, ""  # a user may have switched the kernel off, on all devices: `sdpa_kernel(SDPBackend.MATH)`
    if bias is not None and bias.hides:
        return None, ""
    own = None if bias is None else tile_biases.for_tiles(bias, call.keys)
    if own is not None and not tile_biases.serves(own):
        return None, ""
    plain = call.dropout > 0 or call.softcap is not None or len(tile_biases.learned(own)) > 0
    tables = q.shape[0] * call.heads if plain else 0 if bias is None else bias.batch * bias.heads
    flops = 4 * call.heads * call.head_dim
    tiles = tiles_of(call.mask, call.queries, call.keys, flops, q.shape[0], plain=plain, tables=tables)
    return tiles, "" if tiles is None else "blocks of keys that a block of queries does not see are skipped"


def choose_flex(
    record: kernels.Capabilities, call: AttentionCall, q: Tensor, k: Tensor, bias: Bias | None
) -> tuple[FlexKernel | None, str]:
    """What flex_attention needs, if it serves, else None; and the reason."""
    choice = kernels.choose(record, call)
    if choice.kernel != "flex":
        limit = kernels.flex_limit(record, call) if call.pattern else ""
        if limit and min(call.queries, call.keys) >= kernels.FLEX_MIN_LENGTH and not torch.compiler.is_compiling():
            kernels.warn_once(
                f"masks that are patterns, and position biases, are written out as a table of {call.queries:,} queries "
                f"and {call.keys:,} keys, as flex_attention cannot compute them here: {limit}"
            )
        return None, choice.reason
    try:
        return flex_kernel(q, k, call.mask, bias, call.softcap), choice.reason
    except FlexError as error:
        return None, str(error)


def check_inputs(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless q, k and v have one floating point dtype and shapes that go together."""
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        raise ValueError(
            f"q, k and v have the dtypes {q.dtype}, {k.dtype} and {v.dtype}; expected one floating point dtype"
        )
    if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3] or q.shape[1] % k.shape[1]:
        raise ValueError(
            f"q, k and v have the shapes {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}; expected q "
            "[B, H, N, P] and k, v [B, G, M, P], with H a multiple of G"
        )


def check_mask(mask: Mask, q: Tensor, k: Tensor) -> None:
    """Raise ValueError for a mask that does not fit q and k."""
    for part in mask.parts():
        values = part.values if isinstance(part, TensorMask) else part.keep if isinstance(part, PaddingMask) else None
        if values is None:
            continue
        heads = values.shape[1] if values.ndim == 4 else 1
        if values.shape[0] not in (1, q.shape[0]) or heads not in (1, q.shape[1]) or 1 < values.shape[-1] < k.shape[2]:
            raise ValueError(
                f"the mask has the shape {tuple(values.shape)}, which does not fit {q.shape[0]} rows, {q.shape[1]} "
                f"heads, {q.shape[2]} queries and {k.shape[2]} keys; expected a mask [B, H, N, M] or padding [B, M]"
            )


def is_causal(mask: Mask, queries: int, keys: int) -> bool:
    """Whether kernels can use `is_causal`: exactly later keys are masked, and there are as many queries as keys."""
    if queries != keys or (isinstance(mask, MaskView) and mask.q is not None):
        return False
    hiding = [part for part in mask.parts() if not part.hides_nothing(queries, keys)]
    return len(hiding) > 0 and all(part == CAUSAL or is_full_causal_window(part, keys) for part in hiding)


def is_full_causal_window(mask: Mask, keys: int) -> bool:
    """Whether the mask is a causal window over all earlier keys, and so equal to a causal mask."""
    return isinstance(mask, Window) and mask.right == 0 and mask.left >= keys - 1


def combine_mask_and_bias(q: Tensor, keys: int, mask: Mask, bias: Bias | None) -> tuple[Tensor | None, Tensor | None]:
    """Returns (`attn_mask` of the kernels: bool, or the bias with -inf at masked keys; fully masked rows or None)."""
    queries = q.shape[2]
    allowed = fully_masked = None
    if not mask.hides_nothing(queries, keys):
        allowed, fully_masked = mask.evaluate(queries, keys, q.device)
    if bias is None:
        return allowed, fully_masked
    value = bias.dense(queries, keys, q.device).to(q.dtype)
    if allowed is not None:
        value = value.masked_fill(~allowed, -torch.inf)
    if bias.hides:  # it may mask whole rows, on which kernels differ
        empty = (value == -torch.inf).all(-1, keepdim=True)
        value, fully_masked = value.masked_fill(empty, 0.0), empty if fully_masked is None else fully_masked | empty
    return value, fully_masked


def packed_attention(q: Tensor, k: Tensor, v: Tensor, packed: Packed, scale: float, dropout: float) -> Tensor:
    """Attention within packed rows: q [1, H, T, P], k and v [1, G, T, P] -> [1, H, T, P]."""
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (q, k, v))  # unlike that of x[0], the gradient copies nothing
    return flash_varlen(q, k, v, packed, scale, dropout).transpose(0, 1)[None]


def flash_varlen(q: Tensor, k: Tensor, v: Tensor, packed: Packed, scale: float, dropout: float) -> Tensor:
    """The flash kernel for packed rows: q [T, H, P], k and v [T, G, P] -> [T, H, P].

    The operation below `torch.nn.attention.varlen.varlen_attn`, with its arguments, the same in torch 2.11 and 2.12:
    that function has no dropout, takes GQA from 2.12 on, and its module imports torch's compiler, a second of work.
    """
    starts, longest, (left, right) = packed
    return torch.ops.aten._flash_attention_forward(
        *(q, k, v, starts, starts, longest, longest, dropout, (left, right) == (-1, 0), False),
        scale=scale,
        window_size_left=left,
        window_size_right=right,
    )[0]


def plain_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    allowed: Tensor | None,
    scale: float,
    dropout: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """Matmul, softmax, matmul. Query heads of a group are folded into rows, so keys are not repeated."""
    heads, queries, keys = q.shape[1], q.shape[2], k.shape[2]
    scores = soft_capped(fold_groups(q * scale, k) @ k.mT, softcap)  # B G gN M
    if allowed is not None:
        scores = scores.reshape(-1, heads, queries, keys)  # B H N M
        scores = scores.masked_fill(~allowed, -torch.inf) if allowed.dtype == torch.bool else scores + allowed
    weights = scores.softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    y = weights.reshape(-1, k.shape[1], heads // k.shape[1] * queries, keys) @ v  # B G gN P
    return y.reshape(-1, heads, queries, v.shape[-1])  # B H N P


def soft_capped(scores: Tensor, softcap: float | None) -> Tensor:
    """Scores x bounded to (-c, c) by c tanh(x / c) (Gemma 2, https://arxiv.org/abs/2408.00118); None: as they are."""
    return scores if softcap is None else (scores / softcap).tanh() * softcap


def single_query(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float, dropout: float) -> Tensor:
    """Attention of one query per head with shared keys (decoding with GQA): a group becomes the rows of a matrix."""
    if allowed is not None:
        allowed = fold_groups(allowed.expand(-1, q.shape[1], -1, -1), k)  # B G g M
    y = F.scaled_dot_product_attention(fold_groups(q, k), k, v, allowed, dropout, scale=scale)
    return y.reshape(q.shape[0], q.shape[1], 1, v.shape[-1])  # B H 1 P


def fold_groups(x: Tensor, k: Tensor) -> Tensor:
    """[B, H, N, P] -> [B, G, H / G * N, P]: query heads that share a key head become rows."""
    return x.reshape(x.shape[0], k.shape[1], -1, x.shape[-1])


def repeat_kv(kv: Tensor, heads: int) -> Tensor:
    """Repeat key or value heads for GQA: [B, G, M, P] -> [B, H, M, P]."""
    return kv if kv.shape[1] == heads else kv.repeat_interleave(heads // kv.shape[1], 1)
