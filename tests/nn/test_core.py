"""One law for all cores, `core(q, k, v, mask, bias) == core.weights(q, k, mask, bias) @ v`, and what follows."""

import pytest
import torch
from nn_cases import DIM, GATED, HEADS, KEEP, KERNELS, KINDS, SCORED, TOKENS, biases, core_of, honored, masks, qkv
from torch import nn

from zoo.nn import (
    CAUSAL,
    ALiBi,
    Core,
    CoreSpec,
    GlobalTokensMask,
    PaddingMask,
    Prefix,
    Strided,
    TensorBias,
    TensorMask,
    Window,
    Window2D,
    initialize,
)
from zoo.nn.masks import MaskView
from zoo.nn.registry import build_core
from zoo.nn.sdpa import repeat_kv
from zoo.nn.softmax_attention import SoftmaxAttention

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 3e-2}
LOOSE = {"performer": 20, "rfa": 20}  # sums of features divide: their rounding is the larger one


def law(core, q, k, v, mask, bias):
    """(what the core computes, what its slow twin says)."""
    return core(q, k, v, mask, bias), core.weights(q, k, mask, bias) @ repeat_kv(v, q.shape[1])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_law(kind, groups, dtype):
    core, (q, k, v) = core_of(kind, groups=groups).to(dtype), qkv(groups=groups, dtype=dtype)
    for mask_name, mask in masks().items():
        for bias_name, bias in biases(dtype=dtype).items():
            case = f"{kind}, mask {mask_name}, bias {bias_name}"
            if not honored(kind, mask_name, bias_name):
                with pytest.raises(ValueError, match="attention"):
                    core(q, k, v, mask, bias)
                with pytest.raises(ValueError, match="attention"):
                    core.weights(q, k, mask, bias)
                continue
            y, slow = law(core, q, k, v, mask, bias)
            assert y.dtype == dtype and y.shape == q.shape, case
            atol = TOLERANCE[dtype] * LOOSE.get(kind, 1)
            torch.testing.assert_close(y, slow, atol=atol, rtol=atol, msg=lambda m, case=case: f"{case}: {m}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("queries", "keys"), [(1, 9), (3, 9), (9, 4), (5, 1)])
def test_the_law_between_two_sequences(kind, queries, keys):
    core, (q, k, v) = core_of(kind, groups=2), qkv(groups=2, queries=queries, keys=keys)
    for mask in (None, PaddingMask(KEEP[:, :keys]), CAUSAL):
        refused = (mask is CAUSAL and keys < queries and kind not in SCORED) or (mask is not CAUSAL and kind in GATED)
        if refused:
            with pytest.raises(ValueError, match=f"{queries} queries and {keys} keys"):
                core(q, k, v, mask)
            continue
        y, slow = law(core, q, k, v, mask, None)
        torch.testing.assert_close(y, slow, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_the_weights(kind):
    """`maps`, which capture reads, takes masks in any form and gives the same numbers."""
    core, (q, k, _) = core_of(kind, groups=2), qkv(groups=2)
    for name, mask in masks().items():
        if honored(kind, name, "none"):
            torch.testing.assert_close(core.maps(q, k, mask), core.weights(q, k, mask), atol=1e-6, rtol=0)


@pytest.mark.parametrize("cls", [*KINDS, "own"])
def test_maps_of_padded_rows_use_positions(cls):
    """What a core hides by itself counts real tokens, in its maps as in its outputs."""
    spec = CoreSpec(heads=HEADS, kv_heads=HEADS, head_dim=DIM)
    core, (q, k, v) = Tokened(spec) if cls == "own" else core_of(cls), qkv()
    keep = KEEP.bool()
    places = (keep.long().cumsum(1) - 1).clamp(min=0)
    view = MaskView(CAUSAL, places, places, keep)
    maps = core.maps(q, k, view)
    torch.testing.assert_close(maps @ v, core(q, k, v, view), atol=1e-5, rtol=0)
    for row, real in enumerate(keep):
        alone = core.weights(q[row : row + 1, :, real], k[row : row + 1, :, real], CAUSAL)[0]
        torch.testing.assert_close(maps[row][:, real][:, :, real], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_sum_to_one_or_are_fully_masked(kind):
    core, (q, k, _) = core_of(kind), qkv()
    for name, mask in masks().items():
        if honored(kind, name, "none") and kind not in GATED:  # those are not normalized
            sums = core.weights(q, k, mask).sum(-1)
            fully_masked = core.maps(q, k, mask).abs().sum(-1) == 0
            torch.testing.assert_close(sums, (~fully_masked).float(), atol=1e-4, rtol=0)
            assert name in ("padding", "causal & padding", "tensor", "window") or not fully_masked.any()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_the_reference(kind):
    core = core_of(kind, groups=2).double()
    bias = torch.randn(1, HEADS, TOKENS, TOKENS, dtype=torch.float64)
    for name, mask in masks().items():
        for learned in (False, True):
            if not honored(kind, name, "tensor" if learned else "none"):
                continue
            leaves = [t.requires_grad_() for t in qkv(groups=2, dtype=torch.float64)] + list(core.parameters())
            added = [bias.clone().requires_grad_()] if learned else []
            fast, slow = (
                torch.autograd.grad(y.square().sum(), leaves + added)
                for y in law(core, *leaves[:3], mask, added[0] if learned else None)
            )
            for a, b in zip(fast, slow, strict=True):
                assert a.isfinite().all() and a.abs().max() > 0
                torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fully_masked_row_gives_zeros_and_zero_gradients(kind, dtype):
    core = core_of(kind, groups=2).to(dtype)
    keep = torch.ones(2, TOKENS, dtype=torch.bool)
    keep[0] = False  # nobody at all
    keep[1, :3] = False  # under a causal mask the first three queries see nobody
    q, k, v = (t.requires_grad_() for t in qkv(groups=2, dtype=dtype))
    y = core(q, k, v, CAUSAL & PaddingMask(keep))
    assert (y[0] == 0).all() and (y[1, :, :3] == 0).all() and (y[1, :, 3:] != 0).any(-1).all()
    assert y.isfinite().all()
    y.float().square().sum().backward()
    for t in (q, k, v):
        assert t.grad.isfinite().all() and (t.grad[0] == 0).all() and (t.grad[1, :, :3] == 0).all()
        assert (t.grad[1] != 0).any()
    for p in core.parameters():
        assert p.grad.isfinite().all()


@pytest.mark.parametrize("hidden", [-torch.inf, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", SCORED)
def test_a_bias_may_mask(kind, dtype, hidden):
    """Masks in the additive form of transformers compute what the bool form does."""
    core, (q, k, v) = core_of(kind, groups=2).to(dtype), qkv(groups=2, dtype=dtype)
    allowed = CAUSAL.dense(TOKENS, TOKENS)
    bias = torch.zeros(allowed.shape).masked_fill(~allowed, hidden)
    torch.testing.assert_close(core(q, k, v, None, bias), core(q, k, v, allowed), atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", SCORED)
def test_a_bias_that_masks_whole_rows(kind, dtype, learned):
    core, (q, k, v) = core_of(kind).to(dtype), qkv(dtype=dtype)
    bias = torch.zeros(TOKENS, TOKENS)
    bias[2] = -torch.inf  # nobody
    bias[7, 3:] = -torch.inf  # nobody behind a mask that hides the others
    mask = PaddingMask(torch.arange(TOKENS).expand(2, -1) >= 3)
    y, slow = law(core, q, k, v, mask, bias.requires_grad_(learned))
    assert (y[:, :, [2, 7]] == 0).all()
    torch.testing.assert_close(y, slow, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_later_tokens_do_not_leak(kind, scale):
    """Later tokens change, earlier outputs do not by one bit, the slow twin's neither."""
    core, (q, k, v) = core_of(kind, causal=True), (t * scale for t in qkv())
    later = [t.clone() for t in (q, k, v)]
    for t in later:
        t[:, :, 5:] = 40 * torch.randn_like(t[:, :, 5:])
    for mask in (CAUSAL, CAUSAL & PaddingMask(KEEP)):
        assert torch.equal(core(q, k, v, mask)[:, :, :5], core(*later, mask)[:, :, :5])
        before, after = core.weights(q, k, mask), core.weights(*later[:2], mask)
        assert torch.equal(before[:, :, :5, :5], after[:, :, :5, :5])
        assert (after.triu(1) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_masked_keys_have_no_influence(kind):
    core, (q, k, v) = core_of(kind, groups=2), qkv(groups=2)
    hidden = ~KEEP.bool()[:, None, :, None]
    y = core(q, k, v, PaddingMask(KEEP))
    other = core(q, k.masked_fill(hidden, 30.0), v.masked_fill(hidden, -7.0), PaddingMask(KEEP))
    torch.testing.assert_close(y, other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_shared_keys_are_repeated_keys(kind):
    q, k, v = qkv(groups=2)
    shared, own = core_of(kind, groups=2), core_of(kind, groups=HEADS)
    state = shared.state_dict()
    if kind in GATED:  # a row for each head of keys
        state = {name: value.repeat_interleave(HEADS // 2, 0) for name, value in state.items()}
    own.load_state_dict(state)
    for mask in (None, CAUSAL):
        torch.testing.assert_close(
            shared(q, k, v, mask), own(q, repeat_kv(k, HEADS), repeat_kv(v, HEADS), mask), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_close_to_float32(kind):
    q, k, v = qkv(groups=2)
    core = core_of(kind, groups=2)
    exact = core(q, k, v, CAUSAL)
    half = core.to(torch.bfloat16)(*(t.bfloat16() for t in (q, k, v)), CAUSAL)
    torch.testing.assert_close(half.float(), exact, atol=8e-2 if kind in ("performer", "rfa") else 3e-2, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_of_any_length(kind):
    core = build_core(kind, CoreSpec(heads=2, kv_heads=2, head_dim=8, causal=True))
    initialize(core, 0)
    for n in (1, 2, 17, 63, 64, 65, 131):
        q, k, v = torch.randn(3, 1, 2, n, 8)
        for mask in (None, CAUSAL):
            y, slow = law(core, q, k, v, mask, None)
            torch.testing.assert_close(y, slow, atol=2e-5, rtol=1e-4)
    assert all(p.requires_grad for p in core.parameters())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_dropout_acts_while_training_only_and_keeps_the_mean(kind, causal):
    core, (q, k, _), mask = core_of(kind, groups=2, dropout=0.3), qkv(groups=2), CAUSAL if causal else None
    ones = torch.ones(2, 2, TOKENS, DIM)
    exact = core(q, k, ones, mask)
    assert torch.equal(core(q, k, ones, mask), exact)
    if kind not in GATED:
        torch.testing.assert_close(exact, torch.ones_like(exact), atol=1e-4, rtol=0)
    core.train()
    torch.manual_seed(0)
    rows = (x.repeat(400, 1, 1, 1) for x in (q, k, ones))  # each drops others
    drawn = core(*rows, mask).unflatten(0, (400, len(q)))
    size = exact.abs().mean().item()
    assert drawn.mean().item() == pytest.approx(exact.mean().item(), abs=0.03 * size)
    last = kind in ("dilated", "block_sparse", "axial_column")  # there the last query is one that sees several keys
    assert drawn[:, 0, 0, -1 if last else 3, 0].unique().numel() > 5  # and really drops


def test_additive_is_bahdanaus_formula():
    core, (q, k, v) = core_of("additive"), qkv()
    for b, h, n in ((0, 0, 0), (1, 3, 7)):
        scores = torch.stack([core.w[h] @ torch.tanh(q[b, h, n] + k[b, h, m]) for m in range(TOKENS)])
        torch.testing.assert_close(core(q, k, v)[b, h, n], scores.softmax(0) @ v[b, h], atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [None, 0.25, 1.0])
def test_the_scale_of_the_spec(scale):
    core, (q, k, v) = SoftmaxAttention(CoreSpec(HEADS, HEADS, DIM, scale=scale)).eval(), qkv()
    expected = nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)
    torch.testing.assert_close(core(q, k, v), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(core.weights(q, k) @ v, expected, atol=1e-6, rtol=1e-5)


def test_softmax_is_torchs_multi_head_attention():
    from zoo.nn import Attention, Context

    width = HEADS * DIM
    theirs = nn.MultiheadAttention(width, HEADS, batch_first=True).double()
    ours = Attention(width, CoreSpec(heads=HEADS, kv_heads=HEADS, head_dim=DIM)).double()
    with torch.no_grad():
        nn.init.normal_(theirs.in_proj_bias)
        nn.init.normal_(theirs.out_proj.bias)
        for i, part in enumerate((ours.q, ours.k, ours.v)):
            part.weight.copy_(theirs.in_proj_weight[i * width : (i + 1) * width])
            part.bias.copy_(theirs.in_proj_bias[i * width : (i + 1) * width])
        ours.out.load_state_dict(theirs.out_proj.state_dict())
    x, memory = torch.randn(2, TOKENS, width).double(), torch.randn(2, 5, width).double()
    hidden = KEEP == 0
    future = ~CAUSAL.dense(TOKENS, TOKENS)[0, 0]
    cases = (
        (ours(x, Context()), theirs(x, x, x)),
        (ours(x, Context(mask=PaddingMask(KEEP))), theirs(x, x, x, key_padding_mask=hidden)),
        (ours(x, Context(mask=CAUSAL)), theirs(x, x, x, attn_mask=future, is_causal=True)),
        (ours(x, Context(), memory=memory), theirs(x, memory, memory)),
    )
    for y, (expected, _) in cases:
        torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)
    _, maps = theirs(x, x, x, average_attn_weights=False)
    q, k = ours.split(ours.q(x)), ours.split(ours.k(x))
    torch.testing.assert_close(ours.core.weights(q, k), maps, atol=1e-12, rtol=0)


PATTERNS = {
    "local": lambda q, k: abs(q - k) <= 2,
    "strided": lambda q, k: abs(q - k) <= 1 or (q - k) % 3 == 0,
    "longformer": lambda q, k: abs(q - k) <= 1 or q < 2 or k < 2,
}


@pytest.mark.parametrize("kind", PATTERNS)
def test_patterns(kind):
    core, (q, k, _) = core_of(kind), qkv()
    seen = torch.tensor([[PATTERNS[kind](i, j) for j in range(TOKENS)] for i in range(TOKENS)])
    assert torch.equal(core.weights(q, k)[0, 0] > 0, seen)


def test_bigbird_attends_to_window_first_block_and_random_blocks():
    core = build_core({"kind": "bigbird", "block": 2, "random": 1}, CoreSpec(heads=1, kv_heads=1, head_dim=4))
    n = 40
    q, k = torch.randn(2, 1, 1, n, 4)
    seen = core.weights(q, k)[0, 0] > 0
    for i in range(n):
        for j in range(n):
            if abs(i - j) <= 2 or i < 2 or j < 2:
                assert seen[i, j]
    assert 0.15 < seen.float().mean() < 0.35  # and little else
    other = build_core({"kind": "bigbird", "block": 2, "random": 1}, CoreSpec(heads=1, kv_heads=1, head_dim=4, layer=1))
    assert not torch.equal(other.weights(q, k)[0, 0] > 0, seen)  # each layer has its own graph


def test_a_causal_window_has_the_given_number_of_keys():
    core, (q, k, _) = core_of("local", causal=True), qkv()
    assert (core.weights(q, k)[0, 0] > 0).sum(-1).tolist() == [1, 2, 3, 4, 4, 4, 4, 4, 4]


def test_local_on_a_grid():
    core = build_core(
        {"kind": "local", "window": 3, "grid": [2, 4], "prefix": 1}, CoreSpec(heads=1, kv_heads=1, head_dim=4)
    )
    assert core.pattern == Window2D((2, 4), 1, 1, 1)
    q, k = torch.randn(2, 1, 1, 9, 4)
    assert (core.weights(q, k)[0, 0] > 0).sum(-1).tolist() == [9, 5, 7, 7, 5, 5, 7, 7, 5]


class Sigmoid(Core):
    """The smallest core of one's own."""

    def weights(self, q, k, mask=None, bias=None):
        return self.scores(q, k, mask, bias).sigmoid()


class Near(Sigmoid):
    pattern = Window(1, 1)


class Tokened(Sigmoid):
    pattern = GlobalTokensMask(1) | Strided(3)


@pytest.mark.parametrize("cls", [Sigmoid, Near, Tokened])
@pytest.mark.parametrize("groups", [4, 2])
def test_a_core_needs_weights_only(cls, groups):
    core, (q, k, v) = cls(CoreSpec(heads=4, kv_heads=groups, head_dim=DIM)), qkv(groups=groups)
    for mask in masks().values():
        for bias in biases().values():
            if isinstance(mask, torch.Tensor):
                mask = TensorMask(mask)
            y, slow = law(core, q, k, v, mask, bias)
            torch.testing.assert_close(y, slow, atol=1e-5, rtol=0)
    with pytest.raises(NotImplementedError, match=r"Core does not define weights\(q, k, mask, bias\)"):
        Core(CoreSpec(heads=4, kv_heads=4, head_dim=DIM))(*qkv())


def test_custom_weights_get_tensors():
    given = {}

    class Looks(Core):
        def weights(self, q, k, mask=None, bias=None):
            given.update(mask=mask, bias=bias)
            return self.scores(q, k, mask, bias).softmax(-1)

    core, (q, k, v) = Looks(CoreSpec(heads=4, kv_heads=4, head_dim=DIM)), qkv()
    core(q, k, v, CAUSAL & PaddingMask(KEEP), ALiBi(4) + TensorBias(torch.zeros(1, 1, TOKENS, TOKENS)))
    assert given["mask"].dtype == torch.bool and given["mask"].shape == (2, 1, TOKENS, TOKENS)
    assert given["bias"].is_floating_point() and given["bias"].shape == (1, 4, TOKENS, TOKENS)


@pytest.mark.parametrize("kind", KERNELS + GATED)
def test_linear_kinds_raise_for_unsupported_masks_and_biases(kind):
    core, (q, k, v) = core_of(kind), qkv()
    with pytest.raises(ValueError, match=rf"{kind}.*scores.*bias"):
        core(q, k, v, None, ALiBi(4))
    for mask in (Window(2, 2), CAUSAL | Prefix(2), torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()):
        with pytest.raises(ValueError, match=rf"{kind}.*(Window|Or|TensorMask).*local"):
            core(q, k, v, mask)
    y = core(q, k, v, CAUSAL & Window(99, 99))  # hides nothing here: nothing to refuse
    assert torch.equal(y, core(q, k, v, CAUSAL))
