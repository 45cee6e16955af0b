"""Scores with a soft cap (Gemma 2): in each kind, on each kernel, while decoding; and what has no scores to cap."""

import pytest
import torch
from decoding_cases import context, decode, tokens
from flex_cases import N, choose_flex_on_cpu, patterns

from zoo.nn import CAUSAL, NO_MASK, ALiBi, BlockConfig, Context, CoreSpec, Window, initialize, sdpa
from zoo.nn.heads import LMHead
from zoo.nn.kernels import AttentionCall, Capabilities, choose
from zoo.nn.registry import build_core
from zoo.nn.rms_norm import UnitOffsetRMSNorm
from zoo.nn.sdpa import attend, repeat_kv
from zoo.nn.sparse import flex_attention

CAP, SCALE = 1.5, 0.7
KINDS = {
    "softmax": "softmax",
    "local": {"kind": "local", "window": 9},
    "longformer": {"kind": "longformer", "window": 5, "tokens": 2},
    "strided": {"kind": "strided", "window": 3, "step": 4},
}


def inputs(n=40, *, groups=2, dim=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, h, n, dim, generator=generator).to(dtype).requires_grad_() for h in (4, groups, groups)]


def by_hand(q, k, v, mask=None, bias=None):
    scores = CAP * torch.tanh(SCALE * q @ repeat_kv(k, 4).mT / CAP)
    if bias is not None:
        scores = scores + bias.dense(q.shape[2], k.shape[2])
    if mask is not None:
        scores = scores.masked_fill(~mask.dense(q.shape[2], k.shape[2]), -torch.inf)
    return scores.softmax(-1) @ repeat_kv(v, 4)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [None, ALiBi(4)])
@pytest.mark.parametrize("mask", [None, CAUSAL, CAUSAL & Window(6, 0)])
def test_scores_are_capped_before_mask_and_bias(mask, bias, groups):
    ours, theirs = inputs(groups=groups, dtype=torch.float64), inputs(groups=groups, dtype=torch.float64)
    y, expected = attend(*ours, mask, bias, SCALE, softcap=CAP), by_hand(*theirs, mask, bias)
    torch.testing.assert_close(y, expected)
    assert (y - attend(*ours, mask, bias, SCALE)).abs().max() > 1e-2
    for a, b in zip(torch.autograd.grad(y.sum(), ours), torch.autograd.grad(expected.sum(), theirs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_its_weights_times_the_values(kind):
    core = build_core(KINDS[kind], CoreSpec(4, 2, 16, causal=True, softcap=CAP)).eval()
    plain = build_core(KINDS[kind], CoreSpec(4, 2, 16, causal=True)).eval()
    q, k, v = inputs()
    y = core(q, k, v, CAUSAL)
    torch.testing.assert_close(y, core.weights(q, k, CAUSAL) @ repeat_kv(v, 4))
    assert (y - plain(q, k, v, CAUSAL)).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_steps_are_the_full_forward(kind):
    config = BlockConfig(width=32, heads=4, kv_heads=2, causal=True, attention=KINDS[kind], softcap=CAP)
    stack = config.stack(2)
    initialize(stack, 0)
    x = 3 * tokens(24)
    expected = stack(x, context("rope", 0, 24))
    for sizes in ([9] + [1] * 15, [24], [5, 7, 1, 11]):
        torch.testing.assert_close(decode(stack.eval(), x, sizes, "rope"), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["causal", "causal local", "padded causal", "prefix"])
@pytest.mark.parametrize("bias", [None, ALiBi(4)])
def test_flex_attention_caps_the_same_scores(monkeypatch, name, bias):
    masks = [(patterns() | {"causal": CAUSAL})[name] for _ in range(2)]  # each remembers the kernel that it had
    q, k, v = inputs(N)
    bias = None if name == "padded causal" else bias  # its positions are those of the mask
    expected = attend(q, k, v, masks[0], bias, SCALE, softcap=CAP)
    gradients = torch.autograd.grad(expected.square().sum(), (q, k, v))
    with monkeypatch.context() as patch:
        choose_flex_on_cpu(patch)
        used = []
        patch.setattr(sdpa, "flex_attend", lambda *args: used.append(1) or flex_attention.flex_attend(*args))
        y = attend(q, k, v, masks[1], bias, SCALE, softcap=CAP)
        found = torch.autograd.grad(y.square().sum(), (q, k, v))
    assert used
    for a, b in zip((y, *found), (expected, *gradients), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * max(1.0, b.abs().max().item()), rtol=0)


def test_kernels_that_cannot_cap_are_not_chosen():
    call = AttentionCall(torch.bfloat16, 8, 4, 64, 4096, 4096, CAUSAL, softcap=50.0)
    gpu = Capabilities("cuda", (9, 0))
    assert choose(Capabilities("cpu"), call).kernel == "plain"
    assert choose(gpu, call._replace(pattern=True)).kernel == "flex"
    assert choose(gpu, call._replace(mask=NO_MASK)).kernel == "plain"
    assert "below 1024" in choose(gpu, call._replace(pattern=True, queries=9)).reason
    padded = choose(gpu, call._replace(ragged=True))
    assert padded.kernel == "padded" and "cap" in padded.reason
    assert choose(gpu, call._replace(ragged=True, softcap=None)).kernel == "varlen"


@pytest.mark.parametrize("kind", ["linear", "performer", "additive", "rfa"])
def test_kinds_without_these_scores_are_refused(kind):
    with pytest.raises(ValueError, match=r"softcap=50.*has no scores to cap.*'softmax'"):
        BlockConfig(width=32, heads=4, causal=True, attention=kind, softcap=50.0).stack(1)


@pytest.mark.parametrize("softcap", [0.0, -1.0, float("inf"), float("nan")])
def test_a_cap_is_a_positive_number(softcap):
    with pytest.raises(ValueError, match=r"softcap=.*expected a positive number"):
        CoreSpec(4, 4, 8, softcap=softcap)


def test_logits_are_capped():
    head = LMHead(8, 20, softcap=2.0)
    initialize(head, 0)
    x = 9 * torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(x), 2 * torch.tanh(head.proj(x) / 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_gain_stored_as_its_difference_from_one(dtype):
    norm = UnitOffsetRMSNorm(16, eps=1e-6)
    initialize(norm, 0)
    assert not norm.weight.any()
    weight = 0.01 * torch.randn(16, generator=torch.Generator().manual_seed(0))
    norm = norm.to(dtype)
    norm.weight.data = weight.to(dtype)
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + norm.weight.double())
    assert norm(x).dtype == dtype
    torch.testing.assert_close(norm(x), expected.to(dtype))


@pytest.mark.parametrize("cross", [None, "softmax"])
@torch.no_grad()
def test_norms_around_attention_and_mlp(cross):
    config = BlockConfig(width=16, heads=2, order="sandwich", norm="rms")
    if cross is not None:
        with pytest.raises(ValueError, match="order='sandwich' does not support cross-attention"):
            config.stack(1, cross=cross)
        return
    stack = config.stack(1)
    initialize(stack, 0)
    block, x = stack[0], tokens(5)[..., :16]
    y = x + block.post_norm1(block.mixer(block.norm1(x), Context()))
    torch.testing.assert_close(block(x), y + block.post_norm2(block.mlp(block.norm2(y))))
