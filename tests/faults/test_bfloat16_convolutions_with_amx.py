"""The gradients of a bfloat16 convolution are finite whatever lies in freed memory, on CPUs with AMX, too."""

import os
import random

import pytest
import torch
from torch import nn

from zoo.nn.frontends.waveform import ConvLayer

pytestmark = [
    pytest.mark.skipif(not torch.cpu._is_amx_tile_supported(), reason="the fault is of oneDNN on CPUs with AMX"),
    pytest.mark.skipif("ONEDNN_MAX_CPU_ISA" in os.environ, reason="ONEDNN_MAX_CPU_ISA may keep oneDNN from using AMX"),
]
SIZES = [64, 128, 300, 700, 1500, 3000, 6000, *(1 << n for n in range(13, 22))]


def poison() -> None:
    """Fill memory that is freed at once with NaN."""
    blocks = [torch.full((random.choice(SIZES),), float("nan"), dtype=torch.bfloat16) for _ in range(60)]
    del blocks


def bad_gradients(layer: nn.Module, calls: int = 10) -> int:
    """In how many backward passes a gradient of the layer is not finite."""
    random.seed(0)
    x = torch.randn(16, 64, 381, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    found = 0
    for _ in range(calls):
        layer.zero_grad()
        poison()
        y = layer(x)
        poison()
        y.float().square().mean().backward()
        found += not all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    return found


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="oneDNN reads scratch memory that it never wrote")
def test_convolution_of_torch() -> None:
    torch.manual_seed(0)
    assert bad_gradients(nn.Conv1d(64, 128, 4, 2, bias=False, dtype=torch.bfloat16)) == 0


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="convolutions of waveforms train through that of torch")
def test_convolution_of_waveforms() -> None:
    torch.manual_seed(0)
    assert bad_gradients(ConvLayer((64, 128), 4, 2, bias=False, norm=None, act="gelu").to(torch.bfloat16)) == 0
