"""S4D: its kernels against the definition, and the convolution against the recurrence in complex128."""

import math

import pytest
import torch

from zoo.nn import CAUSAL, BlockConfig, Context
from zoo.nn.init import initialize


def mixer(causal=True):
    block = BlockConfig(width=6, heads=2, causal=causal, mixer={"kind": "s4d", "state": 4}).stack(1)
    initialize(block, 0)
    return block.double()[0].mixer


def test_the_start_is_s4d_lin():
    own = mixer()
    torch.testing.assert_close(own.A_imag, (math.pi * torch.arange(4.0)).double().expand(6, 4), rtol=1e-6, atol=0)
    torch.testing.assert_close(-own.A_log.exp(), torch.full((6, 4), -0.5).double(), rtol=1e-6, atol=0)
    assert (own.log_dt >= math.log(1e-3)).all() and (own.log_dt <= math.log(0.1)).all()


@pytest.mark.parametrize("n", [1, 2, 7, 64, 65])
@torch.no_grad()
def test_the_kernel_is_the_zero_order_hold(n):
    own = mixer()
    A = torch.complex(-own.A_log.exp(), own.A_imag)
    step = own.log_dt.exp()[:, None]
    B = ((A * step).exp() - 1) / A
    C = torch.view_as_complex(own.C[0])
    expected = [2 * (C * B * (A * step).exp() ** t).sum(-1).real for t in range(n)]
    torch.testing.assert_close(own.kernel(n)[0], torch.stack(expected, -1), rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_the_second_kernel_sees_the_tokens_after():
    own, x = mixer(causal=False), torch.randn(1, 6, 9).double()
    before, after = own.kernel(9)
    expected = torch.zeros_like(x)
    for t in range(9):
        for s in range(9):
            weight = before[:, t - s] if s <= t else after[:, s - t - 1]
            expected[:, :, t] += weight * x[:, :, s]
    torch.testing.assert_close(own.convolve(x), expected, rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_the_convolution_does_not_wrap_around():
    own, x = mixer(), torch.zeros(1, 50, 6).double()
    x[:, -1] = 1e3
    y = own(x, Context(mask=CAUSAL))
    torch.testing.assert_close(y[:, :-1], own(torch.zeros_like(x), Context(mask=CAUSAL))[:, :-1])
