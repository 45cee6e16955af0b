"""int8 weights of optimized models: smaller, measured, refused if they cost too much."""

import copy
import sys

import pytest
import torch
from kernel_timers import fastest
from PIL import Image

import zoo
from zoo.inference import optimize as optimize_file
from zoo.inference import optimized_int8, optimized_parts
from zoo.inference.optimized_blocks import CompiledBlock
from zoo.inference.optimized_int8 import weight_bytes


@pytest.fixture(autouse=True)
def timer(monkeypatch):
    fastest(monkeypatch, "onednn")


def vit(**fields):
    small = dict(image_size=32, patch_size=16, width=64, depth=2, heads=4, num_classes=3, seed=0)
    model = zoo.create_model("vit_tiny_patch16_224", **small | fields).eval()
    model.labels = None if fields.get("head") else ["a", "b", "c"]
    return model


def labeled(model, count=12):
    """Images with the class that the model predicts."""
    generator = torch.Generator().manual_seed(0)
    arrays = torch.randint(0, 256, (count, 40, 40, 3), generator=generator, dtype=torch.uint8).numpy()
    images = [Image.fromarray(array) for array in arrays]
    with torch.no_grad():
        classes = model(**model.preprocess(images)).argmax(-1).tolist()
    return list(zip(images, [model.labels[i] for i in classes], strict=True))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_int8_weights_are_smaller_and_close(dtype):
    model = vit()
    model.train()
    examples = labeled(copy.deepcopy(model).eval())
    fast = zoo.optimize(model, dtype=dtype, quantize="int8", examples=examples, tolerance=0.5)
    assert model.training and all(p.dtype == torch.float32 for p in model.parameters())
    report = fast.optimize_report
    assert report.choices["linear 64 -> 3, " + report.dtype] == {8: "int8", 64: "int8", 512: "int8"}
    assert set(report.choices["attention 64 -> 64 + 64 + 64, " + report.dtype].values()) == {"int8"}
    assert report.choices["patches 3 x 16 x 16 -> 64, " + report.dtype] != {512: "int8"}
    assert "int8 weights: " in str(report) and " in int8 on 12 examples" in str(report)
    plain = zoo.optimize(model, dtype=dtype)
    assert weight_bytes(fast) < (0.55 if dtype is None else 0.8) * weight_bytes(copy_of(model, dtype))
    x = torch.randn(4, 3, 32, 32)
    expected = plain(x)
    assert 0 < (fast(x) - expected).abs().max() <= 0.05 * max(1.0, float(expected.abs().max()))
    assert torch.equal(copy.deepcopy(fast)(x), fast(x))
    with pytest.raises(ValueError, match="save the model it was made from"):
        fast.state_dict()


def copy_of(model, dtype):
    return copy.deepcopy(model).to(dtype or torch.float32)


def test_int8_is_refused_with_both_numbers(monkeypatch):
    values = iter([0.91, 0.85])
    monkeypatch.setattr(optimized_int8, "measure", lambda *_: next(values))
    model = vit()
    with pytest.raises(ValueError, match=r"not optimized: accuracy 0\.9100 in float32 and 0\.8500 in int8"):
        zoo.optimize(model, quantize="int8", examples=labeled(model), tolerance=0.01)


def test_a_language_model_with_tied_weights_is_measured_by_its_loss():
    gpt = zoo.create_model("gpt_nano", seed=0).eval()
    gpt.preprocess = lambda texts, truncate: {"input_ids": torch.tensor(texts)}
    examples = [([1, 2, 3, 4], None), ([4, 3, 2, 1], None)]
    fast = zoo.optimize(gpt, quantize="int8", examples=examples, tolerance=0.1)
    assert "loss " in fast.optimize_report.quantized and gpt.config.tie_word_embeddings
    ids = torch.tensor([[1, 2, 3]])
    scores = gpt(ids).detach()
    assert (fast(ids) - scores).abs().max() <= 0.05 * max(1.0, float(scores.abs().max()))
    assert zoo.generate(fast, ids, max_new_tokens=3).shape == (1, 6)


def test_layers_with_hooks_keep_their_weights():
    model = vit()
    examples = labeled(model)
    model.blocks[0].mlp.up.register_forward_hook(lambda module, args, y: y)
    with pytest.warns(UserWarning, match=r"blocks\.0\.mlp\.up"):
        fast = zoo.optimize(model, quantize="int8", examples=examples, tolerance=0.5)
    assert fast.blocks[0].mlp.up.weight.dtype == torch.float32


def test_stale_weights_are_noticed():
    model = vit()
    fast = zoo.optimize(model, quantize="int8", examples=labeled(model), tolerance=0.5)
    with torch.no_grad():
        model.head.proj.weight.add_(1)
    with pytest.raises(RuntimeError, match=r"call zoo\.optimize again"):
        fast(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(quantize="int8"), "give labeled examples"),
        (dict(quantize="int4", examples=[(1, "a")], tolerance=0.1), "'int4': expected 'int8'"),
        (dict(examples=[(1, "a")]), "give quantize='int8', or omit them"),
        (dict(tolerance=0.1), "give quantize='int8', or omit them"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        zoo.optimize(vit(), **options)


def test_int8_weights_are_not_compiled(monkeypatch):
    monkeypatch.setattr(optimize_file, "why_not_compiled", lambda device: None)
    model = vit()
    with pytest.warns(UserWarning, match="not compiled, because compiled code is slower with int8 weights: 43 ms"):
        fast = zoo.optimize(model, quantize="int8", compile=True, examples=labeled(model), tolerance=0.5)
    assert not any(isinstance(module, CompiledBlock) for module in fast.modules())
    assert "blocks not compiled: compiled code is slower" in str(fast.optimize_report)


def test_a_gated_mlp_has_one_int8_weight(monkeypatch):
    monkeypatch.setattr(optimized_parts, "is_joinable", lambda gate, up: True)
    model = vit(act="silu", gated_mlp=True)
    fast = zoo.optimize(model, quantize="int8", examples=labeled(model), tolerance=0.5)
    assert set(fast.optimize_report.choices["gated 64 -> 2 x 256, silu, float32"].values()) == {"int8"}
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
    assert 0 < (fast(x) - expected).abs().max() <= 0.05 * max(1.0, float(expected.abs().max()))


def test_features_are_not_measured():
    with pytest.raises(ValueError, match=r"head='pool': optimize it without quantize="):
        zoo.optimize(vit(head="pool"), quantize="int8", examples=[(1, 1)], tolerance=0.1)


def test_without_torchao_the_line_that_installs_it(monkeypatch):
    model = vit()
    examples = labeled(model)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match=r"pip install 'attention-zoo\[int8\]'"):
        zoo.optimize(model, quantize="int8", examples=examples, tolerance=0.1)
