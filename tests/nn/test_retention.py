"""Multi-scale retention: all forms against the formula of the paper, in float64."""

import pytest
import torch
from torch import Tensor

import zoo
from zoo.nn import CAUSAL, BlockConfig, Context
from zoo.nn.init import initialize
from zoo.nn.kv_cache import LayerState
from zoo.nn.mixers.base import MixerConfig
from zoo.nn.mixers.retention import Retention, decayed_attention


def retention(causal: bool = True, heads: int = 3, width: int = 24, **options) -> Retention:
    """Retention with random weights, in float64."""
    block = BlockConfig(width=width, heads=heads, causal=causal)
    mixer = Retention(MixerConfig(block, 0, 1), **options)
    initialize(mixer, 0)
    return mixer.double().eval()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def formula(mixer: Retention, x: Tensor) -> Tensor:
    """The parallel form of the paper, head by head, with complex rotations."""
    tokens, outputs = x.shape[1], []
    position = torch.arange(tokens, dtype=torch.float64)
    angle = position[:, None] * 10000 ** -torch.linspace(0, 1, mixer.head_dim // 2, dtype=torch.float64)
    turn = torch.polar(torch.ones_like(angle), angle)
    steps = position[:, None] - position
    for h in range(mixer.heads):
        rows = slice(h * mixer.head_dim, (h + 1) * mixer.head_dim)
        q, k = ((x @ f.weight[rows].T).unflatten(-1, (-1, 2)) for f in (mixer.q, mixer.k))
        q, k = (torch.view_as_complex(t.contiguous()) * turn for t in (q, k))
        scores = (q @ k.mH).real / mixer.head_dim**0.5
        decay = (1 - 2.0 ** (-5 - h)) ** steps.abs()
        weights = scores * (decay if not mixer.spec.causal else decay.tril())
        y = weights @ (x @ mixer.v.weight.unflatten(0, (mixer.heads, -1))[h].T)
        outputs.append(y / (y.square().mean(-1, keepdim=True) + mixer.eps).sqrt())
    gate = x @ mixer.gate.weight.T
    return (gate * gate.sigmoid() * torch.cat(outputs, -1)) @ mixer.out.weight.T


def run(mixer: Retention, x: Tensor, state=None) -> Tensor:
    return mixer(x, Context(mask=CAUSAL).for_forward(x.shape[1]), state)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 40])
@torch.no_grad()
def test_chunks_equal_the_formula(tokens, causal):
    for chunk in (1, 4, 8, 64):
        mixer, x = retention(causal, chunk=chunk, value_dim=48), random(2, tokens, 24)
        torch.testing.assert_close(run(mixer, x), formula(mixer, x), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_tokens_far_from_the_start():
    """Neither the rotation nor the decay loses digits: what 3,000 tokens give is the same in float32."""
    mixer, x = retention(chunk=32), random(1, 3000, 24)
    expected = formula(mixer, x)
    torch.testing.assert_close(run(mixer, x), expected, rtol=1e-9, atol=1e-9)
    assert (run(mixer.float(), x.float()) - expected).abs().max() < 2e-5 * expected.abs().max()


@torch.no_grad()
def test_steps_equal_the_formula():
    mixer, x = retention(), random(2, 20, 24)
    layer = LayerState(mixer.new_state(2, 4, x))
    size = sum(t.numel() for t in layer.mixer.tensors.values())
    parts = [run(mixer, part, layer) for part in x.split([1, 1, 5, 1, 10, 1, 1], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), formula(mixer, x), rtol=1e-10, atol=1e-10)
    assert sum(t.numel() for t in layer.mixer.tensors.values()) == size


def test_gradients_equal_those_of_one_chunk():
    x = random(2, 21, 24)
    grads = []
    for chunk in (4, 64):
        mixer = retention(chunk=chunk)
        run(mixer, x).square().sum().backward()
        grads.append([p.grad for p in mixer.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@torch.no_grad()
def test_extreme_decays():
    """A decay of any size, and of none, in every chunk."""
    q, k, v = (random(1, 2, 30, 4, seed=seed) for seed in range(3))
    decay = -torch.tensor([0.0, 1e-8, 1.0, 100.0, 1e5], dtype=torch.float64).repeat(2, 6)[None]
    state, expected = torch.zeros(1, 2, 4, 4, dtype=torch.float64), []
    for t in range(30):
        state = decay[:, :, t, None, None].exp() * state + k[:, :, t, :, None] * v[:, :, t, None]
        expected.append((q[:, :, t, None] @ state)[:, :, 0])
    for size in (1, 7, 64):
        y, end = decayed_attention(q, k, v, decay, torch.zeros_like(state), size)
        torch.testing.assert_close(y, torch.stack(expected, 2), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(end, state, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("options, message", [
    (dict(heads=24), "the size of a head is even"),
    (dict(value_dim=25), "value_dim=25 is not divisible by heads=3"),
    (dict(chunk=0), "chunk"),
])  # fmt: skip
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        retention(**options)


def test_conformance():
    report = zoo.check({"kind": "retention", "value_dim": 64, "chunk": 4})
    assert report.ok and set(report.results.values()) == {"yes"}, report
