"""One token of a decoder with cross-attention, without the calls of modules: the numbers of `model.decode`."""

import sys
from collections.abc import Callable
from types import FrameType

import pytest
import torch
from seq2seq_cases import FEATURES, KEEP, SOURCE, nano
from torch import Tensor, nn

import zoo
from zoo.inference.generation import prompt_products, row_functions
from zoo.inference.generation.one_token import one_token_step
from zoo.inference.generation.prompt_products import products_of_prompts
from zoo.inference.generation.row_functions import product
from zoo.inference.packed_linear import onednn_dtypes
from zoo.nn.kv_cache import EncoderDecoderState

SMALL = dict(vocab_size=61, max_length=200, width=32, depth=2, heads=4, mlp_dim=48)
T5 = SMALL | dict(head_dim=8)
TOKENS = torch.randint(4, 61, (3, 70), generator=torch.Generator().manual_seed(2))
MODELS = [
    ("t5_nano", T5), ("t5_nano", T5 | dict(gated_mlp=True, act="gelu_tanh", tie_word_embeddings=False)),
    ("bart_nano", SMALL), ("bart_nano", SMALL | dict(order="pre", scale_embedding=True)), ("marian_nano", SMALL),
    ("transformer_nano", SMALL), ("whisper_nano", SMALL | dict(frames=20)),
]  # fmt: skip
CAST = 1e-6, 3e-2  # the greatest difference in float32 and in bfloat16


def read(model: zoo.Model, keep: Tensor | None = None, copies: int = 1) -> EncoderDecoderState:
    """A state of the model that has read the source and the first token."""
    if "input_features" in model.inputs:
        state = model.start_decoding({"input_features": FEATURES}, 6)  # less than the text: the cache grows
    else:
        batch = {"input_ids": SOURCE} | ({} if keep is None else {"attention_mask": keep})
        state = model.start_decoding(batch, 6)
    model.decode(torch.full((3, 1), 5), state)
    if copies > 1:
        state.repeat(copies)
    return state


@pytest.mark.parametrize("optimized", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("copies, keep", [(1, None), (1, KEEP), (2, KEEP)])
@pytest.mark.parametrize("name, options", MODELS)
@torch.inference_mode()
def test_scores_are_those_of_decode(name: str, options: dict, copies: int, keep, optimized) -> None:
    model = nano(name, options)
    model = model if optimized is None else zoo.optimize(model, dtype=optimized)
    states = [read(model, keep, copies) for _ in range(2)]
    step, limit = one_token_step(model, states[0]), CAST[optimized == torch.bfloat16]
    assert step is not None
    for token in TOKENS.repeat_interleave(copies, 0).split(1, 1)[: 70 if name == "t5_nano" else 4]:
        expected, scores = model.decode(token, states[1]), step(token)
        assert scores.dtype == expected.dtype == torch.float32 and states[0].length == states[1].length
        torch.testing.assert_close(scores, expected, atol=limit, rtol=limit)
    rows = torch.tensor([2, 0]) if copies == 1 else torch.tensor([1, 1, 2, 3, 5, 4])
    for state in states:  # the caches are followed wherever they go
        state.reorder(rows)
    token = TOKENS[: len(rows), :1] if copies == 1 else TOKENS.repeat_interleave(2, 0)[:, :1]
    torch.testing.assert_close(step(token), model.decode(token, states[1]), atol=limit, rtol=limit)


def test_it_is_used_and_gives_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nano("t5_nano", T5)
    decode, calls = type(model).decode, []
    monkeypatch.setattr(type(model), "decode", lambda *args, **options: calls.append(1) or decode(*args, **options))
    batch = dict(input_ids=SOURCE, attention_mask=KEEP, max_new_tokens=9, eos_token_id=None)
    expected = [zoo.generate(model, num_beams=beams, **batch) for beams in (1, 3)]
    assert len(calls) == 2 * 9  # a method of another class
    calls.clear()
    monkeypatch.setattr("zoo.inference.generation.one_token.decodes_as", lambda *_: True)
    for beams, tokens in zip((1, 3), expected, strict=True):
        assert torch.equal(zoo.generate(model, num_beams=beams, **batch), tokens)
    assert len(calls) == 2


@torch.inference_mode()
def test_what_is_not_known_needs_decode() -> None:
    def step(model: zoo.Model, keep: Tensor | None = None) -> object:
        return one_token_step(model.eval(), read(model, keep))

    assert step(nano("t5_nano", T5)) is not None
    for options in ({"decoder.attention": "linear"}, {"cross_attention": "additive"}):
        assert step(nano("bart_nano", SMALL | options)) is None
    for part in ("", ".blocks", ".blocks.0", ".blocks.1.cross", ".blocks.1.cross.core"):
        model = nano("bart_nano", SMALL)
        handle = model.get_submodule(f"decoder{part}").register_forward_hook(lambda *_: None)
        assert step(model) is None
        handle.remove()
        assert step(model) is not None
    empty = KEEP.clone()
    empty[1] = 0
    assert step(nano("bart_nano", SMALL), empty) is None
    model = nano("bart_nano", SMALL)
    unread = model.start_decoding({"input_ids": SOURCE}, 6)
    assert one_token_step(model, unread) is None


def new_cross_weight(model: zoo.Model) -> None:
    model.decoder.blocks[0].cross.q.weight = nn.Parameter(5 * model.decoder.blocks[0].cross.q.weight.detach())


def new_bias(model: zoo.Model) -> None:
    model.decoder.relative_attention_bias.weight.mul_(-3)


def new_hook(model: zoo.Model) -> None:
    model.decoder.blocks[1].cross_norm.register_forward_hook(lambda module, args, y: -y)


@pytest.mark.parametrize("change", [new_cross_weight, new_bias, new_hook])
@torch.no_grad()
def test_a_model_that_changes_between_two_tokens(change: Callable[[zoo.Model], None]) -> None:
    model = nano("t5_nano", T5)
    states = [read(model) for _ in range(2)]
    step = one_token_step(model, states[0])
    before = step(TOKENS[:, :1])
    model.decode(TOKENS[:, :1], states[1])
    change(model)
    scores = step(TOKENS[:, 1:2])
    torch.testing.assert_close(scores, model.decode(TOKENS[:, 1:2], states[1]), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(scores, before, atol=1e-3)


@pytest.mark.parametrize("name, options, most", [("t5_nano", T5, 190), ("bart_nano", SMALL, 160)])
def test_a_token_takes_few_calls(name: str, options: dict, most: int) -> None:
    """The Python functions that greedy decoding with six layers enters for each further token."""
    model, calls, totals = nano(name, options | dict(depth=6)), [0], []

    def count(frame: FrameType, event: str, argument: object) -> None:
        calls[0] += event == "call"

    for new in (10, 10, 20):  # the first warms up
        calls[0], before = 0, sys.getprofile()
        sys.setprofile(count)
        try:
            zoo.generate(model, SOURCE, attention_mask=KEEP, max_new_tokens=new, eos_token_id=None)
        finally:
            sys.setprofile(before)
        totals.append(calls[0])
    assert (totals[2] - totals[1]) / 10 <= most


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outputs, inputs", [(48, 32), (32, 48), (128, 64), (150, 64)])
@pytest.mark.parametrize("rows", [1, 2, 8, 12])
@torch.inference_mode()
def test_products_of_large_weights(monkeypatch, rows: int, outputs: int, inputs: int, bias: bool) -> None:
    monkeypatch.setattr(row_functions, "LARGE_WEIGHT", 0)
    monkeypatch.setattr(row_functions, "LEAST_CHUNKED", 0)
    monkeypatch.setattr(row_functions, "is_intel", lambda: False)
    x, weight, b = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs) if bias else None
    y = product(weight, b)(x)
    assert y.is_contiguous()
    torch.testing.assert_close(y, nn.functional.linear(x, weight, b), atol=1e-5, rtol=1e-5)


def test_mkl_computes_products_on_a_cpu_of_intel(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = torch.randn(256, 64), torch.randn(1, 64)
    for module in (row_functions, prompt_products):
        monkeypatch.setattr(module, "is_intel", lambda: True)
    monkeypatch.setattr(row_functions, "chunked_product", None)
    assert torch.equal(product(weight, None)(x), nn.functional.linear(x, weight))
    assert not isinstance(products_of_prompts(nano("t5_nano", T5), 200), prompt_products.OneDNNProducts)


@torch.inference_mode()
def test_prompts_of_many_tokens_are_read_by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nano("t5_nano", T5)
    ids = torch.randint(4, 61, (4, 40))
    expected, calls = model.encode(ids), []
    monkeypatch.setattr(prompt_products, "is_intel", lambda: False)
    monkeypatch.setattr(prompt_products, "LEAST_WEIGHT", 0)
    known = prompt_products.is_large
    monkeypatch.setattr(prompt_products, "is_large", lambda *args: known(*args) and not calls.append(1))
    with products_of_prompts(model, ids.numel()):
        torch.testing.assert_close(model.encode(ids), expected, atol=1e-5, rtol=1e-5)
        products = len(calls)
        assert model.encode(ids[:, :30]).shape == (4, 30, 32) and len(calls) == products  # less than 128 rows
    assert products == 2 * 4 if torch.float32 in onednn_dtypes() else not calls  # q, k and v are joined
    assert not isinstance(products_of_prompts(model, 127), prompt_products.OneDNNProducts)
    assert not isinstance(products_of_prompts(model.to(torch.bfloat16), 200), prompt_products.OneDNNProducts)
    model.float().encoder.blocks[1].compile(backend="eager")
    assert not isinstance(products_of_prompts(model, 200), prompt_products.OneDNNProducts)
    zoo.generate(nano("t5_nano", T5), ids, max_new_tokens=1)
    assert len(calls) == products + 8 + 2 * 2 * (torch.float32 in onednn_dtypes())  # keys and values of the decoder
