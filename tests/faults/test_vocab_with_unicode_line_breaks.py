"""Files of lines are cut at line feeds alone: a token or a text may hold U+2028 and its like."""

import json
from pathlib import Path

import pytest
import transformers
from text_peers import transformers_text
from tokenizers import pre_tokenizers

import zoo
from zoo.data.sources.tables import read_table
from zoo.data.text.corpus import Corpus
from zoo.retrieval.zero_shot import checked_templates

# What str.splitlines cuts at, beside \n and \r.
BREAKS = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]
every_break = pytest.mark.parametrize("odd", BREAKS, ids=[f"U+{ord(odd):04X}" for odd in BREAKS])
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ","]


@every_break
def test_a_token_of_vocab_txt(odd: str, tmp_path: Path) -> None:
    words = [*WORDS, odd, "hello", "world"]
    transformers_text(tmp_path, "BertModel", vocab_size=12)
    (tmp_path / "vocab.txt").write_bytes(("\n".join(words) + "\n").encode())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    ids = zoo.load(tmp_path, head=None).preprocess.encode("hello world")
    assert ids == [words.index(token) for token in ("[CLS]", "hello", "world", "[SEP]")]


@every_break
def test_a_pair_of_merges_txt(odd: str, tmp_path: Path) -> None:
    merges = ["h e", f"h {odd}", "l l", "he ll"]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), odd, *(pair.replace(" ", "") for pair in merges)]
    vocab = {token: i for i, token in enumerate([*tokens, "<|endoftext|>"])}
    shape = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32}
    config = transformers.GPT2Config(vocab_size=len(vocab), **shape)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_bytes(("#version: 0.2\n" + "\n".join(merges) + "\n").encode())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    assert zoo.load(tmp_path).preprocess.encode("hello") == [vocab["hell"], vocab["o"]]


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85"], ids=["U+2028", "U+2029", "U+0085"])
def test_a_text_in_a_table_of_json_lines(odd: str, tmp_path: Path) -> None:
    rows = [{"text": f"one{odd}two", "label": 1}, {"text": "three", "label": 0}]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert read_table(file).columns == {"text": [f"one{odd}two", "three"], "label": [1, 0]}


@every_break
def test_a_line_of_a_corpus(odd: str) -> None:
    assert Corpus([f"one{odd}two\nthree\n"], "test", True, "test").lines == [f"one{odd}two", "three"]


@every_break
def test_a_line_of_a_file_of_templates(odd: str, tmp_path: Path) -> None:
    (tmp_path / "templates.txt").write_bytes(f"a photo{odd}of {{}}.\nthe {{}}\n".encode())
    assert checked_templates(tmp_path / "templates.txt") == (f"a photo{odd}of {{}}.", "the {}")
