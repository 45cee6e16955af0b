"""One token without the calls of modules: the numbers of `model.decode`, and the modules where these are needed."""

import sys
from types import FrameType

import pytest
import torch
from kernel_timers import fastest
from torch import Tensor, nn

import zoo
from zoo.inference.generation.one_token import one_token_step
from zoo.nn import Window
from zoo.nn.context import Context
from zoo.nn.kv_cache import StackState, StaticKVCache

SMALL = dict(vocab_size=61, max_length=64, width=32, depth=2, heads=4, mlp_dim=48)
PROMPT = torch.randint(4, 61, (3, 5), generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(4, 61, (3, 4), generator=torch.Generator().manual_seed(2))


def nano(name: str = "gpt_nano", **overrides) -> zoo.Model:
    model = zoo.create_model(name, seed=0, **SMALL | overrides).eval()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):  # fresh norms are 1 and biases 0
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    return model


def read(model: zoo.Model) -> StackState:
    """A state of the model that holds the prompt."""
    state = model.new_state(len(PROMPT), 6)  # smaller than the text: the cache grows
    model.decode(PROMPT, state)
    return state


@pytest.mark.parametrize("optimized", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name, options", [
    ("gpt_nano", {}), ("gpt_nano", {"act": "relu"}), ("llama_nano", {"kv_heads": 2}), ("llama_nano", {"kv_heads": 4}),
    ("llama_nano", {"qk_norm": True, "qkv_bias": True, "tie_word_embeddings": False}),
    ("gemma_nano", {"window": 4}), ("gemma_nano", {"attention_softcap": 1.0, "logits_softcap": 2.0}),
])  # fmt: skip
@torch.inference_mode()
def test_scores_are_those_of_decode(name: str, options: dict, optimized: torch.dtype | None) -> None:
    model = nano(name, **options)
    model = model if optimized is None else zoo.optimize(model, dtype=optimized, rows="one")
    states = [read(model) for _ in range(2)]
    step = one_token_step(model, states[0])
    assert step is not None
    for token in TOKENS.split(1, 1):
        expected = model.decode(token, states[1])
        scores = step(token)
        assert scores.dtype == expected.dtype == torch.float32 and states[0].length == states[1].length
        torch.testing.assert_close(scores, expected, atol=1e-6 if optimized != torch.bfloat16 else 2e-2, rtol=0)
    for state in states:  # the cache is followed wherever it goes
        state.reorder(torch.tensor([2, 0]))
        state.crop(7)
    torch.testing.assert_close(step(TOKENS[:2, :1]), model.decode(TOKENS[:2, :1], states[1]), atol=2e-2, rtol=0)


@torch.inference_mode()
def test_a_mask_that_hides_tokens_is_left_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nano()
    monkeypatch.setattr(type(model), "context", lambda self, positions: Context(mask=Window(2, 0)))
    states = [read(model) for _ in range(2)]
    step = one_token_step(model, states[0])
    assert step is not None
    torch.testing.assert_close(step(TOKENS[:, :1]), model.decode(TOKENS[:, :1], states[1]), atol=1e-6, rtol=0)
    assert states[0].length == 6


class Scaled(nn.Linear):
    """A linear layer of another class, as an adapter puts in its place."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@torch.inference_mode()
def test_layers_with_hooks_or_of_other_classes_are_called() -> None:
    model, calls = nano(), []
    for layer in (model.blocks[0].mixer.q, model.blocks[0].norm2, model.blocks[1].mlp, model.blocks.norm, model.head):
        layer.register_forward_hook(lambda *_: calls.append(1))
    model.blocks[0].norm1.register_forward_pre_hook(lambda _, args: (3 * args[0],))
    model.blocks[1].mixer.out.__class__ = Scaled
    states = [read(model) for _ in range(2)]
    step = one_token_step(model, states[0])
    assert step is not None
    expected = model.decode(TOKENS[:, :1], states[1])
    calls.clear()
    torch.testing.assert_close(step(TOKENS[:, :1]), expected, atol=1e-6, rtol=0)
    assert len(calls) == 5


class Doubled(type(nano())):
    def encode(self, *args, **batch):
        return 2 * super().encode(*args, **batch)


def test_other_models_and_hooks_need_decode() -> None:
    def step(model: zoo.Model) -> object:
        return one_token_step(model.eval(), read(model))

    assert step(nano()) is not None and step(nano(attention={"kind": "local", "window": 4})) is not None
    for options in ({"attention": "linear"}, {"attention": "longformer"}, {"attention": "additive"}):
        assert step(nano(**options)) is None
    for part in ("blocks", "blocks.0", "blocks.1.mixer", "blocks.1.mixer.core"):
        model = nano()
        handle = model.get_submodule(part).register_forward_hook(lambda *_: None)
        assert step(model) is None
        handle.remove()
        assert step(model) is not None
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    model = nano()
    try:
        hooked = one_token_step(model, read(model))
        assert hooked is None
    finally:
        handle.remove()
    model.blocks[0].compile(backend="eager")
    assert one_token_step(model, StackState(read(nano()))) is None
    model = nano()
    model.__class__ = Doubled
    assert step(model) is None
    model = nano()
    assert one_token_step(model.train(), read(model)) is None
    static = read(model.eval())
    static[0].mixer = StaticKVCache(3, 4, 16, 8, torch.zeros(1), torch.zeros(3, 1, dtype=torch.long))
    assert one_token_step(model, static) is None


def new_weight(model: zoo.Model) -> None:
    model.blocks[0].mixer.q.weight = nn.Parameter(5 * model.blocks[0].mixer.q.weight.detach())


def new_weights(model: zoo.Model) -> None:
    model.load_state_dict({name: value + 0.3 for name, value in model.state_dict().items()}, assign=True)


def new_layer(model: zoo.Model) -> None:
    model.blocks[1].mlp.up = nn.Linear(32, 48)


def new_hook(model: zoo.Model) -> None:
    model.blocks[0].mlp.register_forward_hook(lambda module, args, y: -y)


def new_pre_hook(model: zoo.Model) -> None:
    model.blocks[1].norm1.register_forward_pre_hook(lambda module, args: (3 * args[0],))


@pytest.mark.parametrize("change", [new_weight, new_weights, new_layer, new_hook, new_pre_hook, nn.Module.train])
@torch.inference_mode()
def test_a_model_that_changes_between_two_tokens_is_called(change) -> None:
    torch.manual_seed(0)
    model = nano(dropout=0.5)
    states = [read(model) for _ in range(2)]
    step = one_token_step(model, states[0])
    before = step(TOKENS[:, :1])
    model.decode(TOKENS[:, :1], states[1])
    change(model)
    state = torch.get_rng_state()
    scores = step(TOKENS[:, 1:2])
    torch.set_rng_state(state)
    assert torch.equal(scores, model.decode(TOKENS[:, 1:2], states[1])) and not torch.equal(scores, before)


def test_a_capture_may_be_opened_while_a_text_is_streamed() -> None:
    model, read_tokens = nano(), []
    capture = zoo.capture(model)

    def streamer(token: Tensor) -> None:
        read_tokens.append(token)
        if len(read_tokens) == 3:
            streamer.maps = capture.__enter__()
        if len(read_tokens) == 5:
            capture.__exit__(None, None, None)

    zoo.generate(model, PROMPT[:1], max_new_tokens=8, eos_token_id=None, streamer=streamer)
    assert [m.shape[-1] for m in streamer.maps["blocks.1.mixer"]] == [8, 9]


@pytest.mark.parametrize("candidate", ["joined", "plain"])
def test_hooks_on_the_projections_of_an_optimized_model_are_called(monkeypatch: pytest.MonkeyPatch, candidate) -> None:
    fastest(monkeypatch, candidate, "transposed")
    model, calls = zoo.optimize(nano(), rows="one"), []
    attention = model.blocks[0].mixer
    (attention.projections if candidate == "joined" else attention.q).register_forward_hook(lambda *_: calls.append(1))
    zoo.generate(model, PROMPT[:1], max_new_tokens=8, eos_token_id=None)
    assert len(calls) == 8


def calls_of_a_token(model: zoo.Model) -> float:
    """The Python functions, also those of torch, that greedy decoding enters for each further token of one row."""
    calls, totals = [0], []

    def count(frame: FrameType, event: str, argument: object) -> None:
        calls[0] += event == "call"

    for new in (10, 10, 20):  # the first warms up
        calls[0], before = 0, sys.getprofile()
        sys.setprofile(count)
        try:
            zoo.generate(model, PROMPT[:1], max_new_tokens=new, eos_token_id=None)
        finally:
            sys.setprofile(before)
        totals.append(calls[0])
    return (totals[2] - totals[1]) / 10


@pytest.mark.parametrize("name, most", [("gpt_nano", 100), ("llama_nano", 140)])
@pytest.mark.parametrize("candidates", [None, ("plain",), ("transposed",), ("mkl", "transposed"), ("onednn",)])
def test_a_token_takes_few_calls(monkeypatch: pytest.MonkeyPatch, name: str, most: int, candidates) -> None:
    """Of six layers, whichever kernels zoo.optimize chooses; candidates None: of the model as loaded."""
    model = nano(name, depth=6)
    if candidates is not None:
        fastest(monkeypatch, *candidates)
        model = zoo.optimize(model, rows="one")
    assert calls_of_a_token(model) <= most


@pytest.mark.parametrize("candidate", ["plain", "onednn"])
def test_optimized_models_generate_the_same_under_autocast(monkeypatch: pytest.MonkeyPatch, candidate: str) -> None:
    fastest(monkeypatch, candidate)
    model = zoo.optimize(nano(), rows="one")
    expected = zoo.generate(model, PROMPT, max_new_tokens=8, eos_token_id=None)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(zoo.generate(model, PROMPT, max_new_tokens=8, eos_token_id=None), expected)
