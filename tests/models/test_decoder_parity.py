"""The same files through us and through transformers: GPT-2, LLaMA, Mistral, Qwen, Gemma, Granite with every head."""

import pytest
import torch
import transformers
from decoder_peers import CASES, NTK, case, decoder, losses
from peers import edit_json, error
from table_swaps import check_swaps
from text_peers import answer, ragged

import zoo
from zoo.models.registry import build, find_variant


@pytest.mark.parametrize("name", CASES)
def test_same_numbers_from_the_same_files(tmp_path, name):
    theirs, batch = case(tmp_path, name), ragged()
    ours = zoo.load(tmp_path)
    assert error(answer(ours, batch), answer(theirs, batch)) <= 1e-5
    assert not (ours.load_report.initialized or ours.load_report.resampled or ours.training)
    if "gpt2" in name:  # the others compute norms and rotary tables in float32
        ours = zoo.load(tmp_path, dtype=torch.float64)
        assert error(answer(ours, batch), answer(theirs.double(), batch)) <= 1e-9


@pytest.mark.parametrize("name", CASES)
def test_round_trip_through_their_format(tmp_path, name):
    import transformers

    case(tmp_path / "first", name)
    ours, batch = zoo.load(tmp_path / "first"), ragged()
    zoo.export(ours, tmp_path / "second")
    theirs = getattr(transformers, CASES[name][0]).from_pretrained(tmp_path / "second").eval()
    assert error(answer(ours, batch), answer(theirs, batch)) <= 1e-5
    again = zoo.load(tmp_path / "second")
    assert torch.equal(answer(ours, batch), answer(again, batch))
    spelled_out = {name: getattr(again.config, name) for name in ("mlp_dim", "kv_heads", "head_dim", "dropout")}
    assert again.config == ours.config.replace(**spelled_out)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3 window"])
def test_round_trip_through_our_format(tmp_path, name):
    case(tmp_path / "first", name)
    ours, batch = zoo.load(tmp_path / "first"), ragged()
    zoo.save(ours, tmp_path / "second")
    again = zoo.load(tmp_path / "second")
    assert again.config == ours.config and torch.equal(answer(ours, batch), answer(again, batch))


@pytest.mark.parametrize("name, option, wrong", [
    ("gpt2", {"norm_eps": 1e-6}, 1e-3), ("llama", {"norm_eps": 1e-5}, 1e-3), ("qwen3", {"norm_eps": 1e-5}, 1e-3),
    ("gemma 2", {"norm_eps": 1e-5}, 1e-3),
])  # fmt: skip
def test_eps_shows_where_activations_are_small(tmp_path, name, option, wrong):
    theirs, batch = case(tmp_path, name), ragged()
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if any(part in key for part in ("wte", "wpe", "embed", "o_proj", "down_proj", "c_proj")):
                parameter.mul_(1e-3)
    theirs.save_pretrained(tmp_path)
    assert error(answer(zoo.load(tmp_path, head=None), batch), hidden(theirs, batch)) <= 1e-5
    assert error(answer(zoo.load(tmp_path, head=None, **option), batch), hidden(theirs, batch)) > wrong


def hidden(theirs, batch):
    return answer(theirs.base_model, batch)


def test_rotary_positions_far_from_the_start(tmp_path):
    """Positions that begin at 30 (after padding on the left) differ from those that begin at 0."""
    theirs = decoder(tmp_path, "LlamaForCausalLM", rope_parameters=NTK | {"rope_theta": 1e4})
    ours, ids = zoo.load(tmp_path), ragged((44,))["input_ids"]
    assert error(answer(ours, {"input_ids": ids}), answer(theirs, {"input_ids": ids})) <= 1e-5
    plain = zoo.load(tmp_path, rope_scaling=None)
    assert error(answer(plain, {"input_ids": ids}), answer(theirs, {"input_ids": ids})) > 1e-3


@pytest.mark.parametrize(
    "name", ["gpt2 untied, exact gelu", "llama", "qwen3", "qwen2 tokens", "granite", "gemma", "gemma 3"]
)
def test_swapping_any_two_lines_of_a_table_is_caught(tmp_path, name):
    theirs, batch = case(tmp_path, name), ragged()
    check_swaps(tmp_path, lambda model: answer(model, batch), answer(theirs, batch), 9)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_training_gives_the_losses_of_transformers(tmp_path, dtype, tolerance):
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    theirs = decoder(tmp_path, "GPT2LMHeadModel", **off)
    ours, expected = losses(zoo.load(tmp_path), dtype), losses(theirs, dtype)
    assert expected[-1] < expected[0] and (ours / expected - 1).abs().max() <= tolerance


@pytest.mark.parametrize("name, seed", [
    ("LlamaForCausalLM", 0), ("GraniteMoeHybridForCausalLM", 1), ("Gemma2ForCausalLM", 0), ("Gemma3ForCausalLM", 0),
])  # fmt: skip
def test_training_decoders_gives_the_losses_of_transformers(tmp_path, name, seed):
    theirs = decoder(tmp_path, name, seed)
    ours, expected = (losses(model, torch.float32, lr=1e-4) for model in (zoo.load(tmp_path), theirs))
    assert expected[-1] < expected[0] and (ours / expected - 1).abs().max() <= 1e-4


# --- What is refused, and by which name -----------------------------------------------------------------------------


@pytest.mark.parametrize("change, named", [
    ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0}}, "longrope"),
    ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
    ({"attention_bias": True}, "attention_bias"),
    ({"mlp_bias": True}, "mlp_bias"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ({"model_type": "olmo2"}, "olmo2"),
    ({"architectures": ["LlamaForQuestionAnswering"]}, "LlamaForQuestionAnswering"),
])  # fmt: skip
def test_what_we_do_not_compute_is_refused_by_name(tmp_path, change, named):
    case(tmp_path, "llama")
    edit_json(tmp_path / "config.json", **change)
    with pytest.raises(zoo.LoadError, match=named):
        zoo.load(tmp_path)


@pytest.mark.parametrize("change, named", [
    ({"num_local_experts": 4}, "num_local_experts"),
    ({"layer_types": ["linear_attention", "moe", "full_attention", "full_attention"]}, "moe"),
    ({"layer_types": ["linear_attention"]}, "1 entries"),
    ({"time_step_limit": [0.0, 0.1]}, "time_step_limit"),
    ({"position_embedding_type": "rope", "rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
    ({"attention_bias": True}, "attention_bias"),
])  # fmt: skip
def test_hybrids_that_we_do_not_compute_are_refused_by_name(tmp_path, change, named):
    case(tmp_path, "granite")
    edit_json(tmp_path / "config.json", **change)
    with pytest.raises(zoo.LoadError, match=named):
        zoo.load(tmp_path)


def test_older_names_of_the_layers_are_read(tmp_path):
    case(tmp_path, "granite")
    expected = zoo.load(tmp_path).config
    edit_json(tmp_path / "config.json", layer_types=["mamba", "attention"] * 2, time_step_limit=[0.0, float("inf")])
    assert zoo.load(tmp_path).config == expected


@pytest.mark.parametrize("options", [
    {},
    {"mixer": [{"kind": "mamba2", "state": 8}, "attention"]},
    {"mixer": ["mamba2", "attention"]},
    {"mixer": "mamba2"},
    {"mixer": "attention"},
    {"mixer": None, "rope_base": 1e4, "kv_heads": None},
    {"attention_multiplier": 0.1, "bos_token_id": 3},
])  # fmt: skip
def test_hybrids_are_exported_whichever_options_their_mixers_leave_out(tmp_path, options):
    ours = zoo.create_model("granite4_nano", seed=0, **options).eval()
    zoo.export(ours, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.randint(5, 200, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(input_ids=ids, use_cache=False).logits, ours(ids), atol=1e-5, rtol=1e-4)
        assert torch.equal(zoo.load(tmp_path)(ids), ours(ids))


@pytest.mark.parametrize("mixer", [["s4d", "attention"], [{"kind": "mamba2", "state": 8}, "mamba2"]])
def test_a_hybrid_that_transformers_lacks_is_not_exported(tmp_path, mixer):
    with pytest.raises(ValueError, match="mixer"):
        zoo.export(zoo.create_model("granite4_nano", mixer=mixer), tmp_path)


@pytest.mark.parametrize("attention", ["performer", "additive", {"kind": "local", "window": 4}])
def test_a_mechanism_that_transformers_lacks_is_not_exported(tmp_path, attention):
    case(tmp_path / "first", "gpt2")
    ours = zoo.load(tmp_path / "first", attention=attention)
    with pytest.raises(ValueError, match="attention"):
        zoo.export(ours, tmp_path / "second")


def test_files_of_transformers_4_say_rope_otherwise(tmp_path):
    theirs = decoder(tmp_path, "LlamaForCausalLM", rope_parameters=NTK | {"rope_theta": 5e5})
    scaling = {name: value for name, value in NTK.items() if name != "rope_theta"}
    edit_json(tmp_path / "config.json", rope_parameters=..., rope_theta=5e5, rope_scaling=scaling)
    assert error(answer(zoo.load(tmp_path), ragged()), answer(theirs, ragged())) <= 1e-5


COUNTS = {
    "gpt2": 124_439_808, "gpt2_medium": 354_823_168, "gpt2_large": 774_030_080, "gpt2_xl": 1_557_611_200,
    "llama2_7b": 6_738_415_616, "llama2_13b": 13_015_864_320, "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248, "llama31_8b": 8_030_261_248, "llama32_1b": 1_235_814_400,
    "llama32_3b": 3_212_749_824, "tinyllama_1b": 1_100_048_384, "mistral_7b": 7_241_732_096,
    "mistral_7b_v03": 7_248_023_552, "qwen2_0_5b": 494_032_768, "qwen2_1_5b": 1_543_714_304,
    "qwen2_7b": 7_615_616_512, "qwen3_0_6b": 596_049_920, "qwen3_1_7b": 1_720_574_976, "qwen3_8b": 8_190_735_360,
    "gemma_2b": 2_506_172_416, "gemma_7b": 8_537_680_896, "gemma2_2b": 2_614_341_888, "gemma2_9b": 9_241_705_984,
    "gemma2_27b": 27_227_128_320, "gemma3_270m": 268_098_176, "gemma3_1b": 999_885_952,
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_are_the_published_ones(name):
    found = find_variant(name)
    model = build(found, found.config(**found.variants[name]))
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name]
