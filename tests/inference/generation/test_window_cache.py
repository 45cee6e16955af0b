"""Generation with a bounded cache: the tokens are those of a cache of all keys."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from decoder_peers import case, nano, prompt
from speeds import full_unless
from text_peers import ragged

import zoo
from zoo.inference.generation import graph_decoding
from zoo.inference.generation.one_token import one_token_step
from zoo.inference.generation.prompt_cache import PromptCache
from zoo.inference.generation.speculative import NUM_PROPOSALS
from zoo.nn import Core
from zoo.nn.sparse_attention import SparseAttention
from zoo.nn.window_cache import MARGIN, WindowCache

NEW = 50  # several times the window, and more than its cache holds
LOCAL, LONGFORMER = {"kind": "local", "window": 4}, {"kind": "longformer", "window": 3, "tokens": 2}
MODELS = {
    "llama local": ("llama_nano", {"attention": LOCAL, "kv_heads": 2}),
    "llama longformer": ("llama_nano", {"attention": LONGFORMER, "kv_heads": 1}),
    "gemma": ("gemma_nano", {"window": 4, "kv_heads": 2, "attention_softcap": 2.0, "global_every": 2}),
    "gpt local": ("gpt_nano", {"attention": LOCAL}),
    "gpt of two kinds": ("gpt_nano", {"attention": [LONGFORMER, "softmax"]}),
}
OPTIONS = {
    "greedy": {},
    "samples": {"temperature": 1.2, "seed": 3, "num_return_sequences": 2, "repetition_penalty": 1.1},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
}


@contextmanager
def full_caches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SparseAttention, "new_state", Core.new_state)
        yield


def model_of(case: str) -> zoo.Model:
    name, options = MODELS[case]
    return nano(name, max_length=256, **options)


def batch_of(side: str | None) -> dict:
    return {"input_ids": prompt()} if side is None else ragged((50, 4, 9), vocab=61, side=side)


@pytest.mark.parametrize("side", full_unless([None, "left"], [None, "left", "right"]))
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("case", MODELS)
def test_tokens_are_those_of_full_caches(case: str, options: str, side: str | None) -> None:
    model, given = model_of(case), OPTIONS[options] | {"max_new_tokens": NEW, "eos_token_id": None}
    found = zoo.generate(model, **batch_of(side), **given)
    with full_caches():
        assert torch.equal(found, zoo.generate(model, **batch_of(side), **given))


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("case", MODELS)
def test_drafts_work_with_windows(case: str, side: str | None) -> None:
    assert NUM_PROPOSALS + 1 <= MARGIN  # tokens that a round may take back
    model = model_of(case)
    draft = nano(MODELS[case][0], max_length=256, **MODELS[case][1], seed=0)
    with torch.no_grad():  # a draft that is right now and then
        for parameter in draft.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    given = {"max_new_tokens": NEW, "eos_token_id": None}
    expected = zoo.generate(model, **batch_of(side), **given)
    for helper in (draft, model):
        assert torch.equal(zoo.generate(model, **batch_of(side), **given, draft=helper), expected)


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("case", MODELS)
def test_static_buffers_take_over_what_is_kept(case: str, side: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA graphs, as functions on the CPU."""
    model, runs, run = model_of(case), [], graph_decoding.Decoding.run
    given = batch_of(side) | {"max_new_tokens": NEW, "eos_token_id": None}
    if side is None:
        given["input_ids"] = prompt(3, length=60)
    expected = zoo.generate(model, **given)
    monkeypatch.setattr(graph_decoding, "DEVICE_TYPES", ("cpu", "cuda"))
    monkeypatch.setattr(graph_decoding, "WORTH_RECORDING", 1)
    monkeypatch.setattr(graph_decoding.Decoding, "run", lambda decoding: runs.append(1) or run(decoding))
    assert torch.equal(zoo.generate(model, **given), expected)
    assert runs


@pytest.mark.parametrize("case", MODELS)
def test_a_prompt_cache_reads_again_what_a_window_has_dropped(case: str) -> None:
    model, cache = model_of(case), PromptCache()
    given = {"max_new_tokens": 5, "eos_token_id": None}
    text = prompt(1, length=90)
    others = [text.clone() for _ in range(3)]
    others[0][0, 88] += 1  # near the end, near the start, and near the end of a shorter text
    others[1][0, 20] += 1
    others[2] = others[2][:, :30]
    for ids in (text, *others):
        assert torch.equal(zoo.generate(model, ids, cache=cache, **given), zoo.generate(model, ids, **given))
        turn = torch.cat([zoo.generate(model, ids, cache=cache, **given), ids[:, :3]], 1)
        assert torch.equal(zoo.generate(model, turn, cache=cache, **given), zoo.generate(model, turn, **given))


@pytest.mark.parametrize("optimized", [None, torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_one_token_without_modules(optimized: torch.dtype | None) -> None:
    model = model_of("llama local")
    model = model if optimized is None else zoo.optimize(model, dtype=optimized, rows="one")
    states = [model.new_state(2, 9) for _ in range(2)]
    ids = prompt(2, length=100)
    for state in states:
        model.decode(ids[:, :10], state)
    step = one_token_step(model, states[0])
    assert step is not None and type(states[0][0].mixer) is WindowCache
    for token in ids[:, 10:].split(1, 1):
        scores, expected = step(token), model.decode(token, states[1])
        torch.testing.assert_close(scores, expected, atol=1e-5 if optimized != torch.bfloat16 else 2e-2, rtol=0)
    assert one_token_step(model_of("llama longformer"), model_of("llama longformer").new_state(1)) is None


@pytest.mark.filterwarnings("ignore:.*exceed max_length")
@pytest.mark.parametrize("name", ["mistral", "qwen2 window in some layers", "qwen3 window"])
def test_published_windows_as_transformers_token_for_token(name: str, tmp_path: Path) -> None:
    """Texts that are longer than what the cache holds."""
    theirs = case(tmp_path, name)
    ours, batch = zoo.load(tmp_path), ragged((60, 4, 6), side="left")
    given = {"max_new_tokens": NEW, "eos_token_id": None}
    state = ours.new_state(3)
    assert any(type(layer.mixer) is WindowCache for layer in state)
    expected = theirs.generate(**batch, do_sample=False, pad_token_id=1, **given)
    assert torch.equal(zoo.generate(ours, **batch, **given), expected)
    with full_caches():
        assert torch.equal(zoo.generate(ours, **batch, **given), expected)


def test_autocast_decodes_with_a_window() -> None:
    model = model_of("llama local")
    given = {"max_new_tokens": NEW, "eos_token_id": None}
    with torch.autocast("cpu", torch.bfloat16):
        found = zoo.generate(model, prompt(), **given)
        with full_caches():
            assert torch.equal(found, zoo.generate(model, prompt(), **given))
