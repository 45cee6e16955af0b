"""`do_lower_case` of a sentence-transformer: its texts are made lowercase before they are tokenized, whatever its
tokenizer does."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peers import edit_json
from text_peers import SENTENCES, text_folder
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

import zoo

SETTINGS = "sentence_bert_config.json"
TEXTS = ["A WARM and Lovely Evening", "Crème À LA carte", "the soup was cold", "[CLS] Noisy [SEP]"]
KINDS = ("wordpiece", "bpe", "sequence", "wordpiece that makes texts lowercase itself")


def folder(path: Path, kind: str, **settings: object) -> Path:
    """A sentence-transformer with a tokenizer that keeps the case, but for the last kind."""
    text_folder("sentence-transformers", path)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = sorted({letter for text, _ in SENTENCES for letter in text + text.upper() if letter != " "})
    if kind.startswith("wordpiece"):
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=kind != "wordpiece")
        trainer = trainers.WordPieceTrainer(vocab_size=99, special_tokens=special, initial_alphabet=words)
    else:
        backend = Tokenizer(models.BPE(unk_token="[UNK]"))
        trainer = trainers.BpeTrainer(vocab_size=99, special_tokens=special, initial_alphabet=words)
    if kind == "sequence":
        backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.train_from_iterator([text for text, _ in SENTENCES], trainer)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special))
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(path)
    if settings:
        (path / SETTINGS).write_text(json.dumps({"max_seq_length": 32} | settings))
    return path


def ids_of(tokenizer: object, lower: bool) -> list[list[int]]:
    """sentence-transformers' ids: special tokens stay as they are."""

    def lowered(text: str) -> str:
        return text.lower().replace("[cls]", "[CLS]").replace("[sep]", "[SEP]")

    return [tokenizer(lowered(text) if lower else text)["input_ids"] for text in TEXTS]  # type: ignore[operator]


def ours(model: zoo.Model) -> list[list[int]]:
    return [model.preprocess.encode(text) for text in TEXTS]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lower", [True, False, None])
def test_the_ids_are_those_of_sentence_transformers(kind: str, lower: bool | None, tmp_path: Path) -> None:
    path = folder(tmp_path / "st", kind, do_lower_case=lower)
    own = transformers.AutoTokenizer.from_pretrained(path)
    expected = ids_of(own, bool(lower))
    assert (expected != ids_of(own, False)) == bool(lower and kind in KINDS[:3])
    model = zoo.load(path)
    assert ours(model) == expected and model.preprocess.max_length == 32
    found = zoo.verify(path)
    assert found.ok and not found.notes, str(found)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_saved_and_exported(kind: str, tmp_path: Path) -> None:
    model = zoo.load(folder(tmp_path / "st", kind, do_lower_case=True))
    assert ours(model) == ids_of(transformers.AutoTokenizer.from_pretrained(tmp_path / "st"), True)
    again = zoo.load(zoo.save(model, tmp_path / "ours"))
    assert again.preprocess == model.preprocess and ours(again) == ours(model)
    classifier = zoo.load(tmp_path / "st", num_classes=2, pool="cls", pooler="tanh", normalize=False)
    for name, exported in (("pool", model), ("classify", classifier), ("again", again)):
        zoo.export(exported, tmp_path / name)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        assert [theirs(text)["input_ids"] for text in TEXTS] == ours(model), name
        assert ours(zoo.load(tmp_path / name)) == ours(model), name
        assert zoo.verify(tmp_path / name).ok
    batch = model.preprocess(TEXTS)
    assert torch.equal(zoo.load(tmp_path / "pool")(**batch), model(**batch))


@pytest.mark.parametrize("name", ["sentence_roberta_config.json", "sentence_distilbert_config.json"])
def test_other_names_of_the_file(name: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "st", "wordpiece", do_lower_case=True)
    expected = ours(zoo.load(path))
    shutil.move(path / SETTINGS, path / name)
    model = zoo.load(path)
    assert ours(model) == expected and model.preprocess.max_length == 32 and model.other_files == []
    zoo.export(model, path)  # over the folder itself: the old settings go
    assert not (path / name).exists() and ours(zoo.load(path)) == expected


@pytest.mark.parametrize("key, value", [("do_lower_case", "no"), ("do_lower_case", 2), ("max_seq_length", [5]),
                                        ("max_seq_length", "many"), ("max_seq_length", 0)])  # fmt: skip
def test_settings_of_another_type(key: str, value: object, tmp_path: Path) -> None:
    path = folder(tmp_path / "st", "wordpiece", do_lower_case=True)
    edit_json(path / SETTINGS, **{key: value})
    with pytest.raises(zoo.LoadError, match=rf"sentence_bert_config\.json: {key} is .*, expected"):
        zoo.load(path)
