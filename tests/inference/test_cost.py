"""Costs against formulas, and against what a real run takes."""

import pytest
import torch
from allocations import most_allocated

import zoo
from zoo.inference.cost import Measures, measure


def vit_flops(tokens: int, width: int, depth: int, hidden: int, patch: int, classes: int) -> int:
    """Two for each multiplication and addition of the products of a ViT with a class token."""
    block = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * hidden
    return 2 * (depth * block + (tokens - 1) * width * 3 * patch**2 + width * classes)


BASE, TINY = ("vit_base_patch16_224", 197, 768), ("vit_tiny_patch16_384", 577, 192)


@pytest.mark.parametrize(("name", "tokens", "width"), [BASE, TINY])
def test_products_are_counted_attention_included(name: str, tokens: int, width: int) -> None:
    found = measure(name, depth=3)
    assert found.flops == vit_flops(tokens, width, 3, 4 * width, 16, 1000)
    assert measure(name, 3, depth=3).flops == 3 * found.flops


def test_parameters_of_published_sizes_without_weights() -> None:
    assert measure("vit_base_patch16_224").parameters == 86_567_656
    giant = measure("vit_giant_patch14_dinov2", image_size=224)
    assert giant.weight_bytes == 4 * giant.parameters > 4e9


def test_graphs_are_counted_with_their_edges() -> None:
    """Each graph has eight nodes; the projections of a node are counted by hand."""
    one, four = (measure("graph_transformer_tiny", batch, in_features=20, num_classes=3, depth=1) for batch in (1, 4))
    width, nodes = 64, 8
    products = 2 * nodes * (20 * width + 4 * width * width + 8 * width * width + 3 * width)
    assert one.flops == products + 2 * 2 * nodes * nodes * width
    assert four.flops == 4 * products + 2 * 2 * (4 * nodes) ** 2 * width  # few nodes: attention of all pairs
    assert one.weight_bytes < one.inference_bytes < four.inference_bytes < four.training_bytes
    assert measure("gat_small").parameters == sum(p.numel() for p in zoo.create_model("gat_small").parameters())


def test_linear_kinds_grow_with_the_length_and_softmax_with_its_square() -> None:
    def product(kind: str, size: int) -> int:
        """Of the attention alone: what stays when softmax's own 4 N^2 D are taken from softmax is the same for all."""
        rest = measure("vit_cifar", depth=1, image_size=size).flops - 4 * (size**2 // 16 + 1) ** 2 * 192
        return measure("vit_cifar", depth=1, attention=kind, image_size=size).flops - rest

    assert product("softmax", 128) / product("softmax", 64) == pytest.approx(16, rel=0.05)
    assert product("linear", 128) / product("linear", 64) == pytest.approx(4, rel=0.05)


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
@pytest.mark.parametrize(("kind", "checkpointing"), [("softmax", False), ("softmax", True), ("performer", False)])
def test_memory_is_what_a_real_run_takes(kind: str, checkpointing: bool) -> None:
    model = zoo.create_model("vit_cifar_small", seed=0, depth=3, attention=kind)
    model.set_checkpointing(checkpointing)
    found = measure(model, 8)
    x = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        model.eval()(x)
        inference = most_allocated(lambda: model(x))
    training = most_allocated(lambda: model.train()(x).sum().backward())
    weights = found.weight_bytes
    assert found.inference_bytes - weights == pytest.approx(inference, rel=0.02)
    assert found.training_bytes - 3 * weights == pytest.approx(training, rel=0.1)


def test_frozen_parameters_dtype_and_the_model_itself() -> None:
    model = zoo.create_model("vit_cifar_tiny", seed=0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    whole = measure(model)
    model.patches.requires_grad_(False)
    frozen = measure(model)
    assert frozen.parameters == whole.parameters and frozen.trainable < whole.trainable
    assert frozen.training_bytes < whole.training_bytes
    assert measure(model.to(torch.bfloat16)).weight_bytes == whole.weight_bytes // 2
    model.float()
    assert all(torch.allclose(before[name], p, atol=0.01) for name, p in model.named_parameters())
    assert isinstance(whole, Measures) and model.training


@pytest.mark.parametrize("kind", ["additive", "local", "bigbird", "rfa"])
def test_kinds_that_look_at_their_masks(kind: str) -> None:
    assert measure("vit_cifar_tiny", 2, attention=kind).training_bytes > 0


def test_texts_have_a_length() -> None:
    short, long = (measure("bert_tiny", 2, length=length) for length in (64, 256))
    assert measure("bert_tiny", 2, length=128) == measure("bert_tiny", 2)
    assert long.flops > 4 * short.flops and long.training_bytes > short.training_bytes
    with pytest.raises(ValueError, match="takes no text"):
        measure("vit_cifar_tiny", length=8)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="did you mean 'vit_cifar'"):
        measure("vit_cifr")
    with pytest.raises(ValueError, match="batch=0"):
        measure("vit_cifar", 0)
    with pytest.raises(ValueError, match="made already"):
        measure(zoo.create_model("vit_cifar_tiny"), depth=2)
    with pytest.raises(ValueError, match="given Linear"):
        measure(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
