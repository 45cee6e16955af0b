"""The tokenizers of T5 folders, tokenizer.json and spiece.model, against transformers' T5Tokenizer."""

import io
import json
from pathlib import Path

import pytest
import torch
from t5_peers import peer

import zoo
from zoo.data.synthetic.sentences import make_sentences

LINES = [text.capitalize() for text in make_sentences(400, seed=0)[0]]
TEXTS = [
    *LINES[:4], "The <extra_id_0> dog <extra_id_1>", "a<extra_id_5>b  two  spaces ", "naïve café 漢字 ﬁne ①",
    "tab\there\nx", "summarize: it was", ("one", "two"),
]  # fmt: skip
SETTINGS = {"eos_token": "</s>", "model_max_length": 512, "pad_token": "<pad>", "unk_token": "<unk>"}
SETTINGS |= {"tokenizer_class": "T5Tokenizer", "extra_ids": 100}


def folder_with_pieces(folder: Path, vocab_size: int = 216, **settings) -> Path:
    """A tiny T5 with a SentencePiece model of 110 pieces, as google-t5/t5-small has one."""
    spm = pytest.importorskip("sentencepiece")
    file = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=file, model_type="unigram", vocab_size=110, minloglevel=3,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    peer(folder, "t5", vocab_size=vocab_size)
    (folder / "spiece.model").write_bytes(file.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS | settings))
    return folder


def check(folder: Path) -> zoo.Model:
    """The model of a folder, whose tokenizer gives the ids and texts of transformers."""
    transformers = pytest.importorskip("transformers")
    model, theirs = zoo.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert type(theirs) is transformers.T5Tokenizer and model.load_report.plain
    for text in TEXTS:
        ids = model.preprocess.encode(text)
        assert ids == theirs(*([text] if isinstance(text, str) else text))["input_ids"], text
        assert model.preprocess.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    inputs = model.preprocess(LINES[:4])
    expected = theirs(LINES[:4], padding=True, return_tensors="pt")
    assert all(torch.equal(inputs[name], expected[name]) for name in ("input_ids", "attention_mask"))
    assert zoo.verify(folder).ok
    return model


def test_spiece_model(tmp_path):
    model = check(folder_with_pieces(tmp_path))
    text = model.preprocess
    assert text.encode("The dog")[-1] == 1 == text.id("eos") and text.id("pad") == 0 and text.max_length == 512
    assert text.backend.token_to_id("<extra_id_0>") == 209 and text.backend.token_to_id("<extra_id_99>") == 110
    zoo.save(model, tmp_path / "ours")
    assert zoo.load(tmp_path / "ours").preprocess == text
    zoo.export(model, tmp_path / "exported", "transformers")
    assert zoo.verify(tmp_path / "exported").ok


def test_tokenizer_json(tmp_path):
    transformers = pytest.importorskip("transformers")
    folder_with_pieces(tmp_path)
    transformers.T5Tokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    (tmp_path / "spiece.model").unlink(missing_ok=True)
    assert (tmp_path / "tokenizer.json").is_file()
    check(tmp_path)


def test_pieces_without_sentinels(tmp_path):
    """mT5's settings have extra_ids 0."""
    model = zoo.load(folder_with_pieces(tmp_path, vocab_size=112, extra_ids=0))
    assert model.preprocess.vocab_size == 110 and model.preprocess.encode("The dog")[-1] == 1


def test_a_number_of_sentinels_that_is_none(tmp_path):
    with pytest.raises(zoo.LoadError, match="extra_ids='many', expected a number of tokens"):
        zoo.load(folder_with_pieces(tmp_path, extra_ids="many"))
