"""Entities of texts: as the pipeline of transformers, in texts of any length, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from text_peers import SENTENCES, save_text_tokenizer, transformers_text

import zoo
from zoo.inference.token_classification import Entity, entities_of
from zoo.preprocessing.tags import scheme_of, split_tag
from zoo.preprocessing.text_windows import encode_windows, owned_tokens

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TEXTS = [text for text, _ in SENTENCES]


@pytest.fixture(params=["Bert", "DistilBert", "Roberta", "ModernBert"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    names = dict(id2label=dict(enumerate(TAGS)), label2id={tag: i for i, tag in enumerate(TAGS)})
    transformers_text(tmp_path, f"{request.param}ForTokenClassification", num_labels=5, **names)
    save_text_tokenizer(tmp_path, "roberta" if request.param == "Roberta" else "wordpiece")
    return tmp_path


@pytest.mark.parametrize("strategy", ["simple", "first"])
def test_as_the_pipeline_of_transformers(folder: Path, strategy: str) -> None:
    pipeline = pytest.importorskip("transformers").pipeline(
        "token-classification", str(folder), aggregation_strategy=strategy
    )
    model = zoo.load(folder)
    assert model.labels == TAGS
    ours = zoo.predict(model, TEXTS, aggregation_strategy=strategy)
    theirs = pipeline(TEXTS)
    assert sum(map(len, ours)) > 5
    for text, found, expected in zip(TEXTS, ours, theirs):
        assert [(e.label, e.start, e.end) for e in found] == [
            (e["entity_group"], e["start"], e["end"]) for e in expected
        ]
        assert [e.probability for e in found] == pytest.approx([float(e["score"]) for e in expected], abs=1e-5)
        assert all(text[e.start : e.end] == e.text for e in found)


@pytest.fixture
def model(tmp_path: Path) -> zoo.Model:
    transformers_text(tmp_path, "BertForTokenClassification", num_labels=5)
    save_text_tokenizer(tmp_path, "wordpiece")
    model = zoo.load(tmp_path)
    model.labels = TAGS
    return model


@pytest.mark.parametrize("max_length", [8, 13, 40])
@pytest.mark.parametrize("stride", [None, 0, 3, 99])
def test_windows_have_every_token_once(model: zoo.Model, max_length: int, stride: int | None) -> None:
    text = " ".join(TEXTS)
    processor = replace(model.preprocess, max_length=max_length)
    (windows,) = encode_windows(processor, [text], stride)
    assert len(windows) > 1 and max(map(len, windows)) == max_length
    tokens = processor.backend.encode(text, add_special_tokens=False)
    found = [(window.ids[i], window.offsets[i]) for window, r in zip(windows, owned_tokens(windows)) for i in r]
    assert found == list(zip(tokens.ids, tokens.offsets))
    pair = ("the soup", text)
    if max_length > 8:
        (windows,) = encode_windows(processor, [pair], stride)
        found = [(w.ids[i], w.offsets[i]) for w, r in zip(windows, owned_tokens(windows, 1)) for i in r]
        assert found == list(zip(tokens.ids, tokens.offsets))
        start = processor.backend.encode(pair[0]).ids
        assert all(window.ids[: len(start)] == start for window in windows)


def test_windows_that_cannot_be(model: zoo.Model) -> None:
    with pytest.raises(ValueError, match=r"text 0: the question has .* no room for its context in max_length=40"):
        encode_windows(model.preprocess, [(" ".join(TEXTS), "a text")])
    with pytest.raises(ValueError, match="room for 1 tokens of a text"):
        encode_windows(replace(model.preprocess, max_length=3), ["a text"])
    with pytest.raises(ValueError, match="stride=-1"):
        encode_windows(model.preprocess, ["a text"], -1)
    with pytest.raises(ValueError, match="cleans texts"):
        encode_windows(replace(model.preprocess, clean="whitespace"), ["a text"])


def test_a_long_text_has_a_tag_at_every_word(model: zoo.Model) -> None:
    """Each word is tagged by the window in which it has the most context: computed here window by window."""
    text = " ".join(TEXTS * 2)
    (windows,) = encode_windows(model.preprocess, [text])
    assert len(windows) > 3
    expected: dict[int, str] = {}
    for window, owned in zip(windows, owned_tokens(windows)):
        with torch.no_grad():
            scores = model(torch.tensor([window.ids]), torch.ones(1, len(window), dtype=torch.long))[0]
        expected |= {window.offsets[i][0]: TAGS[int(scores[i].argmax())] for i in owned}
    with_tags = dict(zip(TAGS, ["O", "S-a", "S-b", "S-c", "S-d"]))  # every token its own entity
    model.labels = [with_tags[tag] for tag in TAGS]
    found = zoo.predict(model, text, aggregation_strategy="simple")
    assert {e.start: e.label for e in found} == {
        start: with_tags[tag][2:] for start, tag in expected.items() if tag != "O"
    }
    assert found[-1].end > len(text) - 20 and len(found) > 20


def test_many_texts_as_each_alone(model: zoo.Model) -> None:
    texts = [*TEXTS, " ".join(TEXTS)]
    many = zoo.predict(model, texts)
    stream = list(zoo.predict(model, iter(texts), batch_size=2))
    assert [[e[:4] for e in found] for found in stream] == [[e[:4] for e in found] for found in many]
    for text, found in zip(texts, many):
        alone = zoo.predict(model, text)
        assert [e[:4] for e in alone] == [e[:4] for e in found]
        assert [e.probability for e in alone] == pytest.approx([e.probability for e in found], abs=1e-5)


def test_what_is_refused(model: zoo.Model) -> None:
    with pytest.raises(ValueError, match="text 1 is empty"):
        zoo.predict(model, ["the soup", ""])
    with pytest.raises(ValueError, match="is a pair of texts"):
        zoo.predict(model, ("the soup", "the food"))
    with pytest.raises(ValueError, match="truncation=True: the model predicts long texts in windows"):
        zoo.predict(model, "the soup", truncation=True)
    with pytest.raises(ValueError, match="aggregation_strategy is 'max', expected one of first, simple"):
        zoo.predict(model, "the soup", aggregation_strategy="max")
    classifier = zoo.create_model("bert_tiny", vocab_size=99, head="classify")
    classifier.preprocess = replace(model.preprocess)
    with pytest.raises(ValueError, match="aggregation_strategy='first' is for head='token'"):
        zoo.predict(classifier, "the soup", aggregation_strategy="first")
    model.labels = TAGS[:3]
    with pytest.raises(ValueError, match="3 names for 5 classes"):
        zoo.predict(model, "the soup")


def test_errors_in_the_place_of_entities(model: zoo.Model) -> None:
    with pytest.warns(UserWarning, match="1 of 2 inputs are labeled with their error"):
        good, bad = zoo.predict(model, ["the soup", ""], on_error="label")
    assert bad[0].label == "error: text 1 is empty" and math.isnan(bad[0].probability) and len(good) < 3
    with torch.no_grad():
        model.head.proj.bias[0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        zoo.predict(model, "the soup")


class Window:
    """As much of a tokenizers.Encoding as is read: one token a word."""

    def __init__(self, words: int):
        self.ids, self.offsets = list(range(words)), [(2 * i, 2 * i + 1) for i in range(words)]
        self.sequence_ids, self.word_ids = [0] * words, list(range(words))


@pytest.mark.parametrize(("tags", "expected"), [
    ("B-A I-A O B-A", [("A", 0, 3), ("A", 6, 7)]),
    ("B-A B-A I-B", [("A", 0, 1), ("A", 2, 3), ("B", 4, 5)]),
    ("I-A I-A B-A I-A", [("A", 0, 3), ("A", 4, 7)]),
    ("B-A E-A S-A I-A", [("A", 0, 3), ("A", 4, 5), ("A", 6, 7)]),
    ("B-A E-A I-A S-A", [("A", 0, 3), ("A", 4, 5), ("A", 6, 7)]),
    ("NN NN VB", [("NN", 0, 3), ("VB", 4, 5)]),
])  # fmt: skip
def test_tags_become_entities(tags: str, expected: list) -> None:
    names = sorted(set(tags.split()))
    rows = torch.tensor([[0.75 if name == tag else 0.0 for name in names] for tag in tags.split()])
    found = entities_of("abcdefghijkl", [Window(len(rows))], [rows], names)  # type: ignore[list-item]
    assert [(e.label, e.start, e.end) for e in found] == expected
    assert all(isinstance(e, Entity) and e.probability == 0.75 for e in found)


@pytest.mark.parametrize(("sentences", "scheme"), [
    (["B-A I-A O B-A", "O O"], "IOB2"), (["I-A I-A O I-B", "I-A B-A"], "IOB1"), (["I-A O I-B", "B-A"], "IOB"),
    (["B-A E-A O S-B"], "BIOES"), (["B-A L-A O U-B"], "BILOU"), (["NN VB O"], ""), (["O", "B-A B-A"], "IOB2"),
])  # fmt: skip
def test_the_scheme_of_tags(sentences: list[str], scheme: str) -> None:
    assert scheme_of(text.split() for text in sentences) == scheme


def test_parts_of_tags() -> None:
    assert [split_tag(tag) for tag in ("O", "B-PER", "I-a-b", "NN", "B-")] == [
        ("", ""), ("B", "PER"), ("I", "a-b"), ("I", "NN"), ("I", "B-"),
    ]  # fmt: skip
