import pytest
import torch
from flex_cases import N, choose_flex_on_cpu, patterns
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from zoo.nn import (
    CAUSAL,
    NO_MASK,
    ALiBi,
    DocumentMask,
    GraphMask,
    T5RelativeBias,
    TensorBias,
    TensorMask,
    Window,
    kernels,
    sdpa,
)
from zoo.nn.context import Context
from zoo.nn.masks import MaskView, RandomBlocks, Window2D
from zoo.nn.position_biases import BiasView
from zoo.nn.sdpa import attend, explain_kernel
from zoo.nn.sparse import block_masks, flex_attention
from zoo.nn.sparse.block_masks import blocks_of, compiled_lists, lists_in_chunks, signature
from zoo.nn.sparse.flex_attention import check_table, is_pattern

SCALE = 0.3


def inputs(n=N, *, rows=2, heads=4, groups=2, dim=16, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, h, n, dim) for h in (heads, groups, groups)]
    return [torch.randn(s, generator=generator).to(device, dtype).requires_grad_() for s in shapes]


def bias_of(name, heads=4):
    table = torch.randn(32, heads, generator=torch.Generator().manual_seed(1)).requires_grad_()
    return {
        "none": (None, None),
        "alibi": (ALiBi(heads), None),
        "t5": (T5RelativeBias(table), table),
        "sum": (ALiBi(heads) + T5RelativeBias(table, bidirectional=False), table),
    }[name]


def results(mask, bias, table, tensors):
    """Outputs and gradients of an attention."""
    if isinstance(mask, MaskView):
        mask = MaskView(mask.inner, mask.q, mask.k, mask.keep)  # as in another forward
    y = attend(*tensors, mask, bias, SCALE)
    wanted = tensors if table is None else [*tensors, table]
    weights = torch.linspace(-1, 1, y.shape[-1], device=y.device, dtype=y.dtype)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), wanted)]


def assert_twins(monkeypatch, mask, bias=None, table=None, tolerance=2e-6, **options):
    """flex_attention and the dense form agree, forward and backward."""
    tensors = inputs(**options)
    expected = results(mask, bias, table, tensors)
    with monkeypatch.context() as patch:
        choose_flex_on_cpu(patch)
        used = []
        patch.setattr(sdpa, "flex_attend", lambda *args: used.append(1) or flex_attention.flex_attend(*args))
        ours = results(mask, bias, table, tensors)
    assert used
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance * max(1.0, b.abs().max().item()), rtol=0)


@pytest.mark.parametrize("name", patterns())
def test_patterns_are_the_dense_form(monkeypatch, name):
    assert_twins(monkeypatch, patterns()[name])


@pytest.mark.parametrize("mask", ["none", "causal", "prefix", "padded causal"])
@pytest.mark.parametrize("name", ["alibi", "t5", "sum"])
def test_biases_and_their_gradients_are_the_dense_form(monkeypatch, name, mask):
    bias, table = bias_of(name)
    mask = {"none": NO_MASK, "causal": CAUSAL}.get(mask) or patterns()[mask]
    if isinstance(mask, MaskView):
        bias = BiasView(bias, mask.q, mask.k)
    assert_twins(monkeypatch, mask, bias, table, tolerance=4e-6)  # a table's entry sums 10,000 gradients


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dim", [8, 20])
def test_heads_of_any_size(monkeypatch, groups, dim):
    assert_twins(monkeypatch, Window(30, 30), groups=groups, dim=dim)


def test_fewer_queries_than_keys_are_the_last_positions(monkeypatch):
    q, k, v = inputs()
    for mask, bias in ((Window(30, 0), None), (CAUSAL, ALiBi(4))):
        expected = attend(q[:, :, -150:], k, v, mask, bias, SCALE)
        with monkeypatch.context() as patch:
            choose_flex_on_cpu(patch)
            torch.testing.assert_close(attend(q[:, :, -150:], k, v, mask, bias, SCALE), expected, atol=2e-6, rtol=0)


def test_queries_without_keys_are_zeros_with_zero_gradients(monkeypatch):
    choose_flex_on_cpu(monkeypatch)
    keep = torch.ones(2, N, dtype=torch.bool)
    keep[0, : N // 2] = False
    index = torch.arange(N)[None]
    q, k, v = inputs()
    y = attend(q, k, v, MaskView(Window(3, 3), index, index, keep), None, SCALE)
    y.sum().backward()
    assert not y[0, :, : N // 2 - 3].any() and not q.grad[0, :, : N // 2 - 3].any()
    assert y.isfinite().all() and all(t.grad.isfinite().all() for t in (q, k, v))


def test_twelve_layers_of_bigbird_are_compiled_once(monkeypatch):
    choose_flex_on_cpu(monkeypatch)
    q, k, v = inputs()
    counters.clear()
    with torch.no_grad():
        layers = [attend(q, k, v, NO_MASK, None, SCALE, 0.0, RandomBlocks(16, 2, seed)) for seed in range(12)]
    assert counters["stats"]["unique_graphs"] == 1
    assert not torch.equal(layers[0], layers[1])


def test_documents_of_another_forward_are_not_compiled_again(monkeypatch):
    choose_flex_on_cpu(monkeypatch)
    q, k, v = inputs()
    counters.clear()
    with torch.no_grad():
        for shift in (30, 60, 90):
            ids = (torch.arange(N) > shift).long().repeat(2, 1)
            y = attend(q, k, v, CAUSAL & DocumentMask(ids), None, SCALE)
            alone = attend(q[:, :, shift + 1 :], k[:, :, shift + 1 :], v[:, :, shift + 1 :], CAUSAL, None, SCALE)
            torch.testing.assert_close(y[:, :, shift + 1 :], alone, atol=2e-6, rtol=0)
    assert counters["stats"]["unique_graphs"] == 1


def test_an_attention_is_traced_into_the_graph_of_a_model(monkeypatch):
    """As in torch.compile(model, fullgraph=True): mask, blocks and kernel are parts of one graph."""
    tensors = inputs()
    keep, graphs = patterns()["padded causal"].keep, []

    def forward(q, k, v, bias, pattern):  # as in a model: views and combinations are made while tracing
        context = Context(CAUSAL, bias).for_forward(N, keep=keep)
        return attend(q, k, v, context.mask, context.bias, SCALE, 0.0, pattern)

    for pattern, bias in ((patterns()["bigbird"], None), (NO_MASK, ALiBi(4)), (Window(9, 9) & Window(8, 8), None)):
        expected = forward(*tensors, bias, pattern)
        with monkeypatch.context() as patch:
            choose_flex_on_cpu(patch)
            compiled = torch.compile(forward, backend=lambda graph, _: graphs.append(graph) or graph, fullgraph=True)
            torch.testing.assert_close(compiled(*tensors, bias, pattern), expected, atol=2e-6, rtol=0)
    assert len(graphs) == 3 and all("flex_attention" in graph.code for graph in graphs)


def test_what_torch_cannot_compile_is_written_out_as_a_table(monkeypatch):
    tensors, mask = inputs(), Window(30, 30)
    expected = attend(*tensors, mask, None, SCALE)
    choose_flex_on_cpu(monkeypatch)

    def fails(graph, examples):
        raise NotImplementedError("no such kernel here")

    monkeypatch.setattr(block_masks, "BACKEND", fails)
    with pytest.warns(UserWarning, match="not used for an attention of 200 queries.*no such kernel here") as record:
        assert torch.equal(attend(*tensors, mask, None, SCALE), expected)
        assert torch.equal(attend(*tensors, mask, None, SCALE), expected)
    assert len(record) == 1
    monkeypatch.setattr(flex_attention, "MAX_TABLE_ENTRIES", N * N - 1)
    with pytest.raises(ValueError, match=r"200 queries.*40,000 entries.*no such kernel here.*attention='linear'"):
        attend(*tensors, mask, None, SCALE)


def test_a_backward_pass_that_torch_cannot_compile_is_replaced_too(monkeypatch):
    """It is compiled with the forward pass: in its first use it could only fail."""
    tensors, mask = inputs(), Window(30, 30)
    expected = attend(*tensors, mask, None, SCALE)
    choose_flex_on_cpu(monkeypatch)

    def fails(graph, examples):
        raise NotImplementedError("no such backward pass here")

    monkeypatch.setattr(block_masks, "BACKEND", aot_autograd(fw_compiler=lambda graph, _: graph, bw_compiler=fails))
    with torch.no_grad():
        attend(*tensors, mask, None, SCALE)
    assert not flex_attention._failed
    with pytest.warns(UserWarning, match=r"no such backward pass here\); its mask is written out as a table"):
        assert torch.equal(attend(*tensors, mask, None, SCALE), expected)


def test_the_choice_explains_itself(monkeypatch):
    q, k, v = inputs()
    choose_flex_on_cpu(monkeypatch)
    assert explain_kernel(q, k, v, Window(30, 30), None, 0.0, NO_MASK) == (
        "flex",
        "mask and bias are functions of positions, computed in the kernel",
    )
    choice = explain_kernel(q, k, v, Window(30, 30), None, 0.1, NO_MASK)
    assert choice.kernel != "flex" and "as a table; no flex: it has no dropout" in choice.reason
    choose_flex_on_cpu(monkeypatch, missing={"flex": "no triton"})
    assert "no flex: no triton" in explain_kernel(q, k, v, Window(30, 30), None, 0.0, NO_MASK).reason


def test_what_a_gpu_lacks_is_said_once(monkeypatch):
    kernels.warn_once.cache_clear()
    q, k, v = inputs()
    expected = attend(q, k, v, Window(30, 30), None, SCALE)
    choose_flex_on_cpu(monkeypatch, missing={"flex": "torch cannot compile here: the package triton is not installed"})
    with pytest.warns(UserWarning, match=rf"table of {N} queries and {N} keys.*cannot compute.*triton is not") as found:
        for _ in range(2):
            assert torch.equal(attend(q, k, v, Window(30, 30), None, SCALE), expected)
    assert len(found) == 1
    choose_flex_on_cpu(monkeypatch)
    wide = inputs(dim=264)
    with pytest.warns(UserWarning, match="it takes head dimensions up to 256, not 264"):
        attend(*wide, Window(30, 30), None, SCALE)
    kernels.warn_once.cache_clear()


def test_no_scores_beyond_the_limit(monkeypatch):
    """Where no fused kernel serves: torch's plain form, and soft caps without flex_attention."""
    q, k, v = inputs()
    monkeypatch.setattr(kernels, "MAX_SCORES", 2 * 4 * N * N - 1)
    attend(q, k, v, CAUSAL, None, SCALE)  # on a CPU, which has more memory and waits for nobody
    choose_flex_on_cpu(monkeypatch)
    attend(q, k, v, CAUSAL, None, SCALE)
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda *args, **options: 0)
    for mask in (NO_MASK, CAUSAL):
        with pytest.raises(ValueError, match=r"no fused kernel takes it here \(torch's fused kernels, with"):
            attend(q, k, v, mask, None, SCALE)
    with pytest.raises(ValueError, match=r"takes it here \(torch's fused kernels do not cap scores"):
        attend(q, k, v, NO_MASK, None, SCALE, softcap=5.0)
    attend(q[:, :, :1], k, v, NO_MASK, None, SCALE)
    attend(q, k, v, Window(30, 30), None, SCALE)  # flex_attention


def test_errors_of_the_attention_itself_are_raised(monkeypatch):
    choose_flex_on_cpu(monkeypatch)
    monkeypatch.setattr(flex_attention, "compiled", lambda key, scale: lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        attend(*inputs(), Window(30, 30), None, SCALE)


@pytest.mark.parametrize(
    ("mask", "bias", "expected"),
    [
        (Window(2, 2), None, True),
        (CAUSAL & DocumentMask(torch.zeros(1, 4)), None, True),
        (NO_MASK, ALiBi(4), True),
        (NO_MASK, BiasView(ALiBi(4) + ALiBi(4)), True),
        (MaskView(CAUSAL, keep=torch.ones(1, 4).bool()), None, True),
        (MaskView(NO_MASK, keep=torch.ones(1, 4).bool()), None, False),
        (CAUSAL & TensorMask(torch.ones(1, 1, 4, 4).bool()), None, False),
        (Window(2, 2), ALiBi(4) + TensorBias(torch.zeros(1, 1, 4, 4)), False),
        (CAUSAL | GraphMask(torch.tensor([[0], [1]]), 4), None, False),
    ],
)
def test_is_pattern(mask, bias, expected):
    assert is_pattern(mask, bias) is expected


def test_no_table_beyond_the_limit():
    check_table(Window(5, 5), None, 1 << 15, 1 << 15, "")
    with pytest.raises(ValueError, match=r"32,769 keys.*as 1 tables.*was not chosen \(it has no dropout"):
        check_table(Window(5, 5), None, 1 << 15, (1 << 15) + 1, "it has no dropout")
    with pytest.raises(ValueError, match="as 12 tables"):
        check_table(CAUSAL, ALiBi(12), 16384, 16384, "")
    check_table(NO_MASK, TensorBias(torch.zeros(1, 1, 1, 1).expand(1, 64, 16384, 16384)), 16384, 16384, "")


@pytest.mark.gpu
def test_the_kernel_on_a_gpu_is_the_dense_form_on_a_cpu(monkeypatch):
    """Window, documents, padding, shared heads and a learned bias at once, forward and backward, in bfloat16."""
    monkeypatch.setattr(kernels, "FLEX_MIN_LENGTH", 1)
    n = 1000
    padded, table = patterns(n)["padded causal local documents"], torch.randn(32, 4)

    def run(device, dtype):
        place = {name: getattr(padded, name).to(device) for name in ("q", "k", "keep")}
        documents = DocumentMask(torch.arange(n, device=device).div(300, rounding_mode="floor").repeat(2, 1))
        mask = MaskView(CAUSAL & Window(200, 0) & documents, **place)
        learned = table.to(device).requires_grad_()
        bias = BiasView(T5RelativeBias(learned), mask.q, mask.k)
        tensors = [t.detach().to(device, dtype).requires_grad_() for t in inputs(n, dtype=torch.bfloat16)]
        y = attend(*tensors, mask, bias, SCALE)
        weights = torch.linspace(-1, 1, y.shape[-1], device=device, dtype=dtype)
        return [y, *torch.autograd.grad((y * weights).sum(), [*tensors, learned])]

    for ours, expected in zip(run("cuda", torch.bfloat16), run("cpu", torch.float32), strict=True):
        torch.testing.assert_close(ours.cpu().float(), expected, atol=2e-2 * expected.abs().max().item(), rtol=0)
    assert not flex_attention._failed


@pytest.mark.gpu
def test_block_masks_of_one_forward_on_a_gpu_are_those_on_a_cpu():
    n = 1000
    ids = torch.arange(n).div(300, rounding_mode="floor").repeat(2, 1)
    cpu, gpu = (blocks_of(CAUSAL & DocumentMask(x), n, n, x.device) for x in (ids, ids.cuda()))
    for ours, expected in zip(gpu.block_mask.as_tuple(), cpu.block_mask.as_tuple(), strict=True):
        if isinstance(expected, torch.Tensor):
            assert torch.equal(ours.cpu(), expected)
    assert compiled_lists(signature(gpu.mask)).lists is not lists_in_chunks


@pytest.mark.gpu
def test_a_window_on_a_grid_on_a_gpu():
    q, k, v = (t.detach() for t in inputs(1024))
    mask = Window2D((32, 32), 3, 5)
    y = attend(q.cuda(), k.cuda(), v.cuda(), mask, None, SCALE)
    torch.testing.assert_close(y.cpu(), attend(q, k, v, mask, None, SCALE), atol=2e-6, rtol=0)
    assert not flex_attention._failed


@pytest.mark.gpu
def test_layers_of_bigbird_on_a_gpu_are_compiled_once():
    q, k, v = (t.detach() for t in inputs(1024))
    counters.clear()
    for seed in range(12):
        pattern = Window(16, 16) | RandomBlocks(16, 2, seed)
        y = attend(q.cuda(), k.cuda(), v.cuda(), NO_MASK, None, SCALE, 0.0, pattern)
        torch.testing.assert_close(y.cpu(), attend(q, k, v, pattern, None, SCALE), atol=2e-6, rtol=0)
    assert counters["stats"]["unique_graphs"] <= 1 and not flex_attention._failed
