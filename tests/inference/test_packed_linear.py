"""Every kernel of a linear layer gives the numbers of torch, for one row and many, and can be copied."""

import copy

import pytest
import torch
import torch.nn.functional as F

from zoo.inference import packed_linear
from zoo.inference.packed_linear import KERNELS, ByRows, ConstantLinear, OneDNNLinear, TransposedLinear
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
    assert not {"transposed", "mkl"} & set(candidates(weight, None, "many"))


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
