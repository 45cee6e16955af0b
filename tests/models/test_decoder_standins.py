"""Folders as people download them: names of tensors and config keys of the most downloaded decoders, at tiny width."""

import json

import pytest
import torch
from decoder_peers import case, decoder
from peers import edit_json, error
from safetensors.torch import load_file, save_file
from text_peers import answer, ragged

import zoo

# What the repositories' config.json say beside the sizes.
GPT2_HUB = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 2,
    "embd_pdrop": 0.1, "eos_token_id": 3, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2",
    "n_ctx": 40, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 40, "resid_pdrop": 0.1,
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 99,
}  # fmt: skip
LLAMA_HUB = {
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 2, "eos_token_id": 3, "hidden_act": "silu",
    "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48, "max_position_embeddings": 64,
    "model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2,
    "pretraining_tp": 1, "rms_norm_eps": 1e-06, "rope_scaling": None, "tie_word_embeddings": False,
    "torch_dtype": "float32", "transformers_version": "4.31.0.dev0", "use_cache": True, "vocab_size": 99,
}  # fmt: skip


def published(folder, name, config):
    """(transformers' model, its tensors), with the repository's config.json in the folder."""
    theirs = case(folder, name)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "generation_config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    return theirs, tensors


def gpt2_hub(tensors):
    """openai-community/gpt2: no prefix, the causal mask of each layer."""
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    return bare | {f"h.{i}.attn.bias": torch.ones(40, 40).tril()[None, None] for i in range(2)}


def check(folder, theirs, dropped):
    ours = zoo.load(folder)
    assert error(answer(ours, ragged()), answer(theirs, ragged())) <= 1e-5
    assert sorted(ours.load_report.dropped) == sorted(dropped) and not ours.load_report.initialized
    assert ours.config.eos_token_id == 3
    return ours


def test_gpt2_of_the_hub(tmp_path):
    theirs, tensors = published(tmp_path, "gpt2", GPT2_HUB)
    save_file(gpt2_hub(tensors), tmp_path / "model.safetensors")
    check(tmp_path, theirs, ["h.0.attn.bias", "h.1.attn.bias"])


def test_gpt2_as_older_pickles_have_it(tmp_path):
    """distilgpt2 and many fine-tuned ones: with prefix, both stored masks, and the last map beside the word table."""
    theirs, tensors = published(tmp_path, "gpt2", GPT2_HUB)
    masks = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 40, 40).tril() for i in range(2)}
    masks |= {f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)}
    twice = {"lm_head.weight": tensors["transformer.wte.weight"]}
    torch.save(tensors | masks | twice, tmp_path / "pytorch_model.bin")
    check(tmp_path, theirs, [*masks, *twice])


def test_a_classifier_on_a_body_of_the_hub(tmp_path):
    _, tensors = published(tmp_path, "gpt2", GPT2_HUB)
    save_file(gpt2_hub(tensors), tmp_path / "model.safetensors")
    ours = zoo.load(tmp_path, head="classify", labels=["bad", "good"])
    assert ours.load_report.initialized == ["head.proj.weight"] and ours.labels == ["bad", "good"]
    assert answer(ours, ragged()).shape == (3, 2)


@pytest.mark.parametrize("files", ["sharded safetensors", "sharded pickles"])
def test_llama_2_of_the_hub(tmp_path, files):
    """meta-llama/Llama-2-7b-hf: two shards, and the rotary frequencies of each layer."""
    theirs, tensors = published(tmp_path, "llama", LLAMA_HUB)
    frequencies = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.rand(4) for i in range(3)}
    names = sorted(tensors | frequencies)
    suffix, prefix = (".safetensors", "model") if "safetensors" in files else (".bin", "pytorch_model")
    weight_map = {}
    for number, part in enumerate((names[:14], names[14:]), 1):
        file = f"{prefix}-{number:05}-of-00002{suffix}"
        shard = {name: (tensors | frequencies)[name].clone() for name in part}
        (save_file if suffix == ".safetensors" else torch.save)(shard, tmp_path / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (tmp_path / f"{prefix}{suffix}.index.json").write_text(json.dumps(index))
    check(tmp_path, theirs, list(frequencies))


def test_llama_3_of_the_hub(tmp_path):
    """meta-llama/Llama-3.2-1B: rotary positions as transformers 4 writes them, several end tokens."""
    scaling = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 32}
    config = LLAMA_HUB | {"rope_theta": 5e5, "rope_scaling": scaling | {"rope_type": "llama3"}, "head_dim": 8}
    config |= {"attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "eos_token_id": [3, 7, 9]}
    theirs, tensors = published(tmp_path, "llama 3", config)
    save_file(tensors, tmp_path / "model.safetensors")
    ours = zoo.load(tmp_path)
    assert error(answer(ours, ragged()), answer(theirs, ragged())) <= 1e-5
    assert ours.config.eos_token_id == (3, 7, 9) and ours.load_report.plain


def test_qwen2_of_the_hub_does_not_use_the_window_it_names(tmp_path):
    config = LLAMA_HUB | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rope_theta": 1e4}
    config |= {"sliding_window": 3, "use_sliding_window": False, "max_window_layers": 1, "attention_dropout": 0.0}
    theirs, tensors = published(tmp_path, "qwen2", config)
    save_file(tensors, tmp_path / "model.safetensors")
    assert check(tmp_path, theirs, []).config.attention == "softmax"


@pytest.mark.parametrize("change", [
    {"extra.weight": torch.zeros(3)}, {"model.norm.weight": None}, {"model.norm.weight": torch.zeros(31)},
    {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)},
])  # fmt: skip
def test_tensors_that_do_not_belong_are_errors(tmp_path, change):
    _, tensors = published(tmp_path, "llama", LLAMA_HUB)
    tensors = {name: tensor for name, tensor in (tensors | change).items() if tensor is not None}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(zoo.LoadError, match=next(iter(change)).replace(".", r"\.")):
        zoo.load(tmp_path)


def test_a_tied_file_without_its_word_table_is_an_error(tmp_path):
    _, tensors = published(tmp_path, "gpt2", GPT2_HUB)
    tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(zoo.LoadError, match=r"wte\.weight"):
        zoo.load(tmp_path)
    edit_json(tmp_path / "config.json", n_layer=1)
    with pytest.raises(zoo.LoadError, match=r"h\.1"):
        zoo.load(tmp_path)


@pytest.mark.parametrize(("name", "options", "absent", "field", "expected"), [
    ("GPT2LMHeadModel", {"layer_norm_epsilon": 0.1}, (), "norm_eps", 0.1),
    ("LlamaForCausalLM", {"rms_norm_eps": 1e-6}, ("rms_norm_eps",), "norm_eps", 1e-6),
    ("MistralForCausalLM", {"sliding_window": 4096}, ("sliding_window",), "attention",
     {"kind": "local", "window": 4096}),
    ("Qwen2ForCausalLM", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, ("layer_types",),
     "attention", ("softmax", {"kind": "local", "window": 4}, {"kind": "local", "window": 4})),
])  # fmt: skip
def test_settings_that_files_leave_out_or_change(tmp_path, name, options, absent, field, expected):
    theirs, batch = decoder(tmp_path, name, **options), ragged()
    edit_json(tmp_path / "config.json", **dict.fromkeys(absent, ...))
    ours = zoo.load(tmp_path)
    assert getattr(ours.config, field) == expected
    assert error(answer(ours, batch), answer(theirs, batch)) <= 1e-5
