"""`zoo.optimize(dtype=torch.bfloat16)` on a CPU without AVX-512 computes, with a warning, and does not raise."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kernel_timers import fastest

import zoo
from zoo.inference import packed_linear as module


def refuse_bfloat16(weight: torch.Tensor, rows: int) -> torch.Tensor:
    """What oneDNN does on such a CPU."""
    if weight.dtype == torch.bfloat16:
        raise RuntimeError(
            "mkldnn_reorder_linear_weight: bf16 path needs the cpu support avx512bw, avx512vl and avx512dq"
        )
    return weight.to_mkldnn()


@pytest.fixture
def no_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    operators = SimpleNamespace(
        _is_mkldnn_bf16_supported=lambda: False,
        _reorder_linear_weight=refuse_bfloat16,
        _linear_pointwise=torch.ops.mkldnn._linear_pointwise,
    )
    monkeypatch.setattr(module.torch.ops, "mkldnn", operators)


@pytest.mark.parametrize("rows", ["many", "one"])
@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("vit_cifar_tiny", {"pixel_values": torch.randn(2, 3, 32, 32)}),
        ("bert_tiny", {"input_ids": torch.randint(5, 99, (2, 8))}),
    ],
)
def test_it_is_computed_without_onednn(name: str, batch: dict[str, Any], rows: Any, no_avx512: None) -> None:
    model = zoo.create_model(name, width=256, depth=1, heads=4, num_classes=3, seed=0).eval()
    with pytest.warns(UserWarning, match="no instructions for bfloat16"):
        fast = zoo.optimize(model, dtype=torch.bfloat16, rows=rows)
    with torch.no_grad():
        torch.testing.assert_close(fast(**batch), model(**batch), atol=0.05, rtol=0.05)


def test_float32_needs_no_such_instructions(no_avx512: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fastest(monkeypatch, "onednn")
    model = zoo.create_model("vit_cifar_tiny", width=256, depth=1, heads=4, seed=0).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = zoo.optimize(model)
    assert any(isinstance(part, module.OneDNNLinear) for part in fast.modules())
