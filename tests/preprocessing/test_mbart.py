"""The languages of mBART's and mBART-50's tokenizers, against transformers and sentencepiece, in folders on disk."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from seq2seq_files import seq2seq_folder
from torch import nn

import zoo
from zoo.data.synthetic.sentences import make_sentences
from zoo.inference.generation.streaming import stream_text
from zoo.preprocessing.mbart import LANGUAGES, LANGUAGES_50, language_of, with_language
from zoo.preprocessing.tokenizer_training import train

LINES = [text.capitalize() for text in make_sentences(400, seed=0)[0]]
TEXTS = [*LINES[:6], "The dog and <mask> dog", ("The dog", "the fox")]
ODD = ["ﬁne ①", "naïve café", "two  spaces ", "tab\there"]
CLASSES = {"MBartTokenizer": LANGUAGES, "MBart50Tokenizer": LANGUAGES_50}


def folder_with_pieces(folder: Path, name: str = "MBart50Tokenizer", **settings) -> tuple[nn.Module, bytes]:
    """A tiny mBART with a SentencePiece model of 90 pieces only, as facebook's repositories have one."""
    spm = pytest.importorskip("sentencepiece")
    file = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=file, model_type="unigram", vocab_size=90, minloglevel=3
    )
    theirs = seq2seq_folder(
        folder, "MBartForConditionalGeneration", vocab_size=90 + 2 + len(CLASSES[name]), d_model=32, encoder_layers=2,
        decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=40,
        max_position_embeddings=200, decoder_start_token_id=2 if "50" in name else None,
    )  # fmt: skip
    (folder / "sentencepiece.bpe.model").write_bytes(file.getvalue())
    settings = {"tokenizer_class": name, "src_lang": None} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return theirs, file.getvalue()


def check(folder: Path, language: str) -> zoo.Model:
    """The model of a folder, whose tokenizer gives the ids and texts of transformers."""
    transformers = pytest.importorskip("transformers")
    model, theirs = zoo.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert model.load_report.plain and language_of(model.preprocess.backend) == language == theirs.src_lang
    for code in (language, "de_DE"):
        theirs.src_lang, ours = code, with_language(model.preprocess, code)
        for text in TEXTS:
            ids = ours.encode(text)
            assert ids == theirs(*([text] if isinstance(text, str) else text))["input_ids"], text
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    return model


@pytest.mark.parametrize("language", [None, "ro_RO"])
@pytest.mark.parametrize("name", CLASSES)
def test_a_folder_with_pieces_only(name, language, tmp_path):
    folder_with_pieces(tmp_path, name, src_lang=language)
    model = check(tmp_path, language or "en_XX")
    text = model.preprocess
    assert text.vocab_size == model.config.vocab_size and text.backend.token_to_id("<mask>") == text.vocab_size - 1
    assert [text.id(role) for role in ("bos", "pad", "eos", "unk")] == [0, 1, 2, 3]
    zoo.save(model, tmp_path / "ours")
    assert zoo.load(tmp_path / "ours").preprocess == text
    zoo.export(model, tmp_path / "exported", "transformers")
    assert zoo.verify(tmp_path / "exported").ok
    assert zoo.load(tmp_path / "exported").preprocess.encode(LINES[0]) == text.encode(LINES[0])


@pytest.mark.parametrize("name", CLASSES)
def test_the_class_is_known_by_the_number_of_embeddings(name, tmp_path):
    folder_with_pieces(tmp_path, name)
    expected = zoo.load(tmp_path).preprocess
    (tmp_path / "tokenizer_config.json").unlink()
    assert zoo.load(tmp_path).preprocess.tokenizer == expected.tokenizer


@pytest.mark.parametrize("name", CLASSES)
def test_texts_are_normalized_as_in_training(name, tmp_path):
    """By sentencepiece, with whose pieces the models were trained; transformers 5 does not normalize mBART's."""
    spm = pytest.importorskip("sentencepiece")
    theirs = spm.SentencePieceProcessor(model_proto=folder_with_pieces(tmp_path, name)[1])
    text = zoo.load(tmp_path).preprocess
    for line in [*LINES[:4], *ODD]:
        ids = [i + 1 if i else 3 for i in theirs.encode(line)]
        assert text.encode(line) == ([text.backend.token_to_id("en_XX"), *ids, 2] if "50" in name else
                                     [*ids, 2, text.backend.token_to_id("en_XX")]), line  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_tokenizer_json(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder_with_pieces(tmp_path, name)
    getattr(transformers, name).from_pretrained(tmp_path).save_pretrained(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").unlink()
    check(tmp_path, "en_XX")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())  # its language is that of the settings
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"src_lang": "ro_RO"}))
    check(tmp_path, "ro_RO")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"src_lang": "xx_XX"}))
    with pytest.raises(zoo.LoadError, match="src_lang='xx_XX', which is not a token"):
        zoo.load(tmp_path)


@pytest.mark.parametrize("name", CLASSES)
@torch.no_grad()
def test_translations_from_and_to_a_language(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs, _ = folder_with_pieces(tmp_path, name)
    tokenizer, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), zoo.load(tmp_path)
    first = "forced_bos_token_id" if "50" in name else "decoder_start_token_id"
    found = []
    for source in ("en_XX", "de_DE"):
        tokenizer.src_lang = source
        batch = tokenizer(LINES[:3], padding=True, return_tensors="pt")
        expected = theirs.generate(**batch, **{first: tokenizer.convert_tokens_to_ids("ro_RO")}, max_length=14)
        new = expected.shape[1] - (2 if "50" in name else 1)
        options = dict(max_new_tokens=new, tgt_lang="ro_RO", output_scores=True)
        found.append(zoo.generate(ours, LINES[:3], src_lang=source, **options))
        assert torch.equal(found[-1].sequences, expected)
        assert found[-1].texts == tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert not torch.equal(found[0].log_probs, found[1].log_probs)
    ours.preprocess = with_language(ours.preprocess, "de_DE")
    assert torch.equal(zoo.generate(ours, LINES[:3], **options).log_probs, found[1].log_probs)


def test_a_streamed_translation_takes_the_languages(tmp_path):
    folder_with_pieces(tmp_path)
    model = zoo.load(tmp_path)
    for source in ("en_XX", "de_DE"):
        options = dict(src_lang=source, tgt_lang="ro_RO", max_new_tokens=6)
        streamed = stream_text(model, LINES[0], write=lambda _: None, **options)
        assert streamed == zoo.generate(model, LINES[0], **options)
    with pytest.raises(ValueError, match="no option 'tgt_lan'; did you mean 'tgt_lang'"):
        stream_text(model, LINES[0], tgt_lan="ro_RO")


def test_languages_that_are_refused(tmp_path):
    folder_with_pieces(tmp_path)
    model = zoo.load(tmp_path)
    with pytest.raises(ValueError, match=r"src_lang='de': the tokenizer has no such language \(it has af_ZA, ar_AR"):
        zoo.generate(model, "The dog", src_lang="de", tgt_lang="ro_RO")
    with pytest.raises(TypeError, match="no option 'source_lang'; it is called 'src_lang'"):
        zoo.generate(model, "The dog", source_lang="de_DE")
    with pytest.raises(TypeError, match="no option 'target_lang'; it is called 'tgt_lang'"):
        zoo.generate(model, "The dog", target_lang="de_DE")
    with pytest.raises(ValueError, match="is for texts, and input_ids are tokens"):
        zoo.generate(model, torch.tensor([[5, 2]]), src_lang="de_DE")
    with pytest.raises(ValueError, match="is for model"):
        zoo.generate(model, "The dog", src_lang="de_DE", tokenizer=model.preprocess)
    with pytest.raises(ValueError, match="src_lang='de_DE': the model has no tokenizer"):
        zoo.generate(zoo.create_model("bart_nano"), "The dog", src_lang="de_DE")
    folder_with_pieces(tmp_path, src_lang="xx_XX")
    with pytest.raises(zoo.LoadError, match="src_lang='xx_XX', expected one of ar_AR"):
        zoo.load(tmp_path)


def test_a_tokenizer_without_a_language_in_its_texts():
    text = train("wordpiece", ["the dog de_DE"], 90, max_length=64)
    with pytest.raises(ValueError, match="has no such language"):
        with_language(text, "de_DE")
    tokenizer = text.backend.from_str(text.tokenizer)
    tokenizer.add_special_tokens(["de_DE"])
    with pytest.raises(ValueError, match="puts no language code into texts"):
        with_language(replace(text, tokenizer=tokenizer.to_str()), "de_DE")
