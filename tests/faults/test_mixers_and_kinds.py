"""Every attention kind and mixer at odd sizes, and options, names and states that do not fit are refused by name."""

import copy
import inspect
from typing import Any

import pytest
import torch

import zoo
from zoo.inference.cost import measure
from zoo.inference.cost_by_kind import cost_by_kind
from zoo.nn.core import CORES, CoreSpec
from zoo.nn.init import initialize
from zoo.nn.masks import CAUSAL
from zoo.nn.mixers.base import MIXERS
from zoo.nn.registry import ALIASES, BUILT_IN, BUILT_IN_MIXERS, build_core

KINDS = [("attention", kind) for kind in BUILT_IN] + [("mixer", kind) for kind in BUILT_IN_MIXERS]
MODELS = ["gpt_nano", "llama_nano", "bert_tiny", "vit_cifar_tiny", "t5_nano"]
OPTIONS = [
    (argument, kind, option)
    for argument, kind in KINDS
    for option in list(inspect.signature({"attention": CORES, "mixer": MIXERS}[argument][kind]).parameters)[1:]
]


def nano(name: str = "gpt_nano", **options: Any) -> Any:
    sizes = {"depth": 2, "seed": 0} | ({"vocab_size": 256} if name == "bert_tiny" else {})
    return zoo.create_model(name, **sizes | options).eval()


def batch(name: str, tokens: int) -> dict[str, torch.Tensor]:
    if name.startswith("vit"):
        return {"pixel_values": torch.randn(1, 3, 32, 32)}
    ids = torch.arange(tokens)[None] + 5
    return {"input_ids": ids} | ({"decoder_input_ids": ids} if name.startswith("t5") else {})


@pytest.mark.parametrize("argument, kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_one_token_and_a_few(name: str, argument: str, kind: str) -> None:
    no_scores = argument == "mixer" or not hasattr(CORES[kind], "weights") or kind in LINEAR
    for tokens in (1, 5):
        torch.manual_seed(0)
        model, inputs = nano(name, **{argument: kind}), batch(name, tokens)
        if name == "t5_nano" and no_scores:
            with pytest.raises(
                ValueError, match=r"no scores .*: (keep attention in some layers|use an attention kind)"
            ):
                model(**inputs)
        else:
            assert model(**inputs).isfinite().all()


LINEAR = ("linear", "performer", "rfa", "delta", "gated_delta", "gated_linear")
LARGE = [
    {"kind": "local", "window": 10**6},
    {"kind": "local", "window": 99, "grid": (5, 104), "prefix": 3},
    {"kind": "dilated", "window": 3, "dilation": 10**6},
    {"kind": "shifted_window", "window": 10**6},
    {"kind": "block_sparse", "block": 10**6},
    {"kind": "block_sparse", "block": 200},
    {"kind": "strided", "window": 7, "step": 10**6},
    {"kind": "longformer", "window": 10**6},
    {"kind": "longformer", "window": 7, "tokens": 10**6},
    {"kind": "bigbird", "block": 200},
    {"kind": "bigbird", "block": 50, "random": 10**3},
    {"kind": "bigbird", "block": 50, "tokens": 0},
]


@pytest.mark.parametrize("kind", LARGE, ids=str)
@pytest.mark.parametrize("tokens", [1, 523])
@pytest.mark.parametrize("causal", [False, True])
def test_sizes_beyond_the_sequence_and_that_do_not_divide_it_are_exact(kind: Any, tokens: int, causal: bool) -> None:
    core = build_core(kind, CoreSpec(heads=2, kv_heads=1, head_dim=8, layer=1, causal=causal))
    initialize(core, 0)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, tokens, 8, generator=generator) for heads in (2, 1, 1))
    mask = CAUSAL if causal else None
    torch.testing.assert_close(core(q, k, v, mask), core.maps(q, k, mask) @ v, rtol=0, atol=1e-5)


@pytest.mark.parametrize("argument, kind, option", OPTIONS, ids=map("-".join, OPTIONS))
@pytest.mark.parametrize("value", ["large", -1, 1.5, float("nan"), True, [1], {}], ids=str)
def test_an_option_of_another_type_or_range_is_named(argument: str, kind: str, option: str, value: Any) -> None:
    if (option, value) in (
        ("seed", -1),
        ("bias", True),
        ("conv_bias", True),
        ("expand", 1.5),
        ("eps", 1.5),
        ("edges", True),
    ):
        return  # these are valid
    with pytest.raises(ValueError, match=option if option != "layout" else "layout: expected|layout=nan: expected"):
        nano(**{argument: {"kind": kind, option: value}})


@pytest.mark.parametrize("kind, message", [
    ({"kind": "local", "grid": (4, 0)}, r"columns of grid=0: expected a positive"),
    ({"kind": "shifted_window", "grid": (4, 4, 4)}, r"grid=.* expected tuple"),
    ({"kind": "local", "prefix": 1}, r"prefix=1 has no effect without grid=.*attention='longformer'"),
    ({"kind": "block_sparse", "layout": [[1, 0, 1], [0, 1, 1]]}, "as many blocks of queries as of keys, got 2 and 3"),
    ({"kind": "block_sparse", "layout": 3}, "layout: expected booleans"),
    ({"kind": "longformer", "tokens": 0}, "tokens=0"), ({"kind": "bigbird", "tokens": -1}, "tokens=-1"),
    ({"kind": "performer", "feature": 8}, "did you mean 'features'"), ({}, "expected a name, .* got {}"),
    ("perfomer", "did you mean 'performer'"), ("mamba", "is a mixer: write mixer='mamba'"), ([], "got 0 kinds"),
    (["local", "softmax", "local"], "a number that divides 2"), (None, "got None"), ("linformer", "unknown attention"),
])  # fmt: skip
def test_attention_kinds_that_do_not_fit(kind: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nano(attention=kind)


@pytest.mark.parametrize("kind, message", [
    ("mambaa", "did you mean 'mamba'"), (["mamba", "atention"], "did you mean 'attention'"), ([], "got 0 kinds"),
    ("performer", "is an attention kind: write attention='performer'"), ({}, "got {}"), (3, "got 3"),
    ({"kind": "attention"}, "write the name alone"), ({"kind": "mamba", "stat": 1}, "did you mean 'state'"),
    (["mamba", "s4d", "s4d"], "a number that divides 2"), ({"kind": "retention", "eps": 0.0}, "eps=0.0"),
])  # fmt: skip
def test_mixers_that_do_not_fit(kind: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nano(mixer=kind)


UNUSED = [
    *[(name, {"mixer": "mamba", "attention": "performer"}) for name in MODELS],
    ("gpt_nano", {"mixer": ["mamba", "s4d"], "attention": "softmax"}),
    *[(name, {"attention": "local"}) for name in ("mamba_nano", "mamba2_nano", "rwkv_nano", "retnet_nano")],
    ("t5_nano", {"decoder_mixer": "mamba", "decoder.attention": "additive"}),
    ("t5_nano", {"mixer": "mamba", "encoder_attention": "additive"}),
    ("clip_tiny", {"text.mixer": "mamba", "text.attention": "additive"}),
]


@pytest.mark.parametrize("name, overrides", UNUSED, ids=str)
def test_an_attention_kind_without_effect_is_refused(name: str, overrides: dict[str, Any]) -> None:
    message = r"attention='\w+' has no effect.*mixer=\['mamba', 'attention'\]"
    with pytest.raises(ValueError, match=message):
        zoo.create_model(name, **overrides)
    with pytest.raises(ValueError, match=message):
        measure(name, **overrides)
    with pytest.raises(ValueError, match=message):
        cost_by_kind(name, 8, names=["linear"], **overrides)


def test_an_attention_kind_without_effect_is_refused_for_files(tmp_path: Any) -> None:
    zoo.save(nano(mixer="s4d"), tmp_path / "model")
    with pytest.raises(ValueError, match="attention='local' has no effect"):
        zoo.load(tmp_path / "model", attention="local")


@pytest.mark.parametrize("name, overrides", [
    ("gpt_nano", {"mixer": ["mamba", "attention"], "attention": "local"}), ("gpt_nano", {"mixer": "attention"}),
    ("t5_nano", {"decoder_mixer": ["mamba", "attention"], "attention": "additive"}),
    ("t5_nano", {"mixer": ["s4d", None]}), ("clip_tiny", {"text.mixer": "s4d", "attention": "local"}),
    ("mistral_7b", {"mixer": "mamba", "depth": 2}), ("retnet_nano", {"mixer": "attention", "attention": "local"}),
    ("mamba_nano", {"mixer": ["mamba", "attention"], "attention": "local"}),
    ("t5_nano", {"mixer": "mamba", "cross_attention": "linear"}),
])  # fmt: skip
def test_attention_kinds_of_hybrids_and_variants_are_not_refused(name: str, overrides: dict[str, Any]) -> None:
    with torch.device("meta"):
        zoo.create_model(name, **overrides)


# --- states -----------------------------------------------------------------------------------------------------------

DECODERS = [("attention", kind) for kind in BUILT_IN] + [("mixer", kind) for kind in BUILT_IN_MIXERS]
IDS = torch.arange(12).view(2, 6) + 5


@pytest.mark.parametrize("argument, kind", DECODERS)
@torch.no_grad()
def test_a_state_of_another_model(argument: str, kind: str) -> None:
    model = nano(**{argument: kind})
    others = [nano(**{argument: kind}), nano(**{argument: kind}, depth=3)]
    if kind == "softmax":
        others += [nano(width=96), nano("llama_nano"), nano("mamba_nano"), nano("rwkv_nano")]
    for other in others:
        state = other.new_state(2)
        other.decode(IDS, state)
        with pytest.raises(ValueError, match="the state is of another model"):
            model.decode(IDS, state)


@pytest.mark.parametrize("argument, kind", DECODERS)
@torch.no_grad()
def test_a_state_of_other_rows(argument: str, kind: str) -> None:
    model = nano(**{argument: kind})
    for rows in (1, 3):
        with pytest.raises(ValueError, match=f"the state has {rows} rows and the new tokens have 2"):
            model.decode(IDS, model.new_state(rows))
    state = model.new_state(2)
    model.decode(IDS, state)
    state.reorder(torch.tensor([1, 1, 0]))
    rows = model.decode(IDS[[0, 0, 0], :1], state)
    assert rows.shape[0] == 3 and torch.allclose(rows[0], rows[1], atol=1e-5)


@torch.no_grad()
def test_a_copy_of_a_state_continues_its_text() -> None:
    model = nano(mixer=["mamba", "attention"])
    state = model.new_state(2)
    model.decode(IDS, state)
    copied = copy.deepcopy(state)
    torch.testing.assert_close(model.decode(IDS, state), model.decode(IDS, copied), rtol=0, atol=0)


@pytest.mark.parametrize("state", [{}, [], "state", 3])
def test_what_is_not_a_state(state: Any) -> None:
    with pytest.raises(ValueError, match=r"state: expected a StackState, .*given a"):
        nano().decode(IDS, state)


@torch.no_grad()
def test_states_of_decoders_with_and_without_an_encoder() -> None:
    t5, gpt = nano("t5_nano"), nano()
    for state in (None, gpt.new_state(2)):
        with pytest.raises(ValueError, match="state: expected a EncoderDecoderState"):
            t5.decode(IDS, state)
    state = t5.new_state(t5.encode(input_ids=IDS))
    with pytest.raises(ValueError, match="another model"):
        gpt.decode(IDS, state)
    assert t5.decode(IDS, state).isfinite().all()
    with pytest.raises(ValueError, match="expected a PromptCache, given a EncoderDecoderState"):
        zoo.generate(gpt, IDS[:1], cache=state, max_new_tokens=1)


def test_other_libraries_names_of_kinds_are_suggested() -> None:
    for theirs, ours in ALIASES.items():
        with pytest.raises(ValueError, match=f"did you mean '{ours}'"):
            nano(attention=theirs)
