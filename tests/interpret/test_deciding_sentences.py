"""The sentences that decide a classification, on a classifier that counts words; and where sentences end."""

from dataclasses import replace
from typing import Any

import pytest

import zoo
from tests.word_counter import word_counter
from zoo.interpret.deciding_sentences import deciding_sentences, without
from zoo.preprocessing.sentences import split_sentences

FILLER = "The day was long and the road was wet."
REPORT = " ".join(
    [FILLER] * 9 + ["Still the soup was good."] + [FILLER] * 9 + ["But the bread was cold."] + [FILLER] * 4
)


@pytest.fixture(scope="module")
def counts() -> Any:
    model = word_counter([REPORT] * 2, {"good": 1, "cold": -0.5}, scale=4, max_length=64)
    model.preprocess = replace(model.preprocess, max_length=64)
    model.labels = ["bad", "fine"]
    return model


def test_the_sentences_that_decide_are_found_over_windows(counts: Any) -> None:
    result = deciding_sentences(counts, REPORT, "fine", method="input_x_gradient", random_orders=4)
    assert result.windows > 3 and len(result.sentences) == 24
    for by in ("removal", "attribution"):
        ranked = result.ranked(by)
        assert ranked[0].text == "Still the soup was good." and ranked[-1].text == "But the bread was cold."
    assert all(REPORT[one.start : one.end] == one.text for one in result.sentences)
    logits = sum(one.attribution for one in result.sentences if one.attribution)
    assert logits == pytest.approx((4 - 2) / 2 / result.windows)
    test = {(one.order, one.removed): one for one in result.test}
    assert test["removal", 1].probability == pytest.approx(test["attribution", 1].probability)
    assert test["removal", 1].probability < test["random", 1].probability and test["random", 1].spread is not None
    assert "Still the soup was good." in str(result).splitlines()[1] and "windows" in str(result)
    top = result.ranked()[0]
    assert result.probability - top.removal == pytest.approx(test["removal", 1].probability, abs=1e-6)


def test_a_short_text_is_read_as_predict_reads_it(counts: Any) -> None:
    text = "The soup was good. The bread was cold."
    result = deciding_sentences(counts, text, method=None, top=(1,), split=lambda x: x.replace(". ", ".|").split("|"))
    assert result.windows == 1 and result.method is None and result.label == "fine"
    assert result.probability == pytest.approx(dict(zoo.predict(counts, text))["fine"])
    assert [one.removal > 0 for one in result.sentences] == [True, False]
    with pytest.raises(ValueError, match="by='attribution': the sentences are scored by removal"):
        result.ranked("attribution")


def test_where_sentences_end() -> None:
    cases = [
        ("It was good. Dr. Smith came at 3 p.m. and left. Was it? Yes!", 4),
        ("Am 3. Mai kam z.B. Herr A. Meier. Er ging.", 2),
        ("Er sagte: \"Nein.\" Dann ging er.", 2),
        ("今天很好。明天！再见", 3),
        ("One\n\nTwo\n- three\n- four", 4),
        ("He said no. Then we left.", 2),
        ("See fig. 2 and No. 5 of it.", 1),
        ("no end", 1),
        ("  \n", 0),
    ]  # fmt: skip
    for text, count in cases:
        spans = split_sentences(text)
        assert len(spans) == count, [text[a:b] for a, b in spans]
        assert "".join("".join(text[a:b] for a, b in spans).split()) == "".join(text.split())  # nothing is lost
    assert without("One. Two. Three.", [(0, 4), (5, 9), (10, 16)], [1]) == "One. Three."
    assert without("One. Two. Three.", [(0, 4), (5, 9), (10, 16)], [2, 0]) == "Two."


def test_what_it_refuses(counts: Any) -> None:
    for text, options, match in (
        ("", {}, "text=''"),
        ("One sentence.", {}, "has 1 sentence: expected at least two"),
        ("One. Two.", {"target": 2}, "target=2 is not a class of the model"),
        ("One. Two.", {"split": lambda _: ["Three."]}, "'Three.', which is not in the text"),
        ("One. Two.", {"random_orders": 0}, "random_orders=0"),
        ("One. Two.", {"batch_size": 0}, "batch_size=0"),
        ("One. Two.", {"top": (1, 0)}, "top=0"),
    ):
        with pytest.raises(ValueError, match=match):
            deciding_sentences(counts, text, **options)
    with pytest.raises(ValueError, match="head='masked_lm'"):
        deciding_sentences(zoo.create_model("bert_tiny"), "One. Two.")
