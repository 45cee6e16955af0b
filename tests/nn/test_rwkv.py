"""RWKV: chunked and recurrent forms against a loop over the tokens that is written as the paper, in float64."""

import pytest
import torch
from torch import Tensor

from zoo.nn import CAUSAL, BlockConfig, Context
from zoo.nn.init import initialize
from zoo.nn.kv_cache import LayerState
from zoo.nn.mixers.base import MixerConfig
from zoo.nn.mixers.recurrences import linear_recurrence, previous_tokens
from zoo.nn.mixers.rwkv4 import RWKV4, ChannelMixing, empty_sums, past_sums, weighted_average


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spec(causal: bool = True, width: int = 12) -> MixerConfig:
    return MixerConfig(BlockConfig(width=width, heads=1, causal=causal), 1, 3)


def made(cls, *args, **options):
    """A module in float64, every parameter random."""
    module = cls(*args, **options).double().eval()
    with torch.no_grad():
        for seed, p in enumerate(module.parameters()):
            p.copy_(random(*p.shape, seed=seed) * (0.3 if p.ndim > 1 else 1))
    return module


def run(mixer, x: Tensor, state=None) -> Tensor:
    return mixer(x, Context(mask=CAUSAL).for_forward(x.shape[1]), state)


# --- The linear recurrence --------------------------------------------------------------------------------------------


def loop(gates: Tensor, inputs: Tensor, start: Tensor) -> Tensor:
    outputs = []
    for g, x in zip(gates.unbind(1), inputs.unbind(1), strict=True):
        start = g * start + x
        outputs.append(start)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("tokens", [1, 2, 3, 15, 16, 17, 50])
def test_a_linear_recurrence_and_its_gradients(tokens):
    gates = random(2, tokens, 1, 3).sigmoid()
    gates[:, tokens // 2] = 0
    gates[:, -1] = 1
    inputs, start = random(2, tokens, 2, 3, seed=1), random(2, 2, 3, seed=2)
    results = []
    for function in (linear_recurrence, loop):
        leaves = [t.clone().requires_grad_() for t in (gates, inputs, start)]
        h = function(*leaves)
        (h * random(*h.shape, seed=3)).sum().backward()
        results.append([h.detach(), *(leaf.grad for leaf in leaves)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(linear_recurrence(gates, inputs, start), results[1][0], rtol=1e-12, atol=1e-12)


def test_gradients_of_gradients_of_a_linear_recurrence():
    leaves = random(1, 5, 2).sigmoid(), random(1, 5, 2, seed=1), random(1, 2, seed=2)
    assert torch.autograd.gradgradcheck(linear_recurrence, [leaf.requires_grad_() for leaf in leaves])


def test_the_token_before_skips_padding():
    x = torch.arange(1.0, 7)[None, :, None]
    keep = torch.tensor([[0, 1, 0, 0, 1, 0]]).bool()
    before, last = previous_tokens(x, torch.tensor([[9.0]]), keep)
    assert before[0, [1, 4], 0].tolist() == [9.0, 2.0] and last.item() == 5.0
    before, last = previous_tokens(x, None)
    assert before[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5] and last.item() == 6.0


# --- RWKV-4 -----------------------------------------------------------------------------------------------------------


def average(k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor, causal: bool = True) -> Tensor:
    """The weighted average of the paper, from all exponents [B, N, N, A]."""
    position = torch.arange(k.shape[1])
    distance = (position[:, None] - position).abs()[..., None]
    exponent = k[:, None] - (distance - 1) * decay
    exponent = torch.where(distance == 0, k[:, None] + bonus, exponent)
    if causal:
        exponent = exponent.masked_fill((position[:, None] < position)[..., None], -torch.inf)
    return (exponent.softmax(2) * v[:, None]).sum(2)


def chunked(k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor) -> Tensor:
    past, _ = past_sums(k, v, decay, empty_sums(k), None)
    return weighted_average([past, (k + bonus, torch.stack([v, torch.ones_like(v)], 2))])


@pytest.mark.parametrize("tokens", [1, 2, 9, 33])
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_the_average_of_rwkv4_and_its_gradients(tokens, size):
    """Of keys whose exponentials overflow, too, and of decays from none to one that forgets at once."""
    k, v = size * random(2, tokens, 5), random(2, tokens, 5, seed=1)
    decay, bonus = torch.tensor([0.0, 1e-3, 1.0, 50.0, 1e5]).double(), random(5, seed=2)
    results = []
    for function in (chunked, average):
        leaves = [t.clone().requires_grad_() for t in (k, v, decay, bonus)]
        y = function(*leaves)
        (y * random(*y.shape, seed=3)).sum().backward()
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)


@torch.no_grad()
def test_the_average_of_rwkv4_in_float32_at_4096_tokens():
    k, v = 3 * random(1, 4096, 4), random(1, 4096, 4, seed=1)
    decay, bonus = torch.tensor([0.0, 1e-4, 0.3, 20.0]).double(), random(4, seed=2)
    ours = chunked(*(t.float() for t in (k, v, decay, bonus)))
    assert (ours - average(k, v, decay, bonus)).abs().max() < 1e-5


def time_mixing(mixer: RWKV4, x: Tensor) -> Tensor:
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    k = mixer.k(x * mixer.mix_k + before * (1 - mixer.mix_k))
    v = mixer.v(x * mixer.mix_v + before * (1 - mixer.mix_v))
    r = mixer.r(x * mixer.mix_r + before * (1 - mixer.mix_r))
    return mixer.out(r.sigmoid() * average(k, v, mixer.decay.exp(), mixer.bonus, mixer.spec.causal))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tokens", [1, 2, 11])
@torch.no_grad()
def test_time_mixing_equals_the_paper(tokens, causal):
    mixer, x = made(RWKV4, spec(causal)), random(2, tokens, 12)
    torch.testing.assert_close(run(mixer, x), time_mixing(mixer, x), rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_steps_of_time_mixing_keep_a_state_of_one_size():
    mixer, x = made(RWKV4, spec()), random(2, 20, 12)
    layer = LayerState(mixer.new_state(2, 4, x))
    size = sum(t.numel() for t in layer.mixer.tensors.values())
    parts = [run(mixer, part, layer) for part in x.split([1, 1, 5, 1, 10, 1, 1], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), time_mixing(mixer, x), rtol=1e-10, atol=1e-12)
    assert sum(t.numel() for t in layer.mixer.tensors.values()) == size


@torch.no_grad()
def test_channel_mixing_equals_the_paper_and_decodes():
    mixing, x = made(ChannelMixing, spec(), 20), random(2, 9, 12)
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    up = mixing.up(x * mixing.mix_up + before * (1 - mixing.mix_up))
    r = mixing.r(x * mixing.mix_r + before * (1 - mixing.mix_r))
    expected = r.sigmoid() * mixing.down(up.relu() ** 2)
    torch.testing.assert_close(mixing(x, Context()), expected, rtol=1e-12, atol=1e-12)
    state = mixing.new_state(2, x)
    parts = [mixing(part, Context(), state) for part in x.split([1, 3, 1, 4], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-12, atol=1e-12)


def test_initial_values_are_those_of_the_paper():
    mixer = RWKV4(MixerConfig(BlockConfig(width=8, heads=1), 1, 2))
    initialize(mixer, 0)
    assert mixer.decay.tolist() == pytest.approx([-5 + 8 * (i / 7) ** 2 for i in range(8)], abs=1e-5)
    assert mixer.bonus[:3].tolist() == pytest.approx([-1.204, -0.704, -1.704], abs=1e-3)
    assert mixer.mix_v.tolist() == pytest.approx([(i / 8) ** 0.5 + 0.3 for i in range(8)], abs=1e-6)
