"""The same files of Mamba and Mamba-2 through us and through transformers' path without kernels."""

import sys
import types
import warnings

import pytest
import torch
from decoder_peers import losses
from peers import edit_json, error, randomize
from table_swaps import check_swaps
from text_peers import answer, ragged

import zoo
from zoo.tasks.optimizer import param_groups

IDS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
MAMBA = dict(vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=4) | IDS
MAMBA2 = MAMBA | dict(state_size=6, num_heads=8, head_dim=8, n_groups=2, chunk_size=4)

# name of a case: (transformers' class, its options)
CASES = {
    "mamba": ("MambaForCausalLM", MAMBA),
    "mamba untied, biases": (
        "MambaForCausalLM",
        MAMBA | dict(tie_word_embeddings=False, use_bias=True, use_conv_bias=False, time_step_rank=5, expand=3),
    ),
    "mamba gelu, short": ("MambaForCausalLM", MAMBA | dict(hidden_act="gelu", conv_kernel=2, layer_norm_epsilon=1e-3)),
    "mamba hidden states": ("MambaModel", MAMBA),
    "mamba2": ("Mamba2ForCausalLM", MAMBA2),
    "mamba2 tied, biases": (
        "Mamba2ForCausalLM",
        MAMBA2 | dict(tie_word_embeddings=True, use_bias=True, use_conv_bias=False, n_groups=1, conv_kernel=3),
    ),
    "mamba2 many groups": ("Mamba2ForCausalLM", MAMBA2 | dict(num_heads=4, head_dim=16, n_groups=4)),
    "mamba2 gelu": ("Mamba2ForCausalLM", MAMBA2 | dict(hidden_act="gelu", chunk_size=256, layer_norm_epsilon=1e-3)),
    "mamba2 hidden states": ("Mamba2Model", MAMBA2),
}
BIASED = ("mamba untied, biases", "mamba2 tied, biases")


def case(folder, name, **more):
    """A tiny model of transformers, every parameter random (A_log, D and the biases of time steps, too)."""
    import transformers

    cls = getattr(transformers, CASES[name][0])
    model = randomize(cls(cls.config_class(**CASES[name][1] | more)))
    model.save_pretrained(folder)
    return model


def batch_for(name):
    """Their padding on the left is not neutral where the projections have a bias: it leaves a state."""
    return ragged((9, 9)) if name in BIASED else ragged()


@pytest.mark.parametrize("name", CASES)
def test_same_numbers_from_the_same_files(tmp_path, name):
    theirs, batch = case(tmp_path, name), batch_for(name)
    ours = zoo.load(tmp_path)
    assert error(answer(ours, batch), answer(theirs, batch)) <= 1e-5
    assert not (ours.load_report.initialized or ours.load_report.resampled or ours.training)


@pytest.mark.parametrize("name", CASES)
def test_same_numbers_in_float64(tmp_path, name, monkeypatch):
    """Their norms and scans in float64, too, which they compute in float32."""
    theirs, batch = case(tmp_path, name, residual_in_fp32=False).double(), batch_for(name)
    double = types.SimpleNamespace(**vars(torch) | {"float32": torch.float64})
    for module in {type(part).__module__ for part in theirs.modules()}:
        if "mamba" in module:
            monkeypatch.setattr(sys.modules[module], "torch", double)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    ours = zoo.load(tmp_path, dtype=torch.float64)
    assert error(answer(ours, batch), answer(theirs, batch)) <= 1e-9


@pytest.mark.parametrize("name", CASES)
def test_round_trip_through_their_format(tmp_path, name):
    import transformers

    case(tmp_path / "first", name)
    ours, batch = zoo.load(tmp_path / "first"), batch_for(name)
    zoo.export(ours, tmp_path / "second")
    theirs = getattr(transformers, CASES[name][0]).from_pretrained(tmp_path / "second").eval()
    assert error(answer(ours, batch), answer(theirs, batch)) <= 1e-5
    again = zoo.load(tmp_path / "second")
    assert torch.equal(answer(ours, batch), answer(again, batch)) and again.config == ours.config


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_round_trip_through_our_format(tmp_path, name):
    case(tmp_path / "first", name)
    ours, batch = zoo.load(tmp_path / "first"), ragged()
    zoo.save(ours, tmp_path / "second")
    again = zoo.load(tmp_path / "second")
    assert again.config == ours.config and torch.equal(answer(ours, batch), answer(again, batch))


@pytest.mark.parametrize("name", ["mamba untied, biases", "mamba2"])
def test_swapping_any_two_lines_of_a_table_is_caught(tmp_path, name):
    theirs, batch = case(tmp_path, name), batch_for(name)
    check_swaps(tmp_path, lambda model: answer(model, batch), answer(theirs, batch), 9)


@pytest.mark.parametrize("name", ["mamba", "mamba gelu, short", "mamba2", "mamba2 many groups"])
def test_greedy_as_transformers_token_for_token(tmp_path, name):
    """Of prompts with padding on the left."""
    theirs = case(tmp_path, name)
    ours, batch = zoo.load(tmp_path), ragged((9, 4, 6), side="left")
    given = dict(max_new_tokens=12, eos_token_id=None)
    expected = theirs.generate(**batch, do_sample=False, pad_token_id=1, **given)
    assert torch.equal(zoo.generate(ours, **batch, **given), expected)


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_beams_as_transformers_token_for_token(tmp_path, name):
    theirs = case(tmp_path, name)
    ours, batch = zoo.load(tmp_path), ragged((9, 4, 6), side="left", pad=1, vocab=30)
    given = {"num_beams": 3, "max_new_tokens": 8, "eos_token_id": [3, 17, 22, 60], "pad_token_id": 1}
    assert torch.equal(zoo.generate(ours, **batch, **given), theirs.generate(**batch, do_sample=False, **given))


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_training_gives_the_losses_of_transformers(tmp_path, name):
    theirs = case(tmp_path, name)
    lr = 1e-4 if name == "mamba" else 1e-3
    ours, expected = (losses(model, torch.float32, lr=lr) for model in (zoo.load(tmp_path), theirs))
    assert expected[-1] < expected[0] and (ours / expected - 1).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ["mamba_nano", "mamba2_nano"])
def test_the_state_space_has_no_weight_decay(name):
    model = zoo.create_model(name, seed=0, depth=1)
    plain = {id(p) for group in param_groups(model, 1.0, 0.1) if not group["weight_decay"] for p in group["params"]}
    names = {key.rpartition("mixer.")[2] for key, p in model.named_parameters() if id(p) in plain and "mixer" in key}
    assert names >= {"A_log", "D"} | ({"dt_proj.bias"} if name == "mamba_nano" else {"dt_bias", "norm.weight"})


@pytest.mark.parametrize("name", ["mamba_nano", "mamba2_nano"])
@torch.no_grad()
def test_texts_longer_than_max_length_are_read(name):
    model = zoo.create_model(name, seed=0, depth=1, max_length=8, vocab_size=50).eval()
    assert model(torch.randint(50, (1, 20))).isfinite().all()
    with pytest.warns(UserWarning, match="max_length=8"):
        zoo.generate(model, torch.randint(50, (1, 6)), max_new_tokens=4)


@pytest.mark.parametrize("name, change, message", [
    ("mamba2", {"time_step_limit": [0.0, 0.1]}, "time_step_limit"), ("mamba2", {"head_dim": 4}, "head_dim=4"),
    ("mamba", {"hidden_act": "selu"}, "selu"),
    ("mamba", {"architectures": ["MambaForEverything"]}, "MambaForEverything"),
])  # fmt: skip
def test_what_we_do_not_compute_is_refused_by_name(tmp_path, name, change, message):
    case(tmp_path, name)
    edit_json(tmp_path / "config.json", **change)
    with pytest.raises(zoo.LoadError, match=message):
        zoo.load(tmp_path)


@pytest.mark.parametrize("name, overrides, message", [
    ("mamba_nano", {"attention": "performer"}, "attention='performer' has no effect"),
    ("mamba_nano", {"attention": "preformer"}, r"unknown attention 'preformer'; did you mean 'performer'\?"),
    ("mamba2_nano", {"attention": ["softmax", "linaer"]}, r"unknown attention 'linaer'; did you mean 'linear'\?"),
    ("mamba_nano", {"state": 0}, "state=0"), ("mamba_nano", {"d_state": 8}, "did you mean 'state'"),
    ("mamba2_nano", {"groups": 3}, "groups=3"), ("mamba2_nano", {"heads": 7}, "heads=7"),
])  # fmt: skip
def test_options_that_do_not_fit_are_named(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_model(name, **overrides)


@pytest.mark.parametrize("overrides", [{"mixer": ["mamba", "attention"]}, {"mlp_dim": 64}, {"mlp_dim": 128}])
def test_what_transformers_lacks_is_not_exported(tmp_path, overrides):
    model = zoo.create_model("mamba_nano", seed=0, depth=2, width=32, **overrides)
    with pytest.raises(ValueError, match=next(iter(overrides))):
        zoo.export(model, tmp_path / "out", format="transformers")


def test_all_linear_layers_are_optimized():
    model = zoo.create_model("mamba_nano", seed=0, depth=1, width=32).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of layers that are not
        fast = zoo.optimize(model)
    assert error(answer(fast, ragged()), answer(model, ragged())) <= 1e-5


def test_an_old_name_of_the_embeddings(tmp_path):
    theirs = case(tmp_path, "mamba")
    weights = zoo.utils.files.open_tensors(tmp_path)
    tensors = {name.replace("embeddings", "embedding"): weights[name].clone() for name in weights}
    from safetensors.torch import save_file

    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert error(answer(zoo.load(tmp_path), ragged()), answer(theirs, ragged())) <= 1e-5
