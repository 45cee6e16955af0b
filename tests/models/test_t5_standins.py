"""Folders of T5, T5 v1.1, FLAN-T5 and mT5 as people download them, and as transformers reads them again."""

import json
from pathlib import Path

import pytest
import torch
from peers import edit_json, error
from safetensors.torch import load_file, save_file
from t5_peers import CASES, batch, outputs, peer
from torch import Tensor, nn

import zoo


@pytest.mark.parametrize("name", CASES)
def test_export_is_read_by_transformers(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    theirs = peer(tmp_path / "theirs", name)
    zoo.export(zoo.load(tmp_path / "theirs"), tmp_path / "ours", "transformers")
    architecture = json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"][0]
    assert architecture == type(theirs).__name__.removeprefix("M"), "mT5 computes what T5 v1.1 does"
    cls = getattr(transformers, architecture)
    again, report = cls.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    inputs = batch()
    assert torch.equal(outputs(again.eval(), inputs), outputs(theirs, inputs))
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert zoo.load(tmp_path / "ours").config == zoo.load(tmp_path / "theirs").config
    if hasattr(again, "lm_head"):
        ids = inputs["input_ids"]
        options = dict(attention_mask=inputs["attention_mask"], max_new_tokens=5, use_cache=False)
        both = [m.generate(ids, **options) for m in (theirs, again)]  # its cache takes sides of equal depth
        assert torch.equal(*both) and not both[0][:, 0].any()
    assert transformers.AutoConfig.from_pretrained(tmp_path / "ours").decoder_start_token_id == 0


@pytest.mark.parametrize("name", ["t5", "t5 v1.1", "t5 encoder", "t5 hidden states", "mt5"])
def test_verify(tmp_path, name):
    peer(tmp_path / "theirs", name)
    assert zoo.verify(tmp_path / "theirs").ok
    zoo.save(zoo.load(tmp_path / "theirs"), tmp_path / "ours")
    assert zoo.verify(tmp_path / "ours").ok


STRAY = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
# What the repositories' config.json say beside the sizes.
T5_HUB = {
    "architectures": ["T5ForConditionalGeneration"], "d_ff": 48, "d_kv": 12, "d_model": 32,
    "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1, "initializer_factor": 1.0,
    "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "model_type": "t5", "n_positions": 512, "num_heads": 4,
    "num_layers": 2, "output_past": True, "pad_token_id": 0, "relative_attention_num_buckets": 32,
    "task_specific_params": {"summarization": {"early_stopping": True, "num_beams": 4, "prefix": "summarize: "}},
    "vocab_size": 99,
}  # fmt: skip
FLAN_HUB = {
    "architectures": ["T5ForConditionalGeneration"], "d_ff": 48, "d_kv": 12, "d_model": 32,
    "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1, "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0, "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "model_type": "t5",
    "n_positions": 512, "num_decoder_layers": 3, "num_heads": 4, "num_layers": 2, "output_past": True,
    "pad_token_id": 0, "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False, "transformers_version": "4.23.1", "use_cache": True, "vocab_size": 99,
}  # fmt: skip


def published(folder: Path, name: str, config: dict, **options) -> tuple[nn.Module, dict[str, Tensor]]:
    """(transformers' model, its tensors), with the repository's config.json in the folder."""
    theirs = peer(folder, name, **options)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return theirs, tensors


def copies(tensors: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensors["shared.weight"].clone() for name in names}


def check(folder: Path, theirs: nn.Module, dropped: list[str], **options) -> zoo.Model:
    ours = zoo.load(folder, **options)
    assert error(outputs(ours, batch()), outputs(theirs, batch())) <= 1e-5
    assert sorted(ours.load_report.dropped) == sorted(dropped) and not ours.load_report.initialized
    return ours


def test_t5_of_the_hub(tmp_path):
    """google-t5/t5-small and -base: every copy of the embeddings, and biases that nothing uses."""
    theirs, tensors = published(tmp_path, "t5", T5_HUB, num_decoder_layers=2)
    more = copies(tensors, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    more[STRAY] = torch.randn(32, 4)
    torch.save(tensors | more, tmp_path / "pytorch_model.bin")
    ours = check(tmp_path, theirs, list(more))
    assert ours.config.tie_word_embeddings and ours.config.scale_decoder_outputs and ours.config.max_length == 512


def test_flan_t5_of_the_hub(tmp_path):
    theirs, tensors = published(tmp_path, "t5 v1.1", FLAN_HUB)
    more = copies(tensors, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    save_file(tensors | more, tmp_path / "model.safetensors")
    ours = check(tmp_path, theirs, list(more))
    assert not ours.config.tie_word_embeddings and not ours.config.scale_decoder_outputs
    assert ours.config.act == "gelu_tanh" and ours.config.gated_mlp


def test_a_file_without_shared_embeddings(tmp_path):
    """Files of the encoder alone for image generators have them under the name of the encoder."""
    config = FLAN_HUB | {"architectures": ["T5EncoderModel"]}
    theirs, tensors = published(tmp_path, "t5 encoder", config)
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    check(tmp_path, theirs, [])


@pytest.mark.parametrize("how", ["config", "override"])
def test_the_encoder_of_a_file_with_both_sides(tmp_path, how):
    transformers = pytest.importorskip("transformers")
    _, tensors = published(tmp_path, "t5 v1.1", FLAN_HUB)
    save_file(tensors, tmp_path / "model.safetensors")
    if how == "config":
        edit_json(tmp_path / "config.json", architectures=["T5EncoderModel"])
    ours = zoo.load(tmp_path, **({} if how == "config" else dict(head=None, decoder_depth=0)))
    assert all(name.startswith(("decoder.", "head.", "lm_head.")) for name in ours.load_report.dropped)
    assert ours.decoder is None and ours.inputs == ("input_ids", "attention_mask", "lengths")
    theirs = transformers.T5EncoderModel.from_pretrained(tmp_path).eval()
    assert error(outputs(ours, batch()), outputs(theirs, batch())) <= 1e-5
    with pytest.raises(ValueError, match="does not use 'decoder_input_ids'"):
        ours(**batch())


def test_a_sentence_t5_says_that_its_last_layers_are_left_out(tmp_path):
    peer(tmp_path, "t5 encoder")
    (tmp_path / "modules.json").write_text("[]")
    ours = zoo.load(tmp_path)
    note = "modules.json of sentence-transformers are not supported for t5 models: the model has head=None"
    assert note in ours.load_report.notes[0] and not ours.load_report.plain


def test_embeddings_that_differ_are_an_error(tmp_path):
    _, tensors = published(tmp_path, "t5", T5_HUB, num_decoder_layers=2)
    save_file(tensors | {"decoder.embed_tokens.weight": torch.randn(99, 32)}, tmp_path / "model.safetensors")
    with pytest.raises(zoo.LoadError, match=r"different under two names shared\.weight and decoder\.embed_tokens"):
        zoo.load(tmp_path)


def test_an_mlp_that_is_not_known_is_an_error(tmp_path):
    peer(tmp_path, "t5")
    edit_json(tmp_path / "config.json", feed_forward_proj="double-gelu", dense_act_fn=..., is_gated_act=...)
    with pytest.raises(zoo.LoadError, match="feed_forward_proj='double-gelu' is not supported"):
        zoo.load(tmp_path)


@pytest.mark.parametrize(("overrides", "message"), [
    (dict(act="gelu", gated_mlp=True), "act='gelu' with gated_mlp=True"),
    (dict(decoder_heads=2), "cannot express decoder_heads=2"),
    (dict(cross_attention="additive"), "cannot express cross_attention='additive'"),
])  # fmt: skip
def test_what_transformers_cannot_express(tmp_path, overrides, message):
    model = zoo.create_model("t5_nano", depth=1, **overrides)
    with pytest.raises(ValueError, match=message):
        zoo.export(model, tmp_path / "out", "transformers")


def test_values_of_the_decoder_that_are_those_of_the_encoder_are_exported(tmp_path):
    model = zoo.create_model("t5_nano", depth=1, decoder_depth=2, decoder_heads=4, decoder_mlp_dim=512)
    zoo.export(model, tmp_path / "out", "transformers")
    assert zoo.load(tmp_path / "out").config.decoder_depth == 2
