"""The chunked scan of Mamba-2 against the recurrence, written as a loop over the tokens, and its gated norm."""

import pytest
import torch
import torch.nn.functional as F

import zoo
from zoo.nn.mixers.mamba2 import GatedRMSNorm, chunked_scan


def recurrence(dt, x, A, B, C, h):
    outputs, heads = [], x.shape[2]
    B, C = (t.repeat_interleave(heads // t.shape[2], 2) for t in (B, C))
    for t in range(x.shape[1]):
        new = torch.einsum("bh,bhp,bhs->bhps", dt[:, t], x[:, t], B[:, t])
        h = (dt[:, t] * A).exp()[..., None, None] * h + new
        outputs.append(torch.einsum("bhps,bhs->bhp", h, C[:, t]))
    return torch.stack(outputs, 1), h


def inputs(n, scale=1.0):
    generator = torch.Generator().manual_seed(n)
    dt, x = torch.rand(2, n, 4, generator=generator) * scale, torch.randn(2, n, 4, 3, generator=generator)
    A = -16 * torch.rand(4, generator=generator)
    B, C = torch.randn(2, 2, n, 2, 5, generator=generator)
    start = torch.randn(2, 4, 3, 5, generator=generator)
    return [t.double().requires_grad_() for t in (dt, x, A, B, C, start)]


def results(scan, given):
    y, last = scan(*given)
    weights = torch.arange(y.numel(), dtype=y.dtype).cos().view(y.shape)
    return [y, last, *torch.autograd.grad((y * weights).sum() + last.sin().sum(), given)]


@pytest.mark.parametrize("n", [1, 2, 8, 19])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("chunk", [8, 64])
def test_values_and_gradients_are_those_of_the_recurrence(n, scale, chunk):
    given = inputs(n, scale)
    ours, expected = results(lambda *a: chunked_scan(*a, chunk=chunk), given), results(recurrence, given)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_norm_is_per_group_after_the_gate():
    norm = GatedRMSNorm(6, groups=2, eps=1e-5)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(6.0))
    y, z = torch.randn(2, 2, 3, 6)
    gated = y * F.silu(z)
    expected = torch.cat([F.rms_norm(part, (3,), eps=1e-5) for part in gated.split(3, -1)], -1) * torch.arange(6.0)
    torch.testing.assert_close(norm(y, F.silu(z)), expected)


@pytest.mark.parametrize("options, message", [
    ({"heads": 5}, "64 channels must be divisible by heads=5"), ({"heads": 4, "groups": 3}, "groups=3"),
    ({"state": 0}, "state=0"),
])  # fmt: skip
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_model("gpt_nano", width=32, depth=1, heads=4, mixer={"kind": "mamba2"} | options)
