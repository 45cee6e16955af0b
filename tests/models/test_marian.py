"""Marian against transformers, through files on disk, every parameter random."""

from pathlib import Path

import pytest
import torch
from peers import edit_json, error
from safetensors.torch import load_file, save_file
from seq2seq_files import check_training, export_and_compare, ragged, scores_of, seq2seq_folder

import zoo

TINY = dict(
    vocab_size=61, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
    decoder_attention_heads=8, encoder_ffn_dim=48, decoder_ffn_dim=40, max_position_embeddings=40, pad_token_id=60,
    eos_token_id=0, bos_token_id=0, decoder_start_token_id=60, forced_eos_token_id=0, scale_embedding=True,
    activation_function="swish",
)  # fmt: skip
CASES = {
    "opus-mt": ("MarianMTModel", {}),
    "gelu, no scale": ("MarianMTModel", dict(activation_function="gelu", scale_embedding=False)),
    "two vocabularies": (
        "MarianMTModel", dict(share_encoder_decoder_embeddings=False, decoder_vocab_size=53, pad_token_id=50,
                              decoder_start_token_id=50)
    ),
    "hidden states": ("MarianModel", {}),
}  # fmt: skip


def folder_of(path: Path, name: str, **options):
    cls, own = CASES[name]
    return seq2seq_folder(path, cls, **TINY | own | options)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("name", CASES)
def test_scores_equal_those_of_transformers_and_export_back(name, dtype, tmp_path):
    theirs = folder_of(tmp_path / "theirs", name).to(dtype)
    ours = zoo.load(tmp_path / "theirs", dtype=dtype)
    batch = ragged(50)
    bound = 1e-5 if dtype is torch.float32 else 1e-9
    assert error(scores_of(ours, batch), scores_of(theirs, batch)) <= bound
    assert not ours.load_report.initialized
    export_and_compare(ours, theirs, tmp_path / "back", batch)


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-4), (torch.float64, 1e-8)], ids=["float32", "float64"])
def test_twenty_steps_of_training_equal_those_of_transformers(dtype, bound, tmp_path):
    theirs = folder_of(tmp_path, "opus-mt", dropout=0.0).to(dtype)
    check_training(zoo.load(tmp_path, dtype=dtype), theirs, start=60, bound=bound)


def test_files_with_positions_and_bias_as_published(tmp_path):
    """Files of Helsinki-NLP have both position tables, every name of the shared embeddings, and more keys."""
    theirs = folder_of(tmp_path, "opus-mt")
    theirs.final_logits_bias.normal_(generator=torch.Generator().manual_seed(5))
    tensors = {name: value.clone() for name, value in theirs.state_dict().items()}
    del tensors["lm_head.weight"]
    assert {"model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight",
            "model.encoder.embed_positions.weight", "final_logits_bias"} <= tensors.keys()  # fmt: skip
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    edit_json(
        tmp_path / "config.json", add_bias_logits=False, add_final_layer_norm=False, normalize_before=False,
        normalize_embedding=False, static_position_embeddings=True, num_hidden_layers=2, classif_dropout=0.0,
        extra_pos_embeddings=61, num_beams=6, bad_words_ids=[[60]], max_length=512,
        share_encoder_decoder_embeddings=...,
        decoder_vocab_size=...,
    )  # fmt: skip
    ours = zoo.load(tmp_path)
    batch = ragged(60)
    assert error(scores_of(ours, batch), scores_of(theirs, batch)) <= 1e-5
    assert ours.head.proj.bias.abs().max() > 0.5


@pytest.mark.parametrize("key", ["add_final_layer_norm", "normalize_before", "normalize_embedding", "add_bias_logits"])
def test_other_kinds_of_marian_are_refused_by_name(key, tmp_path):
    folder_of(tmp_path, "opus-mt")
    edit_json(tmp_path / "config.json", **{key: True})
    with pytest.raises(zoo.LoadError, match=f"{key}=True is not supported"):
        zoo.load(tmp_path)


def test_a_file_without_bias_or_with_a_bad_shape(tmp_path):
    folder_of(tmp_path, "opus-mt")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("final_logits_bias")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    ours = zoo.load(tmp_path)
    assert ours.load_report.initialized == ["head.proj.bias"] and not ours.head.proj.bias.any()
    tensors["model.shared.weight"] = tensors["model.shared.weight"][:-1]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(zoo.LoadError, match=r"model.shared.weight is \[60, 32\], expected \[61, 32\]"):
        zoo.load(tmp_path)


def test_the_start_token_is_not_trained_by_being_read():
    model = zoo.create_model("marian_nano", tie_word_embeddings=False)
    word = model.decoder.tokens.word.weight
    assert not word[255].any()
    source = torch.arange(3, 9)[None]
    model(input_ids=source, decoder_input_ids=torch.tensor([[255, 4, 5]])).logsumexp(-1).sum().backward()
    assert not word.grad[255].any() and word.grad[4].any()


def test_config_of_the_variants():
    from zoo.models.registry import build, family

    transformers, own = pytest.importorskip("transformers"), family("marian")
    count = sum(p.numel() for p in build(own, own.config()).parameters())
    sides = {f"{side}_{key}": value for side in ("encoder", "decoder")
             for key, value in dict(layers=6, attention_heads=8, ffn_dim=2048).items()}  # fmt: skip
    with torch.device("meta"):
        config = transformers.MarianConfig(d_model=512, max_position_embeddings=512, **sides)
        theirs = transformers.MarianMTModel(config)
    positions = 2 * 512 * 512
    assert count == sum(p.numel() for p in theirs.parameters()) - positions == 73_886_208
    for name, fields in own.variants.items():
        config = own.config(**fields)
        assert config.pad_token_id == config.decoder_start_token_id == config.vocab_size - 1, name


def test_an_untied_model_is_refused(tmp_path):
    """transformers would not share the embeddings of encoder and decoder either."""
    folder_of(tmp_path, "opus-mt")
    edit_json(tmp_path / "config.json", tie_word_embeddings=False)
    with pytest.raises(zoo.LoadError, match="tie_word_embeddings=False is not supported"):
        zoo.load(tmp_path)
    with pytest.raises(ValueError, match="cannot express tie_word_embeddings=False"):
        zoo.export(zoo.create_model("marian_nano", tie_word_embeddings=False), tmp_path / "new")


def test_saved_and_verified(tmp_path):
    folder_of(tmp_path / "theirs", "two vocabularies")
    assert zoo.verify(tmp_path / "theirs").ok
    ours = zoo.load(tmp_path / "theirs")
    zoo.save(ours, tmp_path / "ours")
    batch = ragged(50)
    assert torch.equal(scores_of(zoo.load(tmp_path / "ours"), batch), scores_of(ours, batch))
    assert zoo.verify(tmp_path / "ours").ok


# --- Generation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["opus-mt", "two vocabularies"])
@torch.no_grad()
def test_tokens_equal_those_of_transformers_and_padding_is_never_generated(name, tmp_path):
    theirs = folder_of(tmp_path, name)
    pad = theirs.config.pad_token_id
    theirs.final_logits_bias[0, pad] = 50.0  # without the rule it is the most probable token
    theirs.generation_config.bad_words_ids = [[pad]]
    theirs.save_pretrained(tmp_path)
    ours, batch = zoo.load(tmp_path), ragged(50)
    del batch["decoder_input_ids"]
    for options in ({}, {"num_beams": 4}, {"num_beams": 3, "length_penalty": 0.6}):
        found = zoo.generate(ours, **batch, max_new_tokens=12, **options)
        assert torch.equal(found, theirs.generate(**batch, max_new_tokens=12, do_sample=False, **options))
        assert not (found[:, 1:4] == pad).any()
    expected = {"opus-mt": 61, "two vocabularies": 53}[name]
    with pytest.raises(ValueError, match=f"at most {expected}, the size of the vocabulary"):
        zoo.generate(ours, **batch, num_beams=100)
