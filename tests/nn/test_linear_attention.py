"""Attention by random features has laws of its own: `kernel == weights @ v` cannot see a wrong feature map."""

import itertools
import math
import types

import pytest
import torch
from nn_cases import HEADS, KERNELS, core_of, qkv
from torch import Tensor

from zoo.nn import CAUSAL, ALiBi, Core, CoreSpec, LinearAttention, PaddingMask, initialize, linear_attention
from zoo.nn.fused import Fused
from zoo.nn.init import orthogonal_gaussian, parameter_generator
from zoo.nn.linear_attention import half_attention
from zoo.nn.linear_chunks import CHUNK, causal_exponents
from zoo.nn.registry import build_core

SEEDS = range(12)


def random_core(kind: str, features: int, seed: int, **spec) -> Core:
    core = build_core({"kind": kind, "features": features}, CoreSpec(heads=2, kv_heads=2, head_dim=16, **spec))
    initialize(core, seed)
    return core.double()


def exact(kind: str, q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """What the features estimate: softmax attention, for RFA of unit vectors and at temperature 1."""
    if kind == "rfa":
        q, k = (torch.nn.functional.normalize(t, dim=-1) for t in (q, k))
    scores = q @ k.mT * (1 if kind == "rfa" else q.shape[-1] ** -0.5)
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["performer", "rfa"])
def test_more_features_approximate_softmax_better(kind, causal):
    q, k = 0.5 * torch.randn(2, 2, 2, 24, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mask = CAUSAL if causal else None
    target = exact(kind, q, k, CAUSAL.dense(24, 24) if causal else None)
    errors = []
    for features in (16, 64, 256, 1024):
        squares = [(random_core(kind, features, s).weights(q, k, mask) - target).square().mean() for s in SEEDS]
        errors.append(torch.stack(squares).mean().sqrt())
    for few, many in itertools.pairwise(errors):
        assert many < 0.7 * few, errors  # four times the features halve the error
    assert errors[-1] < 0.1 * target.max()


def kernel(core: Core, q: Tensor, k: Tensor) -> Tensor:
    """The core's estimate of the kernel itself, before it is normalized: phi(q) . phi(k), unshifted."""
    if core.kind == "rfa":
        return core.features(q) @ core.features(k).mT
    (_, zq), (_, zk) = core.features(q), core.features(k)
    return zq.exp() @ zk.exp().mT / core.num_features()


@pytest.mark.parametrize("features", [16, 24, 64])  # also where the last orthogonal block is cut
def test_the_estimates_of_the_kernel_are_unbiased(features):
    q, k = 0.6 * torch.randn(2, 1, 1, 6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    unit = [torch.nn.functional.normalize(t, dim=-1) for t in (q, k)]
    truth = {
        "performer": (q @ k.mT * 16**-0.5).exp(),
        "rfa": (-(unit[0].unsqueeze(3) - unit[1].unsqueeze(2)).square().sum(-1) / 2).exp(),
    }
    for kind, expected in truth.items():
        drawn = torch.stack([kernel(random_core(kind, features, seed), q, k) for seed in range(800)])
        off = (drawn.mean(0) - expected) / (drawn.std(0) / math.sqrt(len(drawn)))  # in standard errors
        assert off.abs().max() < 4.5, (kind, off)
        assert off.square().mean() < 2, (kind, off)


def test_orthogonal_features_vary_less_than_independent_ones():
    q, k = torch.randn(2, 1, 1, 6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    core = random_core("performer", 16, 0)
    orthogonal, independent = [], []
    for seed in range(400):
        initialize(core, seed)
        orthogonal.append(kernel(core, q, k))
        core.projection.normal_(generator=parameter_generator(seed, "independent"))
        independent.append(kernel(core, q, k))
    assert torch.stack(orthogonal).var(0).mean() < 0.95 * torch.stack(independent).var(0).mean()


def test_rows_are_orthogonal_in_blocks_and_gaussian_in_norm():
    rows = torch.stack([draw_rows(40, 16, seed) for seed in range(200)])
    for start in (0, 16, 32):
        block = torch.nn.functional.normalize(rows[:, start : start + 16], dim=-1)
        off = block @ block.mT - torch.eye(block.shape[1])
        assert off.abs().max() < 1e-5
    squares = rows.square().sum(-1)  # chi-square with 16 degrees of freedom: mean 16, variance 32
    assert squares.mean().item() == pytest.approx(16, abs=0.25)
    assert squares.var().item() == pytest.approx(32, rel=0.06)
    flat = rows[:, :, :].flatten()  # each entry is N(0, 1): a sign-biased QR would show here
    assert abs(flat.mean().item()) < 0.012 and flat.var().item() == pytest.approx(1, abs=0.02)
    means = rows.mean(0) * math.sqrt(len(rows))  # each entry by itself, too
    assert means.square().mean().item() == pytest.approx(1, abs=0.2) and means.abs().max() < 5


def draw_rows(rows: int, dim: int, seed: int) -> Tensor:
    table = torch.empty(rows, dim)
    orthogonal_gaussian(table, parameter_generator(seed, "rows"))
    return table


def test_linear_is_katharopoulos_formula():
    core, (q, k, v) = core_of("linear"), qkv()

    def phi(x):
        return torch.where(x > 0, x + 1, x.exp())

    for n in (0, 5):
        for seen, mask in ((9, None), (n + 1, CAUSAL)):
            similar = phi(q[1, 2, n]) @ phi(k[1, 2, :seen]).mT
            expected = similar @ v[1, 2, :seen] / similar.sum()
            torch.testing.assert_close(core(q, k, v, mask)[1, 2, n], expected, atol=1e-6, rtol=0)


def test_performer_is_the_papers_formula():
    core, (q, k, v) = core_of("performer"), qkv()
    w = core.projection

    def phi(x):
        x = x * 8**-0.25
        return (x @ w.mT - x.square().sum(-1, keepdim=True) / 2).exp()

    similar = phi(q) @ phi(k).mT
    expected = similar / similar.sum(-1, keepdim=True) @ v
    torch.testing.assert_close(core(q, k, v), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
def test_chunks_are_the_running_sum(length):
    q, k, v = torch.randn(3, 1, 2, length, 5, dtype=torch.float64)
    (zq, zk), top = torch.randn(2, 1, 2, length, 5, dtype=torch.float64), torch.randn(1, 2, 1, 5, dtype=torch.float64)
    start = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    v = torch.nn.functional.pad(v, (0, 1), value=1.0)
    y, (new_top, end) = causal_exponents((q, zq), (k, zk), v, (top, start))
    q, k = q * zq.exp(), k * zk.exp()
    total, steps = start * top.exp().mT, []
    for n in range(length):
        total = total + k[:, :, n, :, None] * v[:, :, n, None]
        steps.append((q[:, :, n, None] @ total)[:, :, 0])
    expected = torch.stack(steps, 2)
    torch.testing.assert_close(y / y[..., -1:], expected / expected[..., -1:], atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(end * new_top.exp().mT, total, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0])
def test_features_stay_in_range(kind, scale):
    """Queries and keys four times as large as fresh projections make: still a mean of the values."""
    core = core_of(kind).double()
    q, k, _ = (t * scale for t in qkv(dtype=torch.float64))
    for mask in (None, CAUSAL, PaddingMask(torch.arange(9).expand(2, -1) < 7)):
        single = core.float()(q.float(), k.float(), torch.ones(2, HEADS, 9, 8), mask)
        torch.testing.assert_close(single, torch.ones(2, HEADS, 9, 8), atol=1e-3, rtol=0)


def test_a_custom_feature_map():
    """Subclassing Linear takes one method; all else is derived."""

    class Squares(LinearAttention):
        def phi(self, x):
            return x.square()

    core, (q, k, v) = Squares(CoreSpec(heads=4, kv_heads=4, head_dim=8)), qkv()
    for mask in (None, CAUSAL):
        torch.testing.assert_close(core(q, k, v, mask), core.weights(q, k, mask) @ v, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["linear", "performer", "rfa"])
def test_a_bias_is_refused_under_the_name_of_the_kind(kind):
    core = build_core(kind, CoreSpec(heads=4, kv_heads=4, head_dim=8))
    with pytest.raises(ValueError, match=f"^{kind} attention has no scores"):
        core(*qkv(), None, ALiBi(4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_products_in_half_precision(causal: bool, masked: bool, dtype: torch.dtype, monkeypatch) -> None:
    """As on a GPU: as near to the exact output and gradients as rounding to that dtype allows, for several chunks."""
    core = build_core("linear", CoreSpec(heads=4, kv_heads=2, head_dim=16))
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 300, 16, generator=g).to(dtype).requires_grad_() for heads in (4, 2, 2))
    keep = torch.arange(300) < torch.tensor([[300], [170]])
    mask = [part for part, on in ((CAUSAL, causal), (PaddingMask(keep), masked)) if on]
    mask = mask[0] & mask[1] if len(mask) == 2 else mask[0] if mask else None
    weight = torch.randn(2, 4, 300, 16, generator=g) * (keep[:, None, :, None] if masked else 1)

    def graded(*leaves: Tensor) -> list[Tensor]:
        y = core(*leaves, mask)
        return [y.detach(), *torch.autograd.grad((y * weight).sum(), leaves)]

    exact = graded(*(x.detach().double().requires_grad_() for x in (q, k, v)))
    today = graded(q, k, v)
    monkeypatch.setattr(type(core), "products_in_half", lambda self, q: q.dtype == dtype)
    ours = graded(q, k, v)
    assert [x.dtype for x in ours] == [dtype] * 4 and not torch.equal(ours[0], today[0])
    for a, b in zip(ours, exact, strict=True):
        assert (a - b).abs().max() <= (2e-2 if dtype == torch.bfloat16 else 3e-3) * b.abs().max()


def test_which_products_are_in_half_precision() -> None:
    """Features with signs or exponents cancel, or overflow; on a CPU float32 is as fast."""
    q = torch.zeros(1, 2, 3, 16, dtype=torch.bfloat16)
    for kind in ("linear", "performer", "rfa"):
        core = build_core(kind, CoreSpec(heads=2, kv_heads=2, head_dim=16))
        assert not core.products_in_half(q)
        on_gpu = types.SimpleNamespace(is_cuda=True, dtype=q.dtype)
        assert core.products_in_half(on_gpu) == (kind == "linear")
        assert not core.products_in_half(types.SimpleNamespace(is_cuda=True, dtype=torch.float32))


@pytest.mark.parametrize("causal", [False, True])
def test_the_compiled_attention_gives_the_same_numbers(causal: bool) -> None:
    """Compiled for long sequences on a GPU only."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 300, 16, generator=g).bfloat16().requires_grad_() for _ in range(3))
    keep = (torch.arange(300) < torch.tensor([[300], [170]]))[:, None, :, None]
    fused = Fused(half_attention, backend="aot_eager")
    found = [
        [y.detach(), *torch.autograd.grad(y.float().square().sum(), (q, k, v))]
        for y in (attention(q, k, v, keep, causal) for attention in (fused.compiled, half_attention))
    ]
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= 2e-2 * theirs.abs().max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("least", [linear_attention.COMPILE_ENTRIES, 0], ids=["plain", "compiled"])
def test_products_in_half_precision_on_a_gpu(least: int, monkeypatch) -> None:
    monkeypatch.setattr(linear_attention, "COMPILE_ENTRIES", least)
    core = build_core("linear", CoreSpec(heads=2, kv_heads=2, head_dim=16)).cuda()
    q, k, v = torch.randn(3, 1, 2, 1000, 16, generator=torch.Generator().manual_seed(0)).cuda()
    exact = core(q.double(), k.double(), v.double(), CAUSAL)
    assert (core(q.bfloat16(), k.bfloat16(), v.bfloat16(), CAUSAL) - exact).abs().max() < 2e-2
