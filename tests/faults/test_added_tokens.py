"""Tokens that a folder without tokenizer.json adds in added_tokens.json or tokenizer_config.json are known."""

import json
from pathlib import Path

import pytest
import transformers
from text_peers import transformers_text
from tokenizers import pre_tokenizers

import zoo

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
ADDED = {"<|user|>": 257, "<|pad|>": 258}


def test_beside_vocab_txt(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "[", "]", "user", "##user"]
    transformers_text(tmp_path, "BertModel", vocab_size=12)
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "added_tokens.json").write_text('{"[user]": 11}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)("hello [user] world")["input_ids"]
    assert zoo.load(tmp_path, head=None).preprocess.encode("hello [user] world") == theirs == [2, 5, 11, 6, 3]


def gpt2_folder(folder: Path, settings: dict) -> Path:
    """A GPT-2 of 259 tokens with vocab.json and merges.txt, which hold the first 257 of them."""
    shape = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=259, **shape)).save_pretrained(folder)
    vocab = {letter: i for i, letter in enumerate(LETTERS)} | {"<|endoftext|>": 256}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "GPT2Tokenizer", "pad_token": "<|pad|>"} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def check_gpt2(folder: Path) -> None:
    expected = [257, LETTERS.index("h"), LETTERS.index("i")]
    assert transformers.AutoTokenizer.from_pretrained(folder)("<|user|>hi")["input_ids"] == expected
    preprocess = zoo.load(folder).preprocess
    assert preprocess.encode("<|user|>hi") == expected and preprocess.id("pad") == 258


def test_beside_vocab_json_and_merges(tmp_path: Path) -> None:
    folder = gpt2_folder(tmp_path, {"additional_special_tokens": ["<|user|>"]})
    (folder / "added_tokens.json").write_text(json.dumps(ADDED))
    check_gpt2(folder)


def test_in_tokenizer_config(tmp_path: Path) -> None:
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False) | {"special": True}
    decoder = {str(i): {"content": token} | flags for token, i in ADDED.items()}
    check_gpt2(gpt2_folder(tmp_path, {"added_tokens_decoder": decoder}))


BERT = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "hello",
    "Hello",
    "café",
    "cafe",
    "中",
    "国",
    "user",
    "##user",
    "x",
]
TEXTS = [
    "hello [user] world",
    "Hello  <ENT> CAFÉ café 中国",
    "hello<ent>hello",
    "x [MASK] x <mask> x",
    "<|user|>x <|user|> x",
]
FLAGS = {"lstrip": True, "rstrip": True, "single_word": False, "normalized": True}
FLAGGED = [
    {}, {"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True, "special": False},
    {"normalized": False, "special": False},
]  # fmt: skip


def same_ids(folder: Path) -> list[str]:
    """The notes of loading a folder whose tokenizer gives the ids of the one of transformers."""
    theirs, model = transformers.AutoTokenizer.from_pretrained(folder), zoo.load(folder)
    for text in TEXTS:
        assert model.preprocess.backend.encode(text).ids == theirs(text)["input_ids"], text
    return model.load_report.notes


def bert_folder(folder: Path, settings: dict, **files) -> Path:
    transformers_text(folder, "BertModel", vocab_size=20)
    (folder / "vocab.txt").write_text("\n".join(BERT) + "\n", encoding="utf-8")
    for name, values in (files | {"tokenizer_config": {"tokenizer_class": "BertTokenizer"} | settings}).items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("flags", FLAGGED, ids=str)
def test_flags_of_an_added_token(flags: dict, tmp_path: Path) -> None:
    decoder = {
        str(14 + i): {"content": token, "special": True} | flags for i, token in enumerate(("<ent>", "<|user|>"))
    }
    same_ids(bert_folder(tmp_path, {"added_tokens_decoder": decoder}))


@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map"])
def test_flags_of_a_special_token(name: str, tmp_path: Path) -> None:
    mask = {"mask_token": {"content": "[MASK]"} | FLAGS, "additional_special_tokens": ["<|user|>", "[user]"]}
    if name == "tokenizer_config":
        mask["mask_token"]["__type"] = "AddedToken"
    same_ids(bert_folder(tmp_path, mask) if name == "tokenizer_config" else bert_folder(tmp_path, {}, **{name: mask}))


def test_which_of_two_files_counts(tmp_path: Path) -> None:
    other = {"mask_token": {"content": "[MASK]"} | FLAGS}
    same_ids(bert_folder(tmp_path, {"mask_token": "[MASK]"}, special_tokens_map=other))
    decoder = {"14": {"content": "<ent>", "special": True}}
    same_ids(bert_folder(tmp_path, {"added_tokens_decoder": decoder}, special_tokens_map=other))


@pytest.mark.parametrize(
    "settings",
    [
        {"do_lower_case": False}, {"strip_accents": False}, {"strip_accents": True, "do_lower_case": False},
        {"tokenize_chinese_chars": False},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("beside", ["vocab.txt", "tokenizer.json"])
def test_settings_of_berts_normalizer(beside: str, settings: dict, tmp_path: Path) -> None:
    """With the class BertTokenizer, the settings count, not what tokenizer.json says."""
    bert_folder(tmp_path, {})
    if beside == "tokenizer.json":
        transformers.AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
        (tmp_path / "vocab.txt").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"} | settings))
    same_ids(tmp_path)


@pytest.mark.parametrize("settings", [{"add_prefix_space": True}, {"add_bos_token": True}, {"add_eos_token": True}],
                         ids=str)  # fmt: skip
def test_settings_of_gpt2(settings: dict, tmp_path: Path) -> None:
    same_ids(gpt2_folder(tmp_path, settings))


def test_tokens_without_an_embedding_are_said(tmp_path: Path) -> None:
    decoder = {str(i): {"content": token, "special": True} for i, token in ((14, "<ent>"), (20, "<|user|>"))}
    folder = bert_folder(tmp_path, {"added_tokens_decoder": decoder})
    model = zoo.load(folder)
    assert model.load_report.notes == [
        "'<|user|>' is not a token: it would be number 20, and the model has only 20 embeddings"
    ]
    assert model.preprocess.backend.token_to_id("<ent>") == 14


def test_files_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(zoo.LoadError, match=r"'<ent>' is number 17 .* but 14 in the tokenizer"):
        zoo.load(bert_folder(tmp_path, {}, added_tokens={"<ent>": 17}))
    (tmp_path / "added_tokens.json").write_text('{"<ent>": "x"}')
    with pytest.raises(zoo.LoadError, match="id 'x', expected a whole number"):
        zoo.load(tmp_path)


def test_another_padding_token(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path, {"pad_token": "<pad>"}, added_tokens={"<pad>": 14})
    (note,) = same_ids(folder)
    assert "is 14 ('<pad>'), that of the model 0" in note
    batch = zoo.load(folder).preprocess(["hello", "hello hello"])
    assert batch["input_ids"].tolist() == [[2, 5, 3, 0], [2, 5, 5, 3]]
