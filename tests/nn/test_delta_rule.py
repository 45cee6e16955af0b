"""The gated kinds: chunks, recurrence and parallel form agree, with the papers' equations and with other libraries."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from nn_cases import GATED, core_of
from torch import Tensor

from zoo.nn import CAUSAL, BlockConfig, PaddingMask, initialize, linear_chunks
from zoo.nn.context import Context
from zoo.nn.delta_rule import chunk_delta_rule, recurrent_decay, recurrent_delta_rule
from zoo.nn.linear_chunks import CHUNK, causal_decay

LENGTHS = [1, 2, 7, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def inputs(length: int, dim: int = 8) -> tuple[Tensor, ...]:
    """q, k (of norm 1), v, log decay, strength and a state, for 2 rows and 3 heads."""
    q, k, v = random(3, 2, 3, length, dim)
    decay, strength = F.logsigmoid(random(2, 3, length, seed=1)), random(2, 3, length, seed=2).sigmoid()
    return q, F.normalize(k, dim=-1), v, decay, strength, random(2, 3, dim, dim, seed=3)


def delta_by_equations(q, k, v, log_decay, beta, state) -> Tensor:
    """Yang et al. 2025, equation 10, with a transposed state: S_t = S_(t-1) a_t (I - b_t k_t k_t^T) + b_t v_t k_t^T."""
    rows = []
    for b in range(len(q)):
        for h in range(q.shape[1]):
            s, identity = state[b, h].mT, torch.eye(q.shape[3], dtype=q.dtype)
            for t in range(q.shape[2]):
                key, strength = k[b, h, t], beta[b, h, t]
                s = s @ (log_decay[b, h, t].exp() * (identity - strength * torch.outer(key, key)))
                s = s + strength * torch.outer(v[b, h, t], key)
                rows.append(s @ q[b, h, t])
    return torch.stack(rows).view(q.shape)


@pytest.mark.parametrize("decays", [True, False])
@pytest.mark.parametrize("length", LENGTHS)
def test_chunks_of_the_delta_rule_are_the_papers_equations(length: int, decays: bool) -> None:
    q, k, v, decay, beta, state = inputs(length)
    expected = delta_by_equations(q, k, v, decay if decays else torch.zeros_like(decay), beta, state)
    found = [run(q, k, v, decay if decays else None, beta, state) for run in (chunk_delta_rule, recurrent_delta_rule)]
    for y, _ in found:
        torch.testing.assert_close(y, expected, atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("length", LENGTHS)
def test_chunks_of_a_decaying_sum_are_its_recurrence(length: int) -> None:
    q, k, v, _, _, state = inputs(length)
    decay = F.logsigmoid(random(2, 3, length, 8, seed=4))
    (y, end), (expected, expected_end) = causal_decay(q, k, v, decay, state), recurrent_decay(q, k, v, decay, state)
    torch.testing.assert_close(y, expected, atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(end, expected_end, atol=1e-10, rtol=1e-9)
    total = decay.cumsum(2)  # and the closed form: each pair of tokens by itself
    between = (total[:, :, :, None] - total[:, :, None]).exp()  # B H N M F
    scores = (q[:, :, :, None] * k[:, :, None] * between).sum(-1).tril()
    closed = scores @ v + (q * total.exp()) @ state
    torch.testing.assert_close(y, closed, atol=1e-9, rtol=1e-8)


def test_the_gated_delta_rule_is_that_of_qwen3_next() -> None:
    qwen = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    q, k, v, decay, beta, state = (x.float() for x in inputs(2 * CHUNK + 9))
    theirs = [x.transpose(1, 2) for x in (q, k, v, decay, beta)]
    expected, end = qwen.torch_chunk_gated_delta_rule(*theirs, initial_state=state, output_final_state=True)
    y, ours = chunk_delta_rule(q * q.shape[-1] ** -0.5, k, v, decay, beta, state)
    torch.testing.assert_close(y, expected.transpose(1, 2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours, end, atol=1e-5, rtol=1e-5)


def test_gradients_of_the_chunks_are_those_of_the_recurrence() -> None:
    q, k, v, decay, beta, state = inputs(CHUNK + 9)
    rules: list[tuple[Callable, Callable, list[Tensor]]] = [
        (chunk_delta_rule, recurrent_delta_rule, [q, k, v, decay, beta, state]),
        (causal_decay, recurrent_decay, [q, k, v, F.logsigmoid(random(*q.shape, seed=4)), state]),
    ]
    for chunked, recurrence, leaves in rules:
        leaves = [x.requires_grad_() for x in leaves]
        both = [torch.autograd.grad(sum(x.sin().sum() for x in run(*leaves)), leaves) for run in (chunked, recurrence)]
        for ours, expected in zip(*both, strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize("decay", [0.0, -1e-4, -3.0, -40.0, -1e4])
def test_extreme_decays_stay_finite_and_exact(decay: float) -> None:
    """Also where some features decay at once and others never."""
    q, k, v, one, beta, state = inputs(2 * CHUNK + 3)
    one[:, :, ::3] = decay
    each = torch.zeros_like(q)
    each[..., ::2] = decay
    each[:, :, 5::7] = decay
    rules: list[tuple[Callable, Callable, list[Tensor]]] = [
        (chunk_delta_rule, recurrent_delta_rule, [q, k, v, one, beta, state]),
        (causal_decay, recurrent_decay, [q, k, v, each, state]),
    ]
    for chunked, recurrence, leaves in rules:
        expected = recurrence(*leaves)[0]
        single = [x.float().requires_grad_() for x in leaves]
        y = chunked(*single)[0]
        torch.testing.assert_close(y.double(), expected, atol=2e-4, rtol=2e-3)
        assert all(g.isfinite().all() for g in torch.autograd.grad(y.square().sum(), single))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", GATED)
def test_forward_is_the_readable_twin_in_all_segments(kind: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_chunks, "LEAST_SEGMENT", CHUNK)
    monkeypatch.setattr(linear_chunks, "SEGMENT", 1)
    core, n = core_of(kind, groups=2).double(), 2 * CHUNK + 11
    q, gates = random(2, 4, n, 8), random(2, 2, n, core.gate_width, seed=5)
    k, v = random(2, 2, 2, n, 8, seed=6)
    mask = PaddingMask(torch.arange(n) < torch.tensor([[n], [n - 30]]))
    mask = CAUSAL & mask if causal else mask
    weights = core.weights(q, k, mask, None, gates)
    y = core(q, k, v, mask, None, gates)
    torch.testing.assert_close(y, weights @ v.repeat_interleave(2, 1), atol=1e-9, rtol=1e-9)
    assert not torch.allclose(y, core(q, k, v, mask), atol=1e-3)  # the gates count
    if not causal:  # both directions: the mean of the causal outputs and those of the reversed sequence
        real = [x[:1] for x in (q, k, v, gates)]
        ahead = core(*real[:3], CAUSAL, None, real[3])
        back = core(*(x.flip(2) for x in real[:3]), CAUSAL, None, real[3].flip(2)).flip(2)
        torch.testing.assert_close(y[:1], (ahead + back) / 2, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", GATED)
def test_the_gates_depend_on_the_input_of_their_tokens(kind: str) -> None:
    """Each of a block's parameters gets a gradient; steps, packed rows and padded rows are the full forward."""
    stack = BlockConfig(width=32, heads=4, kv_heads=2, causal=True, attention=kind).stack(2)
    initialize(stack, 0)
    stack = stack.double()
    x, context = random(2, 70, 32), Context(mask=CAUSAL)
    full = stack(x, context)
    full.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in stack.parameters())
    state = stack.new_state(2, 4, x)
    parts = [stack(part, context, state=state) for part in x.split([40, 1, 1, 28], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-9, rtol=1e-9)
    keep = torch.arange(70) < torch.tensor([[70], [33]])
    for drop in (True, False):
        padded = stack(x, context, keep=keep, drop_padding=drop)
        torch.testing.assert_close(padded[1, :33], full[1, :33], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", GATED)
def test_the_state_has_one_size(kind: str) -> None:
    core = core_of(kind, causal=True)
    state, sizes = core.new_state(2, 4, torch.zeros(1)), set()
    for step in range(40):
        q, k, v = torch.randn(3, 2, 4, 1 + step % 3, 8)
        core.decode(q, k, v, state, CAUSAL)
        sizes.add(state["sum"].shape)
    assert sizes == {(2, 4, 8, 8)}


@pytest.mark.parametrize("kind", GATED)
def test_two_sequences_are_refused_by_name(kind: str) -> None:
    with pytest.raises(ValueError, match=f"cross_attention='{kind}'.*self-attention only.*'softmax'"):
        BlockConfig(width=32, heads=4).stack(1, cross=kind)


@pytest.mark.parametrize("kind", GATED)
def test_whole_graphs_compile(kind: str) -> None:
    core = core_of(kind)
    compiled = torch.compile(core, backend="eager", fullgraph=True)
    q, k, v = torch.randn(3, 2, 4, 150, 8)
    torch.testing.assert_close(compiled(q, k, v, CAUSAL), core(q, k, v, CAUSAL))


def test_the_first_decays_are_those_of_the_papers() -> None:
    core = core_of("gated_delta", heads=64, groups=64)
    log_decay, strength = core.controls(core.gate_bias[None, :, None])
    steps = -log_decay.flatten() / core.log_rate.exp()
    assert 9.9e-4 <= steps.min() < 3e-3 and 0.03 < steps.max() <= 0.101
    assert core.log_rate.min() >= 0 and core.log_rate.max() <= math.log(16)
    assert (strength == 0.5).all()
    log_decay, _ = core_of("gated_linear").controls(torch.zeros(1, 1, 1, 8))
    torch.testing.assert_close(log_decay.exp(), torch.full_like(log_decay, 0.5 ** (1 / 16)))


def test_a_value_that_is_written_again_replaces_the_old_one() -> None:
    """What the delta rule is for: a memory of the last value of each key."""
    keys, values = torch.eye(8, dtype=torch.float64)[None, None], random(1, 1, 24, 8)
    k = keys.repeat(1, 1, 3, 1)
    _, state = chunk_delta_rule(k, k, values, None, torch.ones(1, 1, 24, dtype=torch.float64))
    torch.testing.assert_close(keys @ state, values[:, :, -8:])
