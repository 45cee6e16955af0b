"""Every kernel of a linear layer gives the numbers of torch, for one row and many, and can be copied."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from zoo.inference import packed_linear
from zoo.inference.packed_linear import (
    KERNELS,
    ByRows,
    ChunkedLinear,
    ConstantLinear,
    FusedActivationLinear,
    GatedLinear,
    OneDNNLinear,
    TransposedLinear,
    chunked_product,
    is_chunkable,
)
from zoo.nn.mlp import activation

ACTS = [None, "gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]


def layer(dtype: torch.dtype = torch.float32, bias: bool = True) -> tuple[torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 64, generator=generator) / 8
    return weight.to(dtype), torch.randn(96, generator=generator).to(dtype) if bias else None


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_kernel_gives_the_same_numbers(name, act, bias, dtype):
    weight, b = layer(dtype, bias)
    kernel = KERNELS[name]
    if not any(kernel.supports(weight, act, rows) for rows in ("many", "one")):
        pytest.skip(f"{name} does not compute {act} in {dtype} here")
    made = kernel(weight, b, act)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float64: 1e-12}[dtype]
    for shape in ((1, 1), (2, 5), (1, 70)):
        x = torch.randn(*shape, 64, dtype=dtype)
        expected = F.linear(x, weight, b)
        expected = expected if act is None else activation(act)(expected)
        torch.testing.assert_close(made(x), expected, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(copy.deepcopy(made)(x), made(x), atol=0, rtol=0)
    assert copy.deepcopy(made).weight_ is made.weight_  # constants are not copied
    if name == "mkl":
        assert copy.deepcopy(made).weight is made.weight
    assert torch.equal(made.weight, weight)
    assert made.bias is None if b is None else torch.equal(made.bias, b)


def test_the_plain_kernel_shares_the_memory_of_the_weight_and_the_transposed_one_reads_columns():
    weight, bias = layer()
    assert ConstantLinear(weight, bias, None).weight_.data_ptr() == weight.data_ptr()
    transposed = TransposedLinear(weight, bias, None).weight_
    assert transposed.shape == weight.shape and transposed.stride() == (1, 96)


def test_what_is_a_candidate():
    def candidates(weight, act, rows):
        return [name for name, kernel in KERNELS.items() if kernel.supports(weight, act, rows)]

    weight, _ = layer()
    assert candidates(weight.double(), None, "many") == ["plain"]
    assert candidates(weight.double(), None, "one") == ["plain", "transposed"]
    assert candidates(weight.to("meta"), "gelu", "one") == ["plain"]
    assert "onednn" in candidates(weight, None, "many") and "onednn_unfused" not in candidates(weight, None, "many")
    assert "onednn_unfused" in candidates(weight, "gelu", "many")
    assert "onednn_unfused" not in candidates(weight, "quick_gelu", "many")  # the same as "onednn"
    assert not {"transposed", "mkl", "chunked"} & set(candidates(weight, None, "many"))
    assert ("chunked" in candidates(weight, "gelu", "one")) == torch.backends.mkl.is_available()


def test_chunks_share_the_memory_of_the_weight_and_are_used_for_one_row(monkeypatch):
    weight, bias = layer()
    made, calls = ChunkedLinear(weight, bias, "relu"), []
    assert made.chunks.data_ptr() == weight.data_ptr() and made.rest.data_ptr() == weight[64:].data_ptr()
    monkeypatch.setattr(packed_linear, "chunked_product", lambda *args: calls.append(1) or chunked_product(*args))
    for shape, number in (((1, 64), 1), ((1, 1, 64), 1), ((2, 1, 64), 0), ((0, 64), 0)):
        calls.clear()
        x = torch.randn(shape)
        torch.testing.assert_close(made(x), F.linear(x, weight, bias).relu(), atol=1e-5, rtol=1e-5)
        assert len(calls) == number
    for other in (weight[:63], weight.mT, weight.expand(3, 96, 64)[0].double(), torch.zeros(64, 3073), weight[:, :63]):
        assert not is_chunkable(other)


def test_without_onednn_it_is_no_candidate(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert packed_linear.onednn_dtypes() == () and not OneDNNLinear.supports(layer()[0], None, "many")


def test_by_rows():
    weight, bias = layer()
    few, many = ConstantLinear(weight, bias, None), ConstantLinear(weight, bias, "relu")
    either = ByRows(few, many, 6)
    for shape, expected in (((1, 5), few), ((5, 1), few), ((2, 3), many), ((1, 6), many)):
        x = torch.randn(*shape, 64)
        assert torch.equal(either(x), expected(x))


@pytest.mark.parametrize("act", ["gelu_tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_activation_in_the_product_of_cublaslt_has_a_twin_on_the_cpu(act, bias):
    weight, b = layer(bias=bias)
    made, x = FusedActivationLinear(weight, b, act), torch.randn(2, 5, 64)
    assert torch.equal(made(x), activation(act)(F.linear(x, weight, b)))
    assert torch.equal(made(x[0]), made(x)[0])


def test_where_the_activation_is_in_the_product():
    def supported(act, dtype=torch.bfloat16, is_cuda=True):
        return FusedActivationLinear.supports(SimpleNamespace(is_cuda=is_cuda, dtype=dtype), act, "many")

    assert supported("gelu_tanh") and supported("relu") and supported("relu", torch.float32)
    assert not supported("gelu")  # cublasLt computes the tanh form
    assert not any(map(supported, [None, "silu", "quick_gelu"]))
    assert not supported("relu", torch.float64) and not supported("relu", is_cuda=False)


def test_in_bfloat16_the_tanh_form_costs_less_than_rounding_before_the_exact_one():
    """What approximate_gelu=True changes: one product rounds once, and its GELU differs by up to 4.8e-4."""
    x = torch.linspace(-12, 12, 1_200_001, dtype=torch.float64)
    difference = (F.gelu(x) - F.gelu(x, approximate="tanh")).abs()
    assert 4.7e-4 < difference.max() <= 4.8e-4
    assert difference[x.abs() > 5].max() < 2e-6
    values = torch.randn(1_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for scale, dtype, holds in (
        (0.3, torch.bfloat16, True),
        (1, torch.bfloat16, True),
        (3, torch.bfloat16, True),
        (1, torch.float16, False),
    ):
        v = scale * values
        one_step = F.gelu(v, approximate="tanh").to(dtype)
        two_steps = F.gelu(v.to(dtype).double()).to(dtype)
        errors = [float((y.double() - F.gelu(v)).abs().mean()) for y in (one_step, two_steps)]
        assert (errors[0] < errors[1]) == holds, (scale, dtype, errors)


@pytest.mark.parametrize("bias", [True, False])
def test_a_gated_product(bias):
    (gate, b), (up, c) = layer(bias=bias), layer(bias=bias)
    up = up + 1
    made = GatedLinear(torch.cat([gate, up]), torch.cat([b, c]) if bias else None, "silu")
    x = torch.randn(2, 5, 64)
    torch.testing.assert_close(made(x), F.silu(F.linear(x, gate, b)) * F.linear(x, up, c))


@pytest.mark.gpu
@pytest.mark.parametrize("act", ["gelu_tanh", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_activation_in_the_product_on_a_gpu(act, dtype):
    weight, bias = (t.to("cuda", dtype) for t in layer())
    for b in (bias, None):
        made = FusedActivationLinear(weight, b, act)
        for shape in ((1, 1), (3, 70), (0, 4), (1, 4096)):
            x = torch.randn(*shape, 64, device="cuda").to(dtype)
            exact = F.linear(x.double(), weight.double(), None if b is None else b.double())
            tolerance = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
            torch.testing.assert_close(
                made(x).double(), activation(act)(exact), atol=tolerance, rtol=tolerance, check_dtype=False
            )
