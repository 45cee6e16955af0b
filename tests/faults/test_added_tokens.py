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


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="added_tokens.json is not read")
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


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="added_tokens.json is not read")
def test_beside_vocab_json_and_merges(tmp_path: Path) -> None:
    folder = gpt2_folder(tmp_path, {"additional_special_tokens": ["<|user|>"]})
    (folder / "added_tokens.json").write_text(json.dumps(ADDED))
    check_gpt2(folder)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="its added_tokens_decoder is not read")
def test_in_tokenizer_config(tmp_path: Path) -> None:
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False) | {"special": True}
    decoder = {str(i): {"content": token} | flags for token, i in ADDED.items()}
    check_gpt2(gpt2_folder(tmp_path, {"added_tokens_decoder": decoder}))
