"""Compiled blocks of optimized models; a backend that only counts stands in for the compiler, which takes seconds."""

import copy

import pytest
import torch
from kernel_timers import fastest

import zoo
from zoo.inference import optimize as optimize_file
from zoo.inference import optimized_blocks
from zoo.inference.optimized_blocks import CompiledBlock, why_not_compiled


@pytest.fixture
def compiled(monkeypatch):
    """The graphs that are compiled."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    fastest(monkeypatch, "onednn")
    monkeypatch.setattr(optimized_blocks, "OPTIONS", {"backend": backend, "fullgraph": True})
    monkeypatch.setattr(optimized_blocks, "MIN_TOKENS", 8)
    monkeypatch.setattr(optimize_file, "why_not_compiled", lambda device: None)
    return graphs


def vit(**fields):
    small = dict(image_size=32, patch_size=16, width=64, depth=3, heads=4, num_classes=7, seed=0)
    return zoo.create_model("vit_tiny_patch16_224", **small | fields).eval()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("fields", [{}, {"act": "silu", "gated_mlp": True, "layer_scale": 0.1, "kv_heads": 2}], ids=str)
def test_all_layers_are_compiled_once_and_sizes_twice(compiled, dtype, fields):
    model = vit(**fields)
    fast = zoo.optimize(model, dtype=dtype, compile=True)
    plain = zoo.optimize(model, dtype=dtype, choices=fast.optimize_report)
    for batch, count in ((4, 1), (4, 1), (6, 2), (9, 2), (3, 2)):  # the second size makes the size variable
        x = torch.randn(batch, 3, 32, 32)
        assert torch.equal(fast(x), plain(x)) and len(compiled) <= count
    fast(torch.randn(1, 3, 32, 32))  # 5 tokens
    assert 1 <= len(compiled) <= 2
    assert "blocks compiled by torch.compile: 3, for batches without padding" in str(fast.optimize_report)


def test_padded_rows_and_decoding_are_not_compiled(compiled):
    bert = zoo.create_model("bert_base", seed=0, width=32, depth=2, heads=2, vocab_size=50, max_length=16).eval()
    fast, ids = zoo.optimize(bert, compile=True), torch.randint(4, 50, (2, 8))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    for _ in range(2):
        assert torch.allclose(
            fast(input_ids=ids, attention_mask=mask), bert(input_ids=ids, attention_mask=mask), atol=1e-5
        )
    assert not compiled
    assert torch.allclose(fast(input_ids=ids), bert(input_ids=ids), atol=1e-5)
    assert len(compiled) == 1
    gpt = zoo.create_model("gpt_nano", seed=0).eval()
    prompt = torch.tensor([[1, 2, 3]])
    expected = zoo.generate(gpt, prompt, max_new_tokens=4)
    assert torch.equal(zoo.generate(zoo.optimize(gpt, compile=True), prompt, max_new_tokens=4), expected)


def test_models_do_not_share_their_variants(compiled):
    for seed in range(10):  # torch compiles 8 variants of one function
        zoo.optimize(vit(seed=seed), compile=True)(torch.randn(4, 3, 32, 32))
    assert len(compiled) == 10


def test_hooks_and_copies(compiled):
    fast, x, seen = zoo.optimize(vit(), compile=True), torch.randn(4, 3, 32, 32), []
    y = fast(x)
    handle = fast.blocks[1].mlp.register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(fast(x), y) and seen == [1]
    handle.remove()
    other = copy.deepcopy(fast)
    other.blocks[1].mlp.register_forward_hook(lambda *_: seen.append(2))
    assert torch.equal(fast(x), y) and seen == [1]
    assert torch.equal(other(x), y) and seen == [1, 2]
    with zoo.capture(fast) as maps:
        assert torch.equal(fast(x), y)
    assert len(maps) == 3


def test_without_a_compiler_it_says_why():
    with pytest.warns(UserWarning, match="compile=True: the blocks are not compiled.*on 'cpu'"):
        fast = zoo.optimize(vit(), compile=True)
    assert "blocks not compiled: torch.compile is used on CUDA" in str(fast.optimize_report)
    assert not any(isinstance(module, CompiledBlock) for module in fast.modules())


def test_why_nothing_is_compiled(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(optimized_blocks.importlib.util, "find_spec", lambda name: object())
    assert "compute capability 7.0, and an old card is older" in why_not_compiled(cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert why_not_compiled(cuda) is None
    monkeypatch.setattr(optimized_blocks.importlib.util, "find_spec", lambda name: None)
    assert "pip install triton" in why_not_compiled(cuda)


@pytest.mark.gpu
def test_compiled_blocks_on_a_gpu():
    model = vit().to("cuda")
    fast = zoo.optimize(model, dtype=torch.bfloat16, compile=True)
    x = torch.randn(32, 3, 32, 32, device="cuda")
    with torch.no_grad():
        expected = model(x)
    for _ in range(6):  # the fourth call is a graph of the compiled blocks
        assert (fast(x) - expected).abs().max() <= 2e-2 * max(1.0, float(expected.abs().max()))
