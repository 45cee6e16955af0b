"""Every candidate of every part of a model gives the numbers of the model as created."""

import copy
from types import MethodType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from kernel_timers import fake_timer, fastest
from torch import Tensor, nn

import zoo
from zoo.inference import optimized_parts
from zoo.inference.optimized_parts import (
    FrameProducts,
    FusedAttention,
    LinearPatches,
    identity,
    parts_of,
    row_counts,
)
from zoo.inference.packed_linear import KERNELS, GatedLinear, OneDNNLinear, TransposedLinear
from zoo.nn.attention import is_plain_linear
from zoo.nn.block_config import BlockConfig
from zoo.nn.frontends.waveform import ConvPositions
from zoo.nn.mixers.base import Mixer, MixerConfig
from zoo.nn.mlp import MLP

WAVEFORM = dict(
    width=64, mlp_dim=96, depth=2, heads=4, conv_channels=(32, 32), conv_kernels=(8, 4), conv_strides=(4, 2)
)
MODELS = {
    "vit_tiny_patch16_224": (
        dict(image_size=32, width=64, depth=2, heads=4, num_classes=7),
        lambda: {"pixel_values": torch.randn(3, 3, 32, 32)},
    ),
    "bert_tiny": (
        dict(width=64, depth=2, heads=4, mlp_dim=96, vocab_size=99, max_length=90),
        lambda: {
            "input_ids": torch.randint(5, 99, (3, 90)),
            "attention_mask": (torch.arange(90) < torch.tensor([[90], [7], [40]])).long(),
        },
    ),
    "llama_nano": (dict(width=64, depth=2, heads=4, kv_heads=2, vocab_size=99), None),
    "wav2vec2_tiny": (WAVEFORM | dict(conv_norm="layer"), lambda: {"input_values": torch.randn(2, 900)}),
}


def randomized(name):
    fields, batch = MODELS[name]
    model = zoo.create_model(name, seed=0, **fields).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model, batch() if batch else {"input_ids": torch.randint(5, 99, (3, 20))}


@pytest.mark.parametrize("rows", ["many", "one"])
@pytest.mark.parametrize("candidate", KERNELS)
@pytest.mark.parametrize("name", MODELS)
def test_every_candidate_gives_the_same_numbers(name, candidate, rows, monkeypatch):
    model, batch = randomized(name)
    fastest(monkeypatch, candidate)
    fast = zoo.optimize(model, rows=rows)
    chosen = {name for choice in fast.optimize_report.choices.values() for name in choice.values()}
    if not any(candidate in name for name in chosen):
        pytest.skip(f"{candidate} is not a candidate for {rows} rows here")
    with torch.no_grad():
        expected = model(**batch)
    assert float((fast(**batch) - expected).abs().max() / expected.abs().max().clamp(min=1)) <= 1e-5


def test_a_candidate_for_few_rows_and_another_for_many(monkeypatch):
    model, batch = randomized("bert_tiny")  # 137 tokens, and fewer in the head
    few = {"plain": 1.0, "joined": 0.5, "onednn": 0.5}
    fake_timer(monkeypatch, lambda t: few.get(t.candidate, 2.0) if t.rows == 8 else 2 - few.get(t.candidate, 0))
    fast = zoo.optimize(model)
    choices = {tuple(chosen.values()) for chosen in fast.optimize_report.choices.values()}
    assert choices == {("joined", "plain", "plain"), ("onednn", "plain", "plain")}
    short = {key: value[1:2, :7] for key, value in batch.items()}
    with torch.no_grad():
        for inputs in (batch, short):
            expected = model(**inputs)
            assert float((fast(**inputs) - expected).abs().max() / expected.abs().max().clamp(min=1)) <= 1e-5


def test_parts_as_created_remain_what_they_are(monkeypatch):
    fastest(monkeypatch, "plain")
    model, batch = randomized("vit_tiny_patch16_224")
    fast = zoo.optimize(model)
    assert not any(isinstance(m, FusedAttention | LinearPatches) for m in fast.modules())
    assert not any(getattr(m, "act", None) is identity for m in fast.modules())
    assert [type(m) for m in fast.modules()][1:] == [type(m) for m in model.modules()][1:]
    for mine, theirs in zip(fast.parameters(), model.parameters(), strict=True):
        assert mine.data_ptr() == theirs.data_ptr() and not mine.requires_grad and theirs.requires_grad
    with torch.no_grad():
        assert torch.equal(fast(**batch), model(**batch))


def test_the_parts_of_a_model():
    model, _ = randomized("vit_tiny_patch16_224")
    parts, unoptimized = parts_of(model, "many")
    keys = [part.key for part in parts]
    assert not unoptimized and sorted(set(keys)) == [
        "attention 64 -> 64 + 64 + 64, float32",
        "linear 256 -> 64, float32",
        "linear 64 -> 256, gelu, float32",
        "linear 64 -> 64, float32",
        "linear 64 -> 7, float32",
        "patches 3 x 16 x 16 -> 64, float32",
    ]
    assert len(keys) == 2 * 4 + 2  # two blocks, the patches and the head


@pytest.mark.parametrize("name", ["plain", "joined"])
def test_a_gated_mlp_has_one_product_on_a_gpu(name, monkeypatch):
    model, batch = randomized("llama_nano")
    monkeypatch.setattr(optimized_parts, "is_joinable", lambda gate, up: True)
    fastest(monkeypatch, name)
    fast = zoo.optimize(model)
    key = next(key for key in fast.optimize_report.choices if key.startswith("gated 64 -> 2 x "))
    assert set(fast.optimize_report.choices[key].values()) == {name} and key.endswith(", silu, float32")
    gates = [mlp.gate is None and isinstance(mlp.up, GatedLinear) for mlp in fast.modules() if isinstance(mlp, MLP)]
    assert gates == [name == "joined"] * 2
    with torch.no_grad():
        expected = model(**batch)
    assert float((fast(**batch) - expected).abs().max() / expected.abs().max().clamp(min=1)) <= 1e-5
    prompt = batch["input_ids"][:1, :4]
    expected = zoo.generate(model, prompt, max_new_tokens=6)
    assert torch.equal(zoo.generate(fast, prompt, max_new_tokens=6), expected)
    assert torch.equal(zoo.generate(copy.deepcopy(fast), prompt, max_new_tokens=6), expected)


def test_a_gated_mlp_that_is_used_in_its_own_way_keeps_its_gate(monkeypatch):
    model, batch = randomized("llama_nano")
    mlp = model.blocks[0].mlp
    mlp.forward = MethodType(lambda self, x: 2 * self.down(self.act(self.gate(x)) * self.up(x)), mlp)
    model.blocks[1].mlp.up.register_forward_hook(lambda module, args, y: 3 * y)
    monkeypatch.setattr(optimized_parts, "is_joinable", lambda gate, up: is_plain_linear(gate) and is_plain_linear(up))
    fastest(monkeypatch, "joined")
    with pytest.warns(UserWarning, match=r"blocks\.1\.mlp\.up"):
        fast = zoo.optimize(model)
    with torch.no_grad():
        expected = model(**batch)
    assert float((fast(**batch) - expected).abs().max() / expected.abs().max().clamp(min=1)) <= 1e-5


def test_example_inputs_have_the_number_of_rows_that_is_measured():
    for name in ("vit_tiny_patch16_224", "wav2vec2_tiny"):
        for part in parts_of(randomized(name)[0], "many")[0]:
            for rows in part.row_counts:
                for build in part.candidates.values():
                    y = build(1.0)(part.example(rows))
                    if part.key.startswith("attention"):
                        assert y[0].shape[2] == rows
                    elif part.key.startswith("linear"):
                        assert y.shape[1] == rows
                    else:  # channels first
                        assert y[0, 0].numel() == rows


def test_convolutions_of_audio_with_layer_norm_are_products(monkeypatch):
    fastest(monkeypatch, "onednn")
    fast = zoo.optimize(randomized("wav2vec2_tiny")[0])
    assert sum(isinstance(m, FrameProducts) for m in fast.modules()) == 2
    assert not any(isinstance(m, nn.Conv1d) for m in fast.modules())


class ReadsWeights(Mixer):
    """A mixer that does not call its linear layer, but reads its weight."""

    def __init__(self, spec: MixerConfig) -> None:
        super().__init__(spec)
        self.w = nn.Linear(spec.width, spec.width)

    def forward(self, x: Tensor, context: object, state: object = None) -> Tensor:
        return F.linear(x, self.w.weight, self.w.bias)


def own_mixer(model: zoo.Model) -> None:
    for block in model.blocks:
        block.mixer = ReadsWeights(MixerConfig(BlockConfig(width=64, heads=4), 0, 2))


def own_forward_of_the_mlp(model: zoo.Model) -> None:
    mlp = model.blocks[0].mlp
    mlp.forward = MethodType(lambda self, x: 2 * self.down(self.act(self.up(x))), mlp)


def own_forward_of_the_attention(model: zoo.Model) -> None:
    attention = model.blocks[0].mixer
    forward = type(attention).forward
    attention.forward = MethodType(lambda self, x, *args: forward(self, x, *args) + self.q(x), attention)


def shared_modules(model: zoo.Model) -> None:
    model.blocks[1].mixer, model.blocks[1].mlp = model.blocks[0].mixer, model.blocks[0].mlp


@pytest.mark.parametrize("candidate", ["plain", "onednn"])
@pytest.mark.parametrize(
    "change",
    [own_mixer, own_forward_of_the_mlp, own_forward_of_the_attention, shared_modules],
    ids=lambda f: f.__name__,
)
def test_models_that_use_their_parts_in_their_own_way_give_the_same_numbers(change, candidate, monkeypatch):
    model, batch = randomized("vit_tiny_patch16_224")
    change(model)
    fastest(monkeypatch, candidate, "joined")
    fast = zoo.optimize(model)
    with torch.no_grad():
        expected = model(**batch)
    assert float((fast(**batch) - expected).abs().max() / expected.abs().max().clamp(min=1)) <= 1e-5


def pre_hook_of_the_patches(model: zoo.Model) -> None:
    model.patches.proj.register_forward_pre_hook(lambda module, args: (2 * args[0],))


def own_forward_of_the_patches(model: zoo.Model) -> None:
    proj = model.patches.proj
    proj.forward = MethodType(lambda self, x: 2 * nn.Conv2d.forward(self, x), proj)


def own_forward_of_a_convolution(model: zoo.Model) -> None:
    conv = model.waves.layers[1].conv
    conv.forward = MethodType(lambda self, x: -nn.Conv1d.forward(self, x), conv)


def own_forward_of_the_positions(model: zoo.Model) -> None:
    positions = next(m for m in model.modules() if isinstance(m, ConvPositions))
    positions.forward = MethodType(lambda self, x, weight=None: self.gain.sum() * x, positions)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vit_tiny_patch16_224", pre_hook_of_the_patches),
        ("vit_tiny_patch16_224", own_forward_of_the_patches),
        ("wav2vec2_tiny", own_forward_of_a_convolution),
        ("wav2vec2_tiny", own_forward_of_the_positions),
    ],
)
def test_convolutions_that_are_changed_are_called(name, change, monkeypatch):
    model, batch = randomized(name)
    change(model)
    fastest(monkeypatch, "onednn")
    fast = zoo.optimize(model)
    with torch.no_grad():
        expected = model(**batch)
    assert float((fast(**batch) - expected).abs().max() / expected.abs().max().clamp(min=1)) <= 1e-5


def test_measuring_does_not_depend_on_the_default_device(monkeypatch):
    model, _ = randomized("vit_tiny_patch16_224")
    fastest(monkeypatch, "onednn")
    with torch.device("meta"):
        assert zoo.optimize(model).device.type == "cpu"


def test_a_gpu_measures_one_large_number_of_rows():
    for is_cuda, many in ((True, (4096,)), (False, (8, 64, 512))):
        weight = SimpleNamespace(is_cuda=is_cuda)
        assert row_counts(weight, "many") == many and row_counts(weight, "one") == (1,)


def test_the_encoder_of_an_encoder_decoder_computes_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """rows="one" is for the decoder; the source is read at once, also by the keys and values of cross-attention."""
    fastest(monkeypatch, "onednn", "transposed")
    model = zoo.create_model("bart_nano", seed=0, vocab_size=61).eval()
    fast = zoo.optimize(model, rows="one")
    block = fast.decoder.blocks[0]
    many = [fast.encoder.blocks[0].mixer.out, fast.encoder.blocks[0].mlp.down, block.cross.k, block.cross.v]
    assert {type(module) for module in many} == {OneDNNLinear}
    assert {type(module) for module in (block.cross.q, block.cross.out, block.mlp.down)} == {TransposedLinear}
    batch = {"input_ids": torch.randint(4, 61, (1, 9)), "decoder_input_ids": torch.randint(4, 61, (1, 3))}
    torch.testing.assert_close(fast(**batch), model(**batch).detach(), atol=1e-5, rtol=1e-5)
    assert not any("of the source" in key for key in zoo.optimize(model).optimize_report.choices)
