"""Texts of nothing, of special tokens alone, of a million characters or of broken characters: ids of the tokenizer, or
one line that says what is wrong."""

import json
import random
from pathlib import Path

import pytest
import transformers
from text_peers import transformers_text

import zoo
from zoo.data.config import CorpusSettings, TextDataSettings
from zoo.data.text.corpus import load_corpus
from zoo.data.text.load import load_texts
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import train
from zoo.utils.errors import DataError

WORDS = ["the cat sat on the mat", "naïve cafés, 東京 and 😀"] * 9


@pytest.fixture(scope="module", params=["wordpiece", "bpe"])
def processor(request: pytest.FixtureRequest) -> TextProcessor:
    return train(request.param, WORDS, 400, max_length=32)


@pytest.mark.parametrize(
    "text",
    [
        "a\0b", "\x01the\x02 cat\x7f", "\ufeffthe cat", "the\u202ecat\u200d", "[CLS]", "[SEP] [PAD]", "<|endoftext|>",
        "cat[MASK]cat", "\u0301\u0301cat", "😀" * 9, "the\r\ncat\r", "\U0010ffff", "!!!", ("[SEP]", "<|endoftext|>"),
    ],
)  # fmt: skip
def test_ids_are_those_of_transformers(text: str | tuple[str, str], processor: TextProcessor, tmp_path: Path) -> None:
    kind = "bert" if processor.types else "gpt2"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    for name, content in processor.transformers_files().items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = theirs(*(text if isinstance(text, tuple) else (text,)))["input_ids"]
    assert processor.encode(text) == expected


@pytest.mark.parametrize("text", ["", ("the cat", ""), ("", "the cat")])
def test_empty(text: str | tuple[str, str], processor: TextProcessor) -> None:
    with pytest.raises(ValueError, match="text 1 is empty"):
        processor(["the cat", text])
    with pytest.raises(ValueError, match="the list of texts is empty"):
        processor([])


@pytest.mark.parametrize("text", [" ", "\0", "\u202e", "\n" * 10**6])
def test_nothing_is_left(text: str) -> None:
    with pytest.raises(ValueError, match="text 1 has no tokens: ") as raised:
        train("wordpiece", WORDS, 400, max_length=32)(["the cat", text])
    assert len(str(raised.value)) < 120


def test_a_million_characters(processor: TextProcessor) -> None:
    text = " ".join(random.Random(0).choices(["the", "cat", "sat", "naïve", "😀"], k=260_000))
    assert len(text) > 10**6 - 10**5
    with pytest.raises(ValueError, match=r"text 0 has \d+ tokens, expected at most max_length=32") as raised:
        processor(text)
    assert len(str(raised.value)) < 200
    ids = processor(text, truncate="cut")["input_ids"][0].tolist()
    inner = processor.backend.encode(text[:400]).ids
    assert len(ids) == 32 and ids[:30] == inner[:30] and ids[-1] == (inner[-1] if processor.types else inner[31])


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", "\ud83d\ude00", ("the cat", "a\ud800")])
def test_half_a_surrogate_pair(text: str | tuple[str, str], processor: TextProcessor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"text 1 has '\\ud.*' at character \d+, one half of a surrogate pair"):
        processor(["the cat", text])
    one = text if isinstance(text, str) else text[1]
    rows = [{"text": "the cat", "label": 0}, {"text": one, "label": 1}]
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(row).replace("\\ud83d\\ude00", "\\ud83d") + "\n" for row in rows)
    )
    for read in (
        lambda: load_texts(TextDataSettings(name=str(tmp_path / "train.jsonl"))),
        lambda: load_corpus(CorpusSettings(name=str(tmp_path / "train.jsonl"))),
    ):
        with pytest.raises(DataError, match=r"line 2.* surrogate pair"):
            read()


def test_ids_that_are_not_tokens(processor: TextProcessor) -> None:
    with pytest.raises(ValueError, match="negative number -100"):
        processor.decode([5, -100, 6])


def test_a_model_refuses_them_in_the_same_words(tmp_path: Path) -> None:
    transformers_text(tmp_path, "BertForSequenceClassification", vocab_size=400)
    model = zoo.load(tmp_path)
    model.preprocess = train("wordpiece", WORDS, 400, max_length=32)
    for text, said in (
        ("", "is empty"),
        (" ", "has no tokens"),
        ("\ud800", "surrogate"),
        ("cat " * 50, "expected at most"),
    ):
        with pytest.raises(ValueError, match=said):
            zoo.predict(model, text)
