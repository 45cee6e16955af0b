"""Sentences with tags from CoNLL files, tables and folders; their tokens in windows, a label for each word."""

from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch

from zoo.data import TaggedTextSettings, TokenClassificationDataModule, load_card, load_tagged, make_entities
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Splits
from zoo.data.synthetic import entities
from zoo.data.text.conll import read_conll, read_tagged
from zoo.data.text.tagged import TaggedSentences
from zoo.data.text.tagged_datamodule import TaggedTokens
from zoo.preprocessing.tags import scheme_of
from zoo.preprocessing.tokenizer_training import train
from zoo.utils.errors import DataError

IOB2 = "Ada B-PER\nLee I-PER\nran O\n\nParis B-LOC\n"


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def load(name: object, **options: object) -> Splits[TaggedSentences]:
    return load_tagged(TaggedTextSettings(name=str(name), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "words", "tags"), [
    (IOB2, [["Ada", "Lee", "ran"], ["Paris"]], [["B-PER", "I-PER", "O"], ["B-LOC"]]),
    ("-DOCSTART- -X- O O\n\nU.N. NNP I-NP I-ORG\n. . O O\n\n\n-DOCSTART- -X- O O\nEU NNP I-NP I-ORG",
     [["U.N.", "."], ["EU"]], [["I-ORG", "O"], ["I-ORG"]]),
    ("# id 1 of 2\nNew York\tB-LOC\r\n\u00a0x\tO\r\n\t\r\n#\tO\r\n".replace("\t\r\n#", "\r\n#"),
     [["New York", "\u00a0x"], ["#"]], [["B-LOC", "O"], ["O"]]),
    ("a  \t O\n   \nb O \n", None, None),
    ("a \u00a0b O\nc O O\n", [["a", "c"]], [["O", "O"]]),
])  # fmt: skip
def test_conll(text: str, words: list | None, tags: list | None, capsys: pytest.CaptureFixture[str]) -> None:
    if words is None:
        with pytest.raises(DataError, match="line 3: 1 columns, expected 2"):
            read_conll(text, "a.conll")
        return
    table = read_conll(text, "a.conll")
    assert (table.columns["tokens"], table.columns["tags"]) == (words, tags)
    output = capsys.readouterr()
    assert "sentences from" in output.out + output.err
    assert ("1 lines of comments are left out" in output.out + output.err) == text.startswith("# id")


@pytest.mark.parametrize(("text", "says"), [
    ("Ada B-PER\nLee\n", "line 2: 1 columns, expected 2"),
    ("Ada\tB-PER\nLee\t\n", "line 2: 2 columns, expected 2 .* tag"),
    ("Ada\nLee\n", "expected a word and its tag in each line"), ("\n\n", "has no sentences"),
])  # fmt: skip
def test_broken_conll(text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_conll(text, "a.conll")


def test_what_is_no_file_of_tags(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a CSV file has no lists"):
        load(write(tmp_path, "a.csv", "tokens,tags\na,O\n"))
    with pytest.raises(DataError, match="header= and sep= are for CSV"):
        load(write(tmp_path, "a.conll", IOB2), sep="tab")
    with pytest.raises(DataError, match="does not exist"):
        read_tagged(tmp_path / "b.conll")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no train file"):
        load(tmp_path / "empty")


def test_folders_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "train.iob2", f"{IOB2}\n" * 3)
    write(tmp_path, "dev.jsonl", '{"tokens": ["Oslo"], "tags": ["B-LOC"]}\n')
    write(tmp_path, "test", "Rome B-GPE\n")
    found = load(tmp_path)
    assert found.classes == ["O", "B-GPE", "B-LOC", "B-PER", "I-PER"] and found.validation is not None
    assert found.validation.words == [["Oslo"]] and found.test.tags == [[1]]
    output = "".join(capsys.readouterr())
    assert "tags: IOB2, 3 types of entities (GPE, LOC, PER)" in output
    assert "no word of the training sentences has the tags B-GPE" in output
    alone = load(tmp_path / "train.iob2", test=str(tmp_path / "test"))
    assert alone.validation is None and alone.test.words == [["Rome"]] and len(alone.train) == 6
    held_out = load(tmp_path / "train.iob2")
    assert len(held_out.train) == 5 and len(held_out.test) == 1 and "held-out" in held_out.test_name


def test_names_of_tags_in_parquet(tmp_path: Path) -> None:
    names = ["O", "B-X", "I-X", "B-UNUSED"]
    features = datasets.Features({"id": datasets.Value("string"), "tokens": datasets.Sequence(datasets.Value("string")),
                                  "ner_tags": datasets.Sequence(datasets.ClassLabel(names=names))})  # fmt: skip
    rows = {"id": ["1", "2"] * 6, "tokens": [["a", "b"], ["c"]] * 6, "ner_tags": [[1, 2], [0]] * 6}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    found = load(tmp_path)
    assert found.classes == names and found.train.tags[:2] in ([[1, 2], [0]], [[0], [1, 2]], [[1, 2], [1, 2]])


def test_bilou_is_bioes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = load(write(tmp_path, "a.conll", "a B-X\nb L-X\n\nc U-X\n\n" * 6))
    assert found.classes == ["B-X", "E-X", "S-X"] and "BILOU, read as BIOES" in "".join(capsys.readouterr())


@pytest.mark.parametrize(("row", "says"), [
    ('{"tokens": ["a"], "tags": ["O", "O"]}', "line 2: 1 words and 2 tags"),
    ('{"tokens": [], "tags": []}', "no words"), ('{"tokens": "a", "tags": ["O"]}', "'tokens' is str, expected a list"),
    ('{"tokens": [" "], "tags": ["O"]}', "the word ' '"), ('{"tokens": ["a"], "tags": [null]}', "the tag None"),
])  # fmt: skip
def test_broken_rows(tmp_path: Path, row: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    good = '{"tokens": ["a"], "tags": ["B-X"]}\n'
    file = write(tmp_path, "a.jsonl", f"{good}{row}\n{good * 8}")
    with pytest.raises(DataError, match=says):
        load(file)
    assert sum(map(len, load(file, on_error="skip").parts)) == 9
    assert "skipped 1 sentences" in "".join(capsys.readouterr())


@pytest.mark.parametrize(("text", "says"), [
    ("a B-X\nb Y\n" * 5, "the tag 'Y' has no prefix"), ("a O\n\n" * 9, "all words have the tag O"),
])  # fmt: skip
def test_tags_without_sense(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load(write(tmp_path, "a.conll", text))


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
@pytest.mark.parametrize("max_length", [12, 512])
def test_every_word_has_one_label(kind: str, max_length: int) -> None:
    """At its first token, in one of the windows of its sentence, whatever the tokenizer."""
    words, _ = make_entities(30, seed=3)
    words[0] = ["\U0001f642 x", "a\u0301b", "don't", "U.S."]
    tags = [[100 * i + j for j in range(len(row))] for i, row in enumerate(words)]
    part = TaggedSentences(words, tags)
    processor = replace(train(kind, part.texts, 300), max_length=max_length)  # type: ignore[arg-type]
    data = TaggedTokens(part, processor)
    assert data.lost == [] and (data.split > 10) == (max_length == 12)
    batch = data.__getitems__(Keys(range(len(data)), 0))
    for i, row in enumerate(words):
        own = batch["labels"][batch["sentence"] == i]
        assert own[own != -100].tolist() == tags[i], row
    if max_length == 512:
        for ids, labels, row in zip(batch["input_ids"], batch["labels"], words):
            starts = (labels != -100).nonzero()[:, 0].tolist()
            pieces = [processor.decode(ids[a:b].tolist()) for a, b in zip(starts, [*starts[1:], len(ids)])]
            assert [piece.replace(" ", "") for piece in pieces[1:]] == [
                processor.decode(processor.encode(word)).replace(" ", "") for word in row[1:]
            ]


def test_words_without_tokens_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    part = TaggedSentences([["a", "\u200b\u200d", "b"], ["a", "b"]], [[0, 1, 2], [0, 2]])
    processor = train("wordpiece", ["a b"], 50)
    data = TokenClassificationDataModule(Splits(part, part, "x", True, "x", classes=["O", "P", "Q"]), processor, 1)
    assert "2 words have no token of their own" in "".join(capsys.readouterr())
    labels = data.train.__getitems__(Keys([0], 0))["labels"]
    assert labels[labels != -100].tolist() == [0, 2]


def test_synthetic_entities() -> None:
    words, tags = make_entities(300, seed=1)
    assert (words, tags) == make_entities(300, seed=1) and words != make_entities(300, seed=2)[0]
    assert len({tuple(row) for row in words}) == 300 and scheme_of(tags) == "IOB2"
    assert {tag for row in tags for tag in row} == set(entities.TAGS)
    named = {(word, tag[2:]) for row, names in zip(words, tags) for word, tag in zip(row, names) if tag != "O"}
    assert {("Lincoln", "PER"), ("Lincoln", "LOC"), ("Lincoln", "ORG")} <= named
    card = load_card("synthetic_entities")
    assert list(card.labels) == entities.TAGS and card.splits == {"train": entities.TRAIN, "test": entities.TEST}
    assert torch.tensor([len(row) for row in words]).max() < 30
