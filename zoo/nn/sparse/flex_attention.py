"""Attention under masks that are patterns, and with biases that are functions, by torch's compiled flex_attention.

A window over 16,384 tokens, written out as a table, has 268 million entries. flex_attention computes mask and bias
inside its kernel and skips blocks of 128 x 128 pairs that are masked, so time and memory grow with what may be seen.
"""

import functools
import warnings
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.attention.flex_attention import flex_attention as torch_flex_attention

from zoo.nn.graphs.graph_mask import EdgeBias, GraphMask
from zoo.nn.index_functions import Index
from zoo.nn.masks import Mask, NoMask, PaddingMask, TensorMask
from zoo.nn.position_biases import Bias, BiasView, TensorBias
from zoo.nn.sparse import block_masks
from zoo.nn.sparse.block_masks import blocks_of, is_compile_error, is_constant, kept, own_code, signature

# Entries of a mask or bias that are written out as a table on a GPU: 1 GB of bools, up to 10 GB while it is computed.
MAX_TABLE_ENTRIES = 1 << 30
MIN_HEAD_DIM = 16  # smaller heads are padded with zeros
COMPILE_BACKWARD_AHEAD = True  # with the forward pass, where gradients are needed
ScoreMod = Callable[[Tensor, Index, Index, Index, Index], Tensor]

_failed: dict[Hashable, str] = {}  # attentions that torch could not compile, and why


class FlexKernel(NamedTuple):
    """What one attention of all layers with the same pattern needs. key: what its compiled code depends on."""

    blocks: BlockMask
    score_mod: ScoreMod | None
    key: Hashable


class FlexError(RuntimeError):
    """torch could not compile flex_attention for a pattern."""


def is_pattern(mask: Mask, bias: Bias | None) -> bool:
    """Whether mask or bias are functions of positions, and no part of them is a table already or a graph."""
    leaves = mask.leaves() + (() if bias is None else bias.leaves())
    if any(isinstance(leaf, (TensorMask, TensorBias, GraphMask, EdgeBias)) for leaf in leaves):
        return False
    return bias is not None or any(not isinstance(part, PaddingMask) for part in mask.parts())


def check_table(mask: Mask, bias: Bias | None, queries: int, keys: int, why_not: str) -> None:
    """Raise ValueError where a mask or bias that is not a tensor is too large to be written out on a GPU."""
    written = [f for f in (mask, bias) if f is not None and not isinstance(f, (NoMask, TensorMask, TensorBias))]
    tables = max([0, *[function.batch * function.heads for function in written]])  # torch 2.11 traces no default=
    if tables * queries * keys > MAX_TABLE_ENTRIES:
        raise ValueError(
            f"this attention of {queries:,} queries and {keys:,} keys needs its mask or position bias as {tables:,} "
            f"tables, {tables * queries * keys:,} entries in all; the limit on a GPU is {MAX_TABLE_ENTRIES:,}. "
            f"flex_attention, which needs no table, was not chosen ({why_not}). Leave out what it cannot do (dropout, "
            "float64, masks and biases that are tensors), use shorter or fewer rows, or attention='linear'"
        )


def flex_kernel(q: Tensor, k: Tensor, mask: Mask, bias: Bias | None, softcap: float | None = None) -> FlexKernel:
    """The block mask and score function of an attention. Raises FlexError where compiling them has failed before."""
    queries, keys, device = q.shape[2], k.shape[2], q.device
    compiling = torch.compiler.is_compiling()
    mask, block_mask = blocks_of(mask, queries, keys, device)
    score_mod = None
    if bias is not None:
        if isinstance(bias, BiasView) and bias.q is None and bias.k is None:
            bias = bias.inner
        if not compiling and is_constant(bias):
            bias = kept(("bias", bias, keys, device), functools.partial(bias.on_device, keys, device))
        else:
            bias = bias.on_device(keys, device)
        score_mod = add_bias(bias, 0 if bias.q is not None else keys - queries)
    if softcap is not None:
        score_mod = cap_scores(softcap, score_mod)
    if compiling:
        return FlexKernel(block_mask, score_mod, None)
    key: tuple[Hashable, ...] = (q.dtype, q.shape[1], k.shape[1], q.shape[3], torch.is_grad_enabled(), device)
    key += (signature(mask), signature(bias), softcap)
    if key in _failed:
        raise FlexError(_failed[key])
    return FlexKernel(block_mask, score_mod, key)


def add_bias(bias: Bias, shift: int) -> ScoreMod:
    """The bias as flex_attention calls it, see `mask_mod`."""

    def score_mod(score: Tensor, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return score + bias.__call__(b, h, q + shift if shift else q, k)

    return score_mod


def cap_scores(softcap: float, then: ScoreMod | None) -> ScoreMod:
    """The soft cap of scores, before a bias is added, as flex_attention calls it."""

    def score_mod(score: Tensor, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        score = softcap * torch.tanh(score / softcap)
        return score if then is None else then(score, b, h, q, k)

    return score_mod


def flex_attend(q: Tensor, k: Tensor, v: Tensor, kernel: FlexKernel, scale: float) -> Tensor:
    """softmax(q k^T * scale + bias, where the mask allows) v, zeros for queries whose keys are all masked.

    q: [B, H, N, P]; k, v: [B, G, M, P]. Raises FlexError if torch cannot compile it.
    """
    dim = v.shape[-1]
    if min(q.shape[-1], dim) < MIN_HEAD_DIM:
        q, k, v = (F.pad(x, (0, max(0, MIN_HEAD_DIM - x.shape[-1]))) for x in (q, k, v))
    if torch.compiler.is_compiling():
        return call_flex(q, k, v, kernel.blocks, kernel.score_mod, scale)[..., :dim]
    if kernel.key in _failed:
        raise FlexError(_failed[kernel.key])
    try:
        y = compiled(kernel.key, scale)(q, k, v, kernel.blocks, kernel.score_mod, scale)
    except Exception as error:
        if not is_compile_error(error):
            raise
        cause = getattr(error, "inner_exception", error)
        reason = (str(cause).strip().splitlines() or [""])[0]
        _failed[kernel.key] = f"torch could not compile it ({type(cause).__name__}: {reason})"
        warnings.warn(
            f"flex_attention is not used for an attention of {q.shape[2]} queries: {_failed[kernel.key]}; its mask is "
            "written out as a table instead",
            stacklevel=2,
        )
        raise FlexError(_failed[kernel.key]) from error
    return y if y.shape[-1] == dim else y[..., :dim]


def call_flex(q: Tensor, k: Tensor, v: Tensor, blocks: BlockMask, score_mod: ScoreMod | None, scale: float) -> Tensor:
    return torch_flex_attention(q, k, v, score_mod, blocks, scale, enable_gqa=True)


@functools.lru_cache(maxsize=64)
def compiled(key: Hashable, scale: float) -> Callable[..., Tensor]:
    """`call_flex`, compiled: once for the first length and once for all others."""
    return torch.compile(own_code(call_flex), fullgraph=True, backend=compile_with_backward)


def compile_with_backward(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
    """Compile a graph and at once its backward pass, which torch leaves for its first use: there an attention that
    cannot be compiled could no longer be replaced by another."""
    backend = torch._dynamo.lookup_backend(block_masks.BACKEND)
    with torch._functorch.config.patch(force_non_lazy_backward_lowering=COMPILE_BACKWARD_AHEAD):
        return backend(graph, inputs)
