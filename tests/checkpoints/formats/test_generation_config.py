"""generation_config.json of encoder-decoders, as transformers writes it now and as older versions did."""

import json
from pathlib import Path

import pytest
import torch
from peers import edit_json
from seq2seq_files import seq2seq_folder
from torch import Tensor, nn

import zoo

BART = dict(
    vocab_size=61, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
    decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=40, max_position_embeddings=40,
)  # fmt: skip
CASES = {
    "BartForConditionalGeneration": BART,
    "MBartForConditionalGeneration": BART,
    "MarianMTModel": BART | dict(pad_token_id=60, decoder_start_token_id=60),
    "T5ForConditionalGeneration": dict(vocab_size=61, d_model=32, d_kv=12, d_ff=48, num_layers=2, num_heads=4),
}
SEARCH = dict(num_beams=3, max_length=13, min_length=6, no_repeat_ngram_size=2, length_penalty=2.0, early_stopping=True)
PASSED = dict(num_beams=3, max_new_tokens=12, min_new_tokens=5, no_repeat_ngram_size=2, length_penalty=2.0,
              early_stopping=True)  # fmt: skip
IDS = torch.tensor([[5, 6, 7, 8, 2], [9, 10, 11, 12, 2], [21, 22, 23, 24, 2]])


def expected_of(folder: Path, **options) -> Tensor:
    """The tokens of transformers' generate, with its defaults for the folder."""
    import transformers

    cls = getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])
    return cls.from_pretrained(folder).eval().generate(IDS, attention_mask=torch.ones_like(IDS), **options)


def folder_of(folder: Path, name: str) -> nn.Module:
    return seq2seq_folder(folder, name, **CASES[name])


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_ids_that_only_this_file_has(name, tmp_path):
    """config.json does not have them, or has others: transformers reads this file alone."""
    folder_of(tmp_path, name)
    edit_json(tmp_path / "generation_config.json", decoder_start_token_id=9, eos_token_id=[2, 33])
    model = zoo.load(tmp_path)
    assert model.config.decoder_start_token_id == 9 and model.config.eos_token_id == (2, 33)
    for options in ({}, {"num_beams": 3}):
        expected = expected_of(tmp_path, max_new_tokens=10, **options)
        assert torch.equal(zoo.generate(model, IDS, max_new_tokens=expected.shape[1] - 1, **options), expected)
        assert (expected[:, 0] == 9).all()


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "MBartForConditionalGeneration"])
@torch.no_grad()
def test_forced_tokens_are_those_of_the_file(name, tmp_path):
    folder_of(tmp_path, name)
    for forced in ({"forced_bos_token_id": 7, "forced_eos_token_id": 8}, {}):
        values = {"decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1, "bos_token_id": 0} | forced
        (tmp_path / "generation_config.json").write_text(json.dumps(values))  # config.json has forced_eos_token_id=2
        model, expected = zoo.load(tmp_path), expected_of(tmp_path, max_length=8, min_length=8)
        assert (model.config.forced_bos_token_id, model.config.forced_eos_token_id) == (
            forced.get("forced_bos_token_id"), forced.get("forced_eos_token_id")
        )  # fmt: skip
        assert torch.equal(zoo.generate(model, IDS, max_new_tokens=7, min_new_tokens=7), expected)
        assert (expected[:, -1] == 8).all() == bool(forced)


@pytest.mark.parametrize("where", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_defaults_of_the_search_are_listed_with_our_names(name, where, tmp_path):
    """Older folders have them in config.json."""
    folder_of(tmp_path, name)
    edit_json(tmp_path / "generation_config.json", decoder_start_token_id=5)
    edit_json(tmp_path / "config.json", decoder_start_token_id=5)
    if where == "config.json":
        (tmp_path / "generation_config.json").unlink()
    edit_json(tmp_path / where, **SEARCH)
    model = zoo.load(tmp_path)
    (note,) = model.load_report.notes
    assert note.startswith(f"{where} has defaults for transformers' generate")
    for argument in PASSED.items():
        assert "{}={!r}".format(*argument) in note
    if "Marian" not in name:  # theirs may generate padding
        expected = expected_of(tmp_path)
        found = zoo.generate(model, IDS, **PASSED)
        assert torch.equal(found[:, : expected.shape[1]], expected)


def test_settings_without_an_argument_here(tmp_path):
    folder_of(tmp_path, "T5ForConditionalGeneration")
    edit_json(tmp_path / "generation_config.json", suppress_tokens=[4], bad_words_ids=[[0]], forced_bos_token_id=7)
    (note,) = zoo.load(tmp_path).load_report.notes
    assert "has bad_words_ids, suppress_tokens, forced_bos_token_id=7, which zoo.generate does not apply" in note
    folder_of(tmp_path / "marian", "MarianMTModel")
    edit_json(tmp_path / "marian" / "generation_config.json", bad_words_ids=[[60]])
    assert not zoo.load(tmp_path / "marian").load_report.notes


@pytest.mark.parametrize("name", ["bart_nano", "marian_nano", "t5_nano"])
@torch.no_grad()
def test_export_gives_the_same_tokens(name, tmp_path):
    model = zoo.create_model(name, seed=3, **({} if name == "t5_nano" else {"forced_eos_token_id": 8}))
    zoo.export(model, tmp_path)
    for options in ({}, {"num_beams": 3}):
        expected = expected_of(tmp_path, max_new_tokens=6, **options)
        assert torch.equal(zoo.generate(model, IDS, max_new_tokens=6, **options), expected)
    zoo.export(zoo.load(tmp_path, decoder_start_token_id=11, eos_token_id=(3, 4)), tmp_path / "changed")
    values = json.loads((tmp_path / "changed" / "generation_config.json").read_text())
    assert values["decoder_start_token_id"] == 11 and values["eos_token_id"] == [3, 4]
    assert values.get("bad_words_ids") == ([[model.config.pad_token_id]] if name == "marian_nano" else None)
    assert (expected_of(tmp_path / "changed", max_new_tokens=4)[:, 0] == 11).all()


def test_export_keeps_what_the_file_has_beside_the_ids(tmp_path):
    folder_of(tmp_path / "theirs", "BartForConditionalGeneration")
    edit_json(tmp_path / "theirs" / "generation_config.json", **SEARCH)
    zoo.export(zoo.load(tmp_path / "theirs"), tmp_path / "ours")
    before, after = (
        json.loads((tmp_path / side / "generation_config.json").read_text()) for side in ("theirs", "ours")
    )
    assert after == before
    model = zoo.load(tmp_path / "theirs")
    model.extra_files = {"generation_config.json": "{"}
    with pytest.raises(ValueError, match=r"not readable JSON.*fix or remove it in model.extra_files"):
        zoo.export(model, tmp_path / "again")
