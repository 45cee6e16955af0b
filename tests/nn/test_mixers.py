"""Every built-in mixer: its forms agree, in stacks and in models of every modality. New mixers are found here."""

import pytest
import torch
from speeds import full_unless

import zoo
from zoo.nn import CAUSAL, BlockConfig, Context, RecurrentState
from zoo.nn.init import initialize
from zoo.nn.mixers import selective_scan
from zoo.nn.registry import BUILT_IN_MIXERS

MODELS = {
    "vit_cifar_tiny": dict(image_size=16),
    "bert_tiny": dict(vocab_size=50, max_length=32),
    "gpt_nano": dict(vocab_size=50, max_length=32),
}
SMALL = dict(width=32, depth=2, heads=4, mlp_dim=48)


def stack(kind, causal=True, depth=2, dtype=torch.float64):
    blocks = BlockConfig(width=16, heads=4, causal=causal, mixer=kind).stack(depth)
    initialize(blocks, 0)
    return blocks.to(dtype).eval()


def tokens(n, rows=2, dtype=torch.float64):
    return torch.randn(rows, n, 16, generator=torch.Generator().manual_seed(0)).to(dtype)


def decode(blocks, x, sizes):
    state, parts = blocks.new_state(len(x), 4, x), []
    for step in x.split(sizes, 1):
        parts.append(blocks(step, Context(mask=CAUSAL), state=state))
    return torch.cat(parts, 1), state


@pytest.mark.parametrize("kind", BUILT_IN_MIXERS)
def test_the_conformance_tests_pass(kind):
    report = zoo.check(kind)
    assert report.ok, str(report)
    assert report.results["decoding"] == report.results["causal"] == report.results["padding"] == "yes"


@pytest.mark.parametrize("kind", BUILT_IN_MIXERS)
@pytest.mark.parametrize("n", [1, 2, 31, 64, 65, 150])
@torch.no_grad()
def test_one_forward_is_chunks_is_the_recurrence(kind, n):
    """At lengths that no chunk divides, too."""
    blocks, x = stack(kind), tokens(n)
    full = blocks(x, Context(mask=CAUSAL))
    recurrent, state = decode(blocks, x, 1)
    chunked, other = decode(blocks, x, 37)
    torch.testing.assert_close(recurrent, full, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(chunked, full, rtol=1e-9, atol=1e-9)
    if isinstance(state[0].mixer, RecurrentState):
        for name, value in state[0].mixer.tensors.items():
            torch.testing.assert_close(other[0].mixer[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", BUILT_IN_MIXERS)
@torch.no_grad()
def test_large_inputs_stay_finite_and_exact(kind):
    blocks = stack(kind, depth=1)
    blocks[0].norm1 = torch.nn.Identity()
    x = 200 * tokens(70)
    full = blocks(x, Context(mask=CAUSAL))
    assert full.isfinite().all()
    torch.testing.assert_close(decode(blocks, x, 1)[0], full, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", BUILT_IN_MIXERS)
@torch.no_grad()
def test_the_state_does_not_grow(kind):
    blocks = stack(kind)

    def size(n):
        state = decode(blocks, tokens(n), 8)[1]
        return sum(t.numel() for layer in state for t in layer.mixer.tensors.values())

    assert size(8) == size(80)


@pytest.mark.parametrize("kind", BUILT_IN_MIXERS)
def test_models_that_are_not_causal_see_both_directions(kind):
    blocks, x = stack(kind, causal=False, depth=1), tokens(9).requires_grad_()
    (seen,) = torch.autograd.grad(blocks(x)[:, 4].square().sum(), x)
    near = 1 if kind == "short_conv" else 4  # tokens on either side
    assert (seen.abs().amax((0, 2))[4 - near : 5 + near] > 0).all()


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
@torch.no_grad()
def test_both_directions_are_the_mean_of_a_row_and_the_reversed_row(kind):
    mixer, causal, x = stack(kind, causal=False)[0].mixer, stack(kind)[0].mixer, tokens(9)
    expected = (causal(x, Context()) + causal(x.flip(1), Context()).flip(1)) / 2
    torch.testing.assert_close(mixer(x, Context()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", BUILT_IN_MIXERS)
@torch.no_grad()
def test_padding_under_a_mask_is_moved_behind_the_real_tokens(kind):
    """As compiled and exported models keep it."""
    blocks, x = stack(kind, dtype=torch.float64), tokens(9)
    keep = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]]).bool()
    y = blocks(x, Context(mask=CAUSAL), keep=keep, drop_padding=False)
    assert not y[~keep].any()
    for row, real in enumerate(keep):
        alone = blocks(x[row : row + 1, real], Context(mask=CAUSAL))[0]
        torch.testing.assert_close(y[row, real], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", BUILT_IN_MIXERS)
def test_causal_gradients_reach_the_tokens_before_only(kind):
    blocks, x = stack(kind, depth=1), tokens(70).requires_grad_()
    (seen,) = torch.autograd.grad(blocks(x, Context(mask=CAUSAL))[:, 66].square().sum(), x)
    reached = seen.abs().amax((0, 2))
    assert (reached[64 if kind == "short_conv" else 0 : 67] > 0).all()
    assert reached[67:].max() <= 1e-12 * reached.max()  # a convolution by FFT rounds


@pytest.mark.parametrize("kind", BUILT_IN_MIXERS)
@pytest.mark.parametrize("name", MODELS)
def test_models_train_save_and_load(kind, name, tmp_path):
    model = zoo.create_model(name, mixer=kind, seed=0, **SMALL | MODELS[name]).train()
    batch = zoo.models.example_batch.example_batch(model, 0)
    before = {key: p.detach().clone() for key, p in model.named_parameters() if ".mixer." in key}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch).square().mean().backward()
        optimizer.step()
    assert before and all(not torch.equal(dict(model.named_parameters())[key], old) for key, old in before.items())
    zoo.save(model, tmp_path / "model")
    loaded = zoo.load(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded(**batch), model.eval()(**batch)) and loaded.config.mixer == kind


@pytest.mark.parametrize("kind", full_unless(("mamba2", "retention", "rwkv4", "short_conv"), BUILT_IN_MIXERS))
def test_one_graph_forward_and_backward(kind, monkeypatch):
    monkeypatch.setattr(selective_scan, "SEGMENT", 8)  # each step of Mamba's is in the graph
    torch._dynamo.reset()
    n = 18 if kind == "mamba" else 70  # three segments, the last with padding, or more than one chunk
    blocks, x = stack(kind, depth=1, dtype=torch.float32), tokens(n, dtype=torch.float32)
    results = []
    for run in (blocks, torch.compile(blocks, backend="aot_eager", fullgraph=True)):
        blocks.zero_grad()
        y = run(x, Context(mask=CAUSAL))
        y.square().sum().backward()
        results.append([y, *(p.grad.clone() for p in blocks.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.detach().abs().max().item())


@pytest.mark.parametrize("kind", BUILT_IN_MIXERS)
def test_hybrid_lists_generate_what_one_forward_gives(kind):
    model = zoo.create_model("gpt_nano", mixer=[kind, "attention"], seed=0, **SMALL | MODELS["gpt_nano"]).eval()
    ids = torch.randint(50, (2, 5), generator=torch.Generator().manual_seed(0))
    made = zoo.generate(model, ids, max_new_tokens=6, temperature=0, eos_token_id=None)
    for _ in range(6):
        ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(torch.as_tensor(made), ids)
