"""The selective scan of Mamba against the recurrence, written as a loop over the tokens."""

import pytest
import torch

from zoo.nn.mixers import selective_scan as scan_file
from zoo.nn.mixers.selective_scan import segment_sizes, selective_scan


def recurrence(dt, v, A, B, C, h):
    outputs = []
    for t in range(dt.shape[1]):
        h = (dt[:, t, None] * A).exp() * h + v[:, t, None] * B[:, t, :, None]
        outputs.append((C[:, t, :, None] * h).sum(1))
    return torch.stack(outputs, 1), h


def inputs(n, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(n)
    dt, v = torch.rand(2, n, 6, generator=generator) * scale, torch.randn(2, n, 6, generator=generator)
    A = -16 * torch.rand(3, 6, generator=generator)
    B, C = torch.randn(2, 2, n, 3, generator=generator)
    start = torch.randn(2, 3, 6, generator=generator)
    return [t.to(dtype).requires_grad_() for t in (dt, v, A, B, C, start)]


def results(scan, given):
    y, last = scan(*given)
    weights = torch.arange(y.numel(), dtype=y.dtype).cos().view(y.shape)
    grads = torch.autograd.grad((y * weights).sum() + last.sin().sum(), given)
    return [y, last, *grads]


@pytest.mark.parametrize("n", [1, 2, 3, 31, 32, 33, 70, 200])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_values_and_gradients_are_those_of_the_recurrence(n, scale):
    given = inputs(n, scale)
    for ours, expected in zip(results(selective_scan, given), results(recurrence, given), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_extreme_time_steps_in_float32():
    """exp(dt A) from 1 to an exact 0; a scan that divides by products of them would overflow."""
    dt, *rest = inputs(100, dtype=torch.float32)
    dt = torch.where(torch.arange(100)[:, None] % 7 == 0, 1e4, dt.detach() * 1e-6).requires_grad_()
    for ours, expected in zip(results(selective_scan, [dt, *rest]), results(recurrence, [dt, *rest]), strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_the_numbers_of_steps_stay_small_for_long_rows():
    for n in (1, 33, 512, 16_384, 131_072):
        block, segment = segment_sizes(n)
        assert segment % block == 0 and -(-n // segment) <= scan_file.MAX_SEGMENTS
        assert 2 * block + segment // block <= 5 * max(segment, scan_file.SEGMENT) ** 0.5


def test_the_backward_pass_keeps_no_states_of_tokens():
    """Only those between segments: the rest is computed again."""
    given = inputs(256)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        selective_scan(*given)
    states = given[5].numel() * 256 // scan_file.SEGMENT
    assert kept and sum(kept) <= sum(t.numel() for t in given[:5]) + states
