"""Rows packed without padding: on a GPU in one kernel, here by the record of a GPU and a twin of its flash kernel."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from gpu_twin import choose_as_on_a_gpu
from nn_cases import KINDS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.nn import (
    CAUSAL,
    ALiBi,
    BlockConfig,
    Context,
    Mixer,
    SoftmaxAttention,
    T5RelativeBias,
    Window,
    initialize,
    kernels,
    rotary,
    sdpa,
)
from zoo.nn.kernels import Capabilities, missing_on_cuda
from zoo.nn.lengths import Lengths
from zoo.nn.padding import count_real, group_rows, pack_rows
from zoo.nn.registry import CORES, MIXERS

WIDTH, HEADS, N = 32, 4, 9
KEEP = torch.tensor(
    [
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 1, 1, 1, 1, 1, 1],  # left
        [1, 0, 1, 1, 0, 1, 1, 1, 0],  # holes; as many real ones as the row before
        [1, 1, 0, 0, 0, 0, 0, 0, 0],  # right
        [0, 0, 0, 0, 0, 0, 0, 0, 0],  # nothing at all
    ]
)
COUNTS = KEEP.sum(1).tolist()
TABLE = torch.randn(8, HEADS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CONTEXTS = {
    "none": lambda: Context(),
    "causal": lambda: Context(mask=CAUSAL),
    "window": lambda: Context(mask=Window(2, 1)),
    "causal window": lambda: Context(mask=CAUSAL & Window(2, 1)),
    "rope": lambda: Context(mask=CAUSAL, rotary=rotary(torch.arange(N), 8)),
    "alibi": lambda: Context(mask=CAUSAL, bias=ALiBi(HEADS)),
    "buckets": lambda: Context(bias=T5RelativeBias(TABLE, True, 20)),
}
PACKED = ("none", "causal", "window", "causal window", "rope")


@pytest.fixture
def gpu(monkeypatch):
    return choose_as_on_a_gpu(monkeypatch, flash_takes=(torch.float64,))


def encoder(kind="softmax", depth=2, **options):
    attention = {"kind": kind, **KINDS[kind]} if kind in KINDS else kind
    made = BlockConfig(width=WIDTH, heads=HEADS, attention=attention, **options).stack(depth)
    initialize(made, 0)
    return made.double()


def inputs(width=WIDTH):
    return torch.randn(len(KEEP), N, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def run(stack, context, width=WIDTH, **options):
    """Output, and gradients of the input and of all parameters."""
    x = inputs(width).requires_grad_()
    stack.zero_grad()
    y = stack(x, context, keep=KEEP, **options)
    (y * torch.linspace(0, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in stack.parameters())]


def assert_equal(a, b):
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("name", CONTEXTS)
def test_one_kernel_for_all_rows_equals_groups_of_rows(request, name, groups):
    stack = encoder(kv_heads=groups, scale=0.3)
    expected = run(stack, CONTEXTS[name]())
    calls = request.getfixturevalue("gpu")
    assert_equal(run(stack, CONTEXTS[name]()), expected)
    assert len(calls) == (2 if name in PACKED else 0)
    calls.clear()
    assert_equal(run(stack, CONTEXTS[name](), lengths=COUNTS), expected)
    stack.checkpointing = True
    assert_equal(run(stack, CONTEXTS[name](), lengths=torch.tensor(COUNTS)), expected)
    assert len(calls) == (6 if name in PACKED else 0)
    assert all(call[1].shape[1] == groups for call in calls)  # shared key heads are not repeated


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_compute_packed_rows_on_a_gpu(request, kind, causal):
    stack, context = encoder(kind, kv_heads=2, causal=causal), Context(mask=CAUSAL if causal else None)
    expected = run(stack, context)
    calls = request.getfixturevalue("gpu")
    assert_equal(run(stack, context), expected)
    assert len(calls) == (2 if kind in ("softmax", "local") else 0)


def test_attention_in_single_precision_pads_rows_for_attention_alone(request, monkeypatch):
    stack, sizes = encoder().float(), []
    stack[0].mlp.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[:2]))
    stack[0].mixer.core.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape))
    x = torch.randn(len(KEEP), N, WIDTH)
    expected = [stack(x, context(), keep=KEEP) for context in (Context, CONTEXTS["causal"])]
    calls, causal = request.getfixturevalue("gpu"), []
    sizes.clear()
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **kw: causal.append(a[3:6]) or kernel(*a, **kw))
    for context, y in zip((Context, CONTEXTS["causal"]), expected, strict=True):
        torch.testing.assert_close(stack(x, context(), keep=KEEP), y, atol=1e-6, rtol=0)
    assert not calls and sizes == [(4, HEADS, N, 8), (1, sum(COUNTS))] * 2
    assert [mask is None for mask, _, _ in causal] == [False] * 2 + [True] * 2  # later keys are hidden: no mask


def test_a_core_with_a_forward_of_its_own_gets_padded_rows(request, monkeypatch):
    class Own(SoftmaxAttention):
        def forward(self, q, k, v, mask=None, bias=None):
            assert q.shape[0] == 4 or kernels.capabilities(q.device).device == "cpu"
            return super().forward(q, k, v, mask, bias)

    monkeypatch.setitem(CORES, "own", Own)
    stack = encoder("own")
    expected = run(stack, Context())
    calls = request.getfixturevalue("gpu")
    assert_equal(run(stack, Context()), expected)
    assert not calls


def test_mixers_get_groups_of_rows_on_a_gpu(request, monkeypatch):
    class Mean(Mixer):
        def __init__(self, spec):
            super().__init__(spec)
            self.proj = nn.Linear(spec.width, spec.width)

        def forward(self, x, context, state=None):
            return self.proj(x).mean(1, keepdim=True).expand_as(x)

    monkeypatch.setitem(MIXERS, "mean", Mean)
    stack = encoder(mixer="mean")
    expected = run(stack, Context())
    request.getfixturevalue("gpu")
    assert_equal(run(stack, Context()), expected)


def test_layouts_agree():
    groups, packed = group_rows(KEEP.bool()), pack_rows(KEEP, COUNTS, by_length=True)
    assert groups.sizes == packed.sizes == ((1, 2), (2, 6), (1, 9))
    for name in ("index", "positions", "row", "keep"):
        assert torch.equal(getattr(groups, name), getattr(packed, name)), name
    assert packed.starts.tolist() == [0, 2, 8, 14, 23] and packed.longest == 9
    in_order = pack_rows(KEEP, COUNTS)
    assert in_order.sizes == ((1, 9), (2, 6), (1, 2)) and in_order.starts.tolist() == [0, 9, 15, 21, 23]
    assert torch.equal(in_order.index, KEEP.flatten().nonzero()[:, 0])
    assert torch.equal(in_order.positions, (KEEP.cumsum(1) - 1)[KEEP.bool()])
    x = torch.randn(1, HEADS, 23, 8)
    for layout in (packed, in_order):
        padded = layout.pad(x)
        assert padded.shape == (4, HEADS, 9, 8) and torch.equal(layout.unpad(padded), x)
        assert not padded.transpose(1, 2)[~layout.keep].any()


def launches(run):
    """How many operations of a run compute something, instead of a view."""

    class Count(TorchDispatchMode):
        computed = 0

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            result = operation(*args, **kwargs or {})
            self.computed += not operation.is_view and operation is not torch.ops.aten._unsafe_view.default
            return result

    with Count() as count:
        run()
    return count.computed


def test_packed_rows_take_no_more_launches_than_padded_ones(monkeypatch):
    """Of a training step: on a GPU small batches take as long as it takes to launch their operations."""
    choose_as_on_a_gpu(monkeypatch, flash_takes=(torch.float64,))
    monkeypatch.setattr(sdpa, "flash_varlen", lambda q, k, v, *_: OneLaunch.apply(q, k, v))

    def step(depth, drop):
        stack = encoder(depth=depth)
        x = inputs()[:4].requires_grad_()  # no row of padding alone, whose outputs padded rows set to zero
        return launches(lambda: stack(x, keep=KEEP[:4], drop_padding=drop).sum().backward())

    (packed, deeper), (padded, deeper_padded) = ((step(1, drop), step(3, drop)) for drop in (True, False))
    assert deeper - packed <= deeper_padded - padded and packed <= padded


class OneLaunch(torch.autograd.Function):
    """As many operations as a fused kernel: one, and one in the backward pass."""

    @staticmethod
    def forward(ctx, q, k, v):
        return q.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.expand(3, *grad.shape).contiguous().unbind()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_gradient_is_deterministic_where_it_has_to_be(gpu, dtype):
    """Neither the layout nor rows that are padded for attention take operations that have no such form."""
    torch.use_deterministic_algorithms(True)
    try:
        x = inputs().to(dtype).requires_grad_()
        encoder().to(dtype)(x, keep=KEEP).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert x.grad.isfinite().all()


def test_rows_of_padding_alone_on_a_gpu(gpu):
    nothing = torch.zeros(2, N, dtype=torch.long)
    x = torch.randn(2, N, WIDTH, dtype=torch.float64).requires_grad_()
    for lengths in (None, [0, 0]):
        y = encoder()(x, keep=nothing, lengths=lengths)
        assert torch.equal(y, torch.zeros_like(y))


def test_lengths_are_checked(gpu):
    x = torch.randn(len(KEEP), N, WIDTH, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="sums of the rows of attention_mask"):  # the device checks, and goes on
        encoder()(x, keep=KEEP, lengths=Lengths([9, 6, 6, 3, 0]))
    with pytest.raises(ValueError, match="contains 2"):
        count_real(KEEP * 2, None)
    assert count_real(KEEP, None) == count_real(KEEP.bool(), None) == COUNTS


def test_lengths_are_checked_on_a_cpu():
    x = torch.randn(len(KEEP), N, WIDTH, dtype=torch.float64)
    stack = encoder()
    assert torch.equal(stack(x, keep=KEEP, lengths=COUNTS), stack(x, keep=KEEP))
    assert torch.equal(stack(x, keep=torch.ones_like(KEEP), lengths=[N] * 5), stack(x))
    with pytest.raises(ValueError, match=r"lengths\[3\] is 3, but row 3 of attention_mask has 2 real tokens"):
        stack(x, keep=KEEP, lengths=[9, 6, 6, 3, 0])
    with pytest.raises(ValueError, match="4 lengths for 5 rows"):
        stack(x, keep=KEEP, lengths=[9, 6, 6, 2])
    right = torch.arange(N) < torch.tensor(COUNTS)[:, None]
    assert torch.equal(stack(x, lengths=COUNTS), stack(x, keep=right))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", CONTEXTS)
def test_a_real_gpu_computes_packed_rows(name, dtype):
    """Forward and backward beside groups of rows in double precision on the CPU; with lengths nothing waits."""
    stack = BlockConfig(width=128, heads=4, kv_heads=2).stack(2)
    initialize(stack, 0)
    stack.double()
    expected = [x.clone() for x in run(stack, CONTEXTS[name](), width=128)]  # gradients move with their weights
    stack.to("cuda", dtype)
    context = CONTEXTS[name]()
    if name == "rope":
        context = Context(mask=CAUSAL, rotary=rotary(torch.arange(N, device="cuda"), 8))
    if name == "buckets":
        context = Context(bias=T5RelativeBias(TABLE.to("cuda", dtype), True, 20))
    tolerance = {torch.bfloat16: 4e-2, torch.float16: 5e-3, torch.float32: 1e-4}[dtype]
    kept = KEEP.cuda()
    x = inputs(128).to("cuda", dtype).requires_grad_()
    run_on = {"keep": kept, "lengths": COUNTS}
    stack(x, context, **run_on)  # whatever is made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        y = stack(x, context, **run_on)
        loss = (y * torch.linspace(0, 1, y.numel(), dtype=y.dtype, device="cuda").view_as(y)).sum()
        stack.zero_grad()
        x.grad = None
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip([y.detach(), x.grad, *(p.grad for p in stack.parameters())], expected, strict=True):
        error = (one.cpu().double() - other).abs().max() / other.abs().max().clamp(min=1)
        assert error <= tolerance


@pytest.mark.gpu
def test_a_real_gpu_is_waited_for_once_without_lengths():
    stack, x, kept = encoder().to("cuda", torch.bfloat16), inputs().to("cuda", torch.bfloat16), KEEP.cuda()
    with torch.no_grad():
        stack(x, keep=kept)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                stack(x, keep=kept)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert sum("synchroniz" in str(warning.message) for warning in found) == 1


def test_an_old_gpu_pads_rows(monkeypatch, gpu):
    old = Capabilities("cuda", (7, 5), missing=missing_on_cuda((7, 5), "", True))
    stack = encoder()
    expected = run(stack, Context())
    monkeypatch.setitem(kernels.RECORDS, torch.device("cpu"), old)
    gpu.clear()
    assert_equal(run(stack, Context()), expected)
    assert not gpu
