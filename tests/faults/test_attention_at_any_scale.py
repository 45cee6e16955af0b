"""Attention without scores (linear, Performer, RFA) is exact for inputs of any size: no row of weights underflows."""

import pytest
import torch
from nn_cases import KERNELS
from torch import Tensor

from zoo.nn import CAUSAL, Core, CoreSpec, Mask, PaddingMask, initialize
from zoo.nn.linear_chunks import CHUNK
from zoo.nn.registry import build_core

TOKENS = 2 * CHUNK + 3
KEEP = torch.arange(TOKENS) >= torch.tensor([[5], [0]])
MASKS = {"none": None, "causal": CAUSAL, "padding": PaddingMask(KEEP), "causal & padding": CAUSAL & PaddingMask(KEEP)}
SCALES = [1e-3, 1.0, 100.0, 1e4]


def core_and_inputs(kind: str, scale: float, dtype: torch.dtype = torch.float32) -> tuple[Core, Tensor, Tensor, Tensor]:
    core = build_core(kind, CoreSpec(heads=2, kv_heads=1, head_dim=8, causal=True))
    initialize(core, 0)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, h, TOKENS, 8, generator=generator, dtype=torch.float64) for h in (2, 1, 1))
    return core.to(dtype), (q * scale).to(dtype), (k * scale).to(dtype), v.to(dtype)


def reference(core: Core, q: Tensor, k: Tensor, mask: Mask | None) -> Tensor:
    """Weights [B, H, N, M] by logarithms: no product of features is formed."""
    if core.kind == "rfa":
        products = core.phi(q) @ core.phi(k).mT
    else:
        logs = [core.phi(x)[1] if core.kind == "performer" else x.clamp(max=0) + x.clamp(min=0).log1p() for x in (q, k)]
        products = torch.stack([(row[..., None, :] + logs[1]).logsumexp(-1) for row in logs[0].unbind(2)], 2)
    allowed = torch.ones(1, 1, TOKENS, TOKENS, dtype=torch.bool) if mask is None else mask.dense(TOKENS, TOKENS)
    if core.kind == "rfa":
        products = products * allowed
        return products / products.sum(-1, keepdim=True)
    return products.masked_fill(~allowed, -torch.inf).softmax(-1)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KERNELS)
def test_the_weights_are_those_of_logarithms(kind: str, mask: str, scale: float) -> None:
    core, q, k, v = core_and_inputs(kind, scale, torch.float64)
    weights, expected = core.weights(q, k, MASKS[mask]), reference(core, q, k, MASKS[mask])
    expected = expected.nan_to_num()  # queries that see no key
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(core(q, k, v, MASKS[mask]), expected @ v, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KERNELS)
def test_rows_sum_to_one_and_gradients_are_finite(kind: str, mask: str, scale: float, dtype: torch.dtype) -> None:
    core, q, k, v = core_and_inputs(kind, scale, dtype)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    ones = core(q, k, torch.ones_like(v), MASKS[mask])
    seen = ones[KEEP[:, None].expand(-1, 2, -1)] if "padding" in mask else ones
    torch.testing.assert_close(seen, torch.ones_like(seen), atol=1e-4, rtol=0)
    y, weights = core(*leaves, MASKS[mask]), core.weights(q, k, MASKS[mask])
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(y, weights @ v, atol=tolerance, rtol=tolerance)
    y.square().sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in leaves)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KERNELS)
def test_later_tokens_do_not_change_one_bit(kind: str, scale: float) -> None:
    core, *qkv = core_and_inputs(kind, scale)
    for first in (1, 37, CHUNK, CHUNK + 1, TOKENS - 1):
        later = [torch.cat([t[:, :, :first], 30 * t[:, :, first:].flip(2) + 1], 2) for t in qkv]
        assert torch.equal(core(*later, CAUSAL)[:, :, :first], core(*qkv, CAUSAL)[:, :, :first])
        assert torch.equal(core.weights(*later[:2], CAUSAL)[:, :, :first], core.weights(*qkv[:2], CAUSAL)[:, :, :first])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("sizes", [[1] * TOKENS, [TOKENS - 40, 1, 20, 19], [CHUNK, CHUNK, 3]], ids=len)
@pytest.mark.parametrize("kind", KERNELS)
def test_decoding_gives_the_same_with_a_cache_of_constant_size(kind: str, sizes: list[int], scale: float) -> None:
    core, q, k, v = core_and_inputs(kind, scale, torch.float64)
    state = core.new_state(2, 4, q)
    parts, memory = [], set()
    for step in zip(q.split(sizes, 2), k.split(sizes, 2), v.split(sizes, 2), strict=True):
        parts.append(core.decode(*step, state, CAUSAL))
        memory.add(sum(t.numel() for t in vars(state).values() if isinstance(t, Tensor)))
    torch.testing.assert_close(torch.cat(parts, 2), core(q, k, v, CAUSAL), atol=1e-6, rtol=1e-6)
    last = core(q[:, :, -5:], k, v, CAUSAL)  # fewer queries than keys
    torch.testing.assert_close(last, core(q, k, v, CAUSAL)[:, :, -5:], atol=1e-6, rtol=1e-6)
    assert len(memory) == 1
