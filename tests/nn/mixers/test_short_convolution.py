"""The short convolution: what it computes, in parallel and in steps."""

import pytest
import torch
import torch.nn.functional as F

import zoo
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.init import initialize
from zoo.nn.mixers.base import MixerConfig
from zoo.nn.mixers.short_convolution import ShortConvolution


def convolution(causal: bool, **options: int) -> ShortConvolution:
    module = ShortConvolution(MixerConfig(BlockConfig(width=8, heads=2, causal=causal), 0, 1), **options)
    initialize(module, 0)
    return module


def test_it_passes_the_checks_of_mixers() -> None:
    assert zoo.check("short_conv").ok


@pytest.mark.parametrize(("causal", "shifts"), [(True, (-2, -1, 0)), (False, (-1, 0, 1))])
def test_it_is_a_sum_of_shifted_tokens(causal: bool, shifts: tuple[int, ...]) -> None:
    module = convolution(causal)
    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    h, weight = module.input(x), module.conv.weight[:, 0]
    padded = F.pad(h, (0, 0, 2, 2))
    expected = sum(padded[:, 2 + shift : 8 + shift] * weight[:, i] for i, shift in enumerate(shifts))
    assert torch.allclose(module(x, Context()), module.out(expected), atol=1e-6)


def test_bad_kernels() -> None:
    with pytest.raises(ValueError, match="kernel=1: expected at least 2"):
        convolution(True, kernel=1)
    with pytest.raises(ValueError, match="odd in a model that is not causal"):
        convolution(False, kernel=4)
    assert convolution(True, kernel=4).conv.weight.shape == (8, 1, 4)


def test_a_hybrid_stack_generates_as_it_reads() -> None:
    model = zoo.create_model("gpt_nano", seed=0, width=32, depth=2, heads=2, mixer=["short_conv", "attention"]).eval()
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    with torch.no_grad():
        state = model.new_state(1)
        steps = torch.stack([model.decode(ids[:, i : i + 1], state) for i in range(5)], 1)
        assert torch.allclose(steps, model(ids), atol=1e-5)
