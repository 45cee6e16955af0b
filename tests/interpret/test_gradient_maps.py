"""Attention maps weighted by gradients: equal to finite differences of the score, and the model is left as it was."""

import pytest
import torch

import zoo
from zoo.interpret.gradient_maps import gradient_maps


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
