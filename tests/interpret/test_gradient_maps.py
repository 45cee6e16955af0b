"""Attention maps weighted by gradients: equal to finite differences of the score, and the model is left as it was."""

from typing import Any

import pytest
import torch

import zoo
from zoo.interpret.gradient_maps import gradient_maps
from zoo.nn import CAUSAL, BlockConfig, Context, initialize


def test_they_are_weights_times_the_gradient_of_the_score() -> None:
    model = zoo.create_model("vit_cifar_tiny", width=16, depth=2, heads=2, mlp_dim=32, seed=0).double().eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    model.requires_grad_(False)
    found = gradient_maps(model, lambda logits: logits[0, 3], pixel_values=x)
    core = model.blocks[1].mixer.core
    with zoo.capture(model) as maps:
        expected = model(x)
    assert found.keys() == maps.keys() and all(w.shape == maps[n].shape and (w >= 0).all() for n, w in found.items())
    assert all((w[1] == 0).all() for w in found.values())  # the other image has no part in the score
    weights, step = core.weights, 1e-6
    row, key = 0, 5

    def moved(*args: torch.Tensor) -> torch.Tensor:
        w = weights(*args).clone()
        w[0, 1, row, key] += step
        return w

    core.forward = lambda q, k, v, mask=None, bias=None: moved(q, k, mask, bias) @ v
    slope = float((model(x)[0, 3] - expected[0, 3]) / step)
    del core.forward
    value = maps["blocks.1.mixer"][0, 1, row, key]
    assert float(found["blocks.1.mixer"][0, 1, row, key]) == pytest.approx(max(0.0, float(value) * slope), abs=1e-8)
    assert torch.equal(model(x), expected) and not any(p.requires_grad for p in model.parameters())


def test_cross_attention_of_a_decoder() -> None:
    model = zoo.create_model("bart_nano", seed=0).eval()
    batch = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "decoder_input_ids": torch.tensor([[2, 9, 4]])}
    found = gradient_maps(model, lambda logits: logits[0, 1, 4], layers="decoder.*.cross", **batch)
    assert all(name.endswith("cross") and w.shape[-2:] == (3, 4) for name, w in found.items())
    assert all((w[:, :, 2] == 0).all() and (w[:, :, 1] > 0).any() for w in found.values())  # no later token matters


def test_what_it_refuses() -> None:
    model = zoo.create_model("vit_cifar_tiny", width=16, depth=1, heads=2, mlp_dim=32)
    with pytest.raises(ValueError, match="expected one number"):
        gradient_maps(model, lambda logits: logits, pixel_values=torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("kind", ["softmax", {"kind": "local", "window": 3}, "gated_delta"])
def test_weights_are_those_that_the_model_uses(kind: Any) -> None:
    """With the window of local attention, gates, and queries that attend to nothing (padding before a text)."""
    stack = BlockConfig(width=16, heads=4, kv_heads=2, attention=kind, causal=True).stack(2)
    initialize(stack, 0)
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
    batch = dict(context=Context(CAUSAL), keep=torch.tensor([[1] * 9, [0] * 4 + [1] * 5]), drop_padding=False)
    outputs: list[torch.Tensor] = []

    def score(y: torch.Tensor) -> torch.Tensor:
        outputs.append(y.detach())
        return (y * x).sum()

    found = gradient_maps(stack, score, x=x, **batch)
    with zoo.capture(stack) as maps:
        plain = stack(x, **batch)
    torch.testing.assert_close(outputs[0], plain, rtol=1e-4, atol=1e-5)
    for name, w in found.items():
        assert bool(w.isfinite().all()) and bool((w > 0).any()) and not w[maps[name] == 0].any()


def test_global_tokens_are_refused() -> None:
    model = zoo.create_model("longformer_nano", head="classify", num_classes=2, seed=0)
    ids = torch.randint(5, 50, (1, 12), generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"blocks\.0\.mixer has global tokens"):
        gradient_maps(model, lambda scores: scores[0, 0], input_ids=ids)
