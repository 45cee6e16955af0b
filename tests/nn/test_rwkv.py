"""RWKV: chunked and recurrent forms against a loop over the tokens that is written as the paper, in float64."""

import pytest
import torch
from torch import Tensor

import zoo
from zoo.nn import CAUSAL, BlockConfig, Context
from zoo.nn.init import initialize
from zoo.nn.kv_cache import LayerState
from zoo.nn.mixers.base import MixerConfig
from zoo.nn.mixers.recurrences import linear_recurrence, previous_tokens
from zoo.nn.mixers.rwkv4 import RWKV4, ChannelMixing, empty_sums, past_sums, weighted_average
from zoo.nn.mixers.rwkv6 import RWKV6, gated_attention


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


# --- RWKV-6 -----------------------------------------------------------------------------------------------------------


def naive(q: Tensor, k: Tensor, v: Tensor, d: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    for t in range(q.shape[2]):
        outputs.append((q[:, :, t, None] @ state)[:, :, 0])
        state = d[:, :, t, :, None].exp() * state + k[:, :, t, :, None] * v[:, :, t, None]
    return torch.stack(outputs, 2), state


@pytest.mark.parametrize("tokens", [1, 2, 3, 31, 32, 33, 70])
@pytest.mark.parametrize("speed", [1e-3, 1.0, 1e3])
def test_gated_attention_and_its_gradients(tokens, speed):
    q, k, v = (random(2, 3, tokens, 4, seed=seed) for seed in range(3))
    d, start = -speed * random(2, 3, tokens, 4, seed=3).exp(), random(2, 3, 4, 4, seed=4)
    results = []
    for function in (gated_attention, naive):
        leaves = [t.clone().requires_grad_() for t in (q, k, v, d, start)]
        y, end = function(*leaves)
        (y * random(*y.shape, seed=5)).sum().add((end * random(*end.shape, seed=6)).sum()).backward()
        results.append([y.detach(), end.detach(), *(leaf.grad for leaf in leaves)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)
    if tokens > 1:
        for size in (1, 2, 64):
            torch.testing.assert_close(gated_attention(q, k, v, d, start, size)[0], results[1][0])


@torch.no_grad()
def test_gated_attention_in_float32_where_decays_are_of_all_sizes():
    """A token that forgets everything beside others that forget nothing: no exponent is a difference of large sums."""
    q, k, v = (random(1, 1, 64, 4, seed=seed) for seed in range(3))
    d = -torch.where(random(1, 1, 64, 4, seed=3) > 1.5, 1e6, 1e-3).double()
    zeros = torch.zeros(1, 1, 4, 4).double()
    ours = gated_attention(*(t.float() for t in (q, k, v, d, zeros)))[0]
    assert (ours - naive(q, k, v, d, zeros)[0]).abs().max() < 2e-5


def time_mixing_6(mixer: RWKV6, x: Tensor) -> Tensor:
    """The formulas of the paper, with a loop over the tokens."""
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    low = (mixer.mix_down(x + (before - x) * mixer.mix_x)).tanh().chunk(5, -1)
    mixed = [x + (before - x) * (mixer.mix[i] + low[i] @ mixer.mix_up[i]) for i in range(5)]
    w = torch.exp(-torch.exp(mixer.decay + mixer.decay_up(mixer.decay_down(mixed[0]).tanh())))
    k, v, r = mixer.k(mixed[1]), mixer.v(mixed[2]), mixer.r(mixed[3])
    w, k, v, r = (t.unflatten(-1, (mixer.heads, -1)) for t in (w, k, v, r))
    bonus, tokens = mixer.bonus.view(mixer.heads, -1), range(x.shape[1])
    outputs = []
    for t in tokens:
        y = torch.einsum("bhk,hk,bhk,bhv->bhv", r[:, t], bonus, k[:, t], v[:, t])
        for s in tokens:
            if s == t or (mixer.spec.causal and s > t):
                continue
            between = w[:, min(s, t) + 1 : max(s, t)].prod(1)
            y = y + torch.einsum("bhk,bhk,bhk,bhv->bhv", r[:, t], between, k[:, s], v[:, s])
        y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 64e-5).sqrt()
        outputs.append(y.flatten(1) * mixer.norm.weight + mixer.norm.bias)
    gate = mixer.gate(mixed[4])
    return mixer.out(torch.stack(outputs, 1) * gate * gate.sigmoid())


def rwkv6(causal: bool = True) -> RWKV6:
    return made(RWKV6, MixerConfig(BlockConfig(width=12, heads=3, causal=causal), 1, 3), 4, 5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tokens", [1, 2, 11])
@torch.no_grad()
def test_rwkv6_equals_the_paper(tokens, causal):
    mixer, x = rwkv6(causal), random(2, tokens, 12)
    torch.testing.assert_close(run(mixer, x), time_mixing_6(mixer, x), rtol=1e-9, atol=1e-10)


@torch.no_grad()
def test_steps_of_rwkv6_keep_a_state_of_one_size():
    mixer, x = rwkv6(), random(2, 20, 12)
    layer = LayerState(mixer.new_state(2, 4, x))
    size = sum(t.numel() for t in layer.mixer.tensors.values())
    parts = [run(mixer, part, layer) for part in x.split([1, 1, 5, 1, 10, 1, 1], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), time_mixing_6(mixer, x), rtol=1e-9, atol=1e-10)
    assert sum(t.numel() for t in layer.mixer.tensors.values()) == size


@pytest.mark.parametrize("name", ["rwkv4", "rwkv6"])
def test_conformance(name):
    report = zoo.check(name)
    assert report.ok and set(report.results.values()) == {"yes"}, report
