"""The sentences that decide a classification, on a classifier that counts words; and where sentences end."""

from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.interpret.deciding_sentences import deciding_sentences, without
from zoo.preprocessing.sentences import split_sentences
from zoo.preprocessing.tokenizer_training import train

FILLER = "The day was long and the road was wet."
REPORT = " ".join(
    [FILLER] * 9 + ["Still the soup was good."] + [FILLER] * 9 + ["But the bread was cold."] + [FILLER] * 4
)


@pytest.fixture(scope="module")
def counts() -> Any:
    tokenizer = train("wordpiece", [REPORT] * 2, 200)
    model = zoo.create_model("bert_tiny", head="classify", num_classes=2, vocab_size=tokenizer.vocab_size, width=8,
                             depth=1, heads=1, mlp_dim=8, pool="mean", max_length=64, seed=0)  # fmt: skip
    model.preprocess = tokenizer.fitted_to(model.config)
    assert len(tokenizer.backend.encode("good cold", add_special_tokens=False).ids) == 2

    def forward(input_ids: Tensor, attention_mask: Tensor, **more: Any) -> Tensor:
        score = 4 * (model.tokens.word(input_ids)[..., 0] * attention_mask).sum(1)
        return torch.stack([-score / 2, score / 2], 1)

    with torch.no_grad():
        model.tokens.word.weight.zero_()
        model.tokens.word.weight[tokenizer.backend.token_to_id("good"), 0] = 1
        model.tokens.word.weight[tokenizer.backend.token_to_id("cold"), 0] = -0.5
    model.forward = forward
    model.labels = ["bad", "fine"]
    return model


def test_the_sentences_that_decide_are_found_over_windows(counts: Any) -> None:
    from dataclasses import replace

    counts.preprocess = replace(counts.preprocess, max_length=64)
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
    from dataclasses import replace

    counts.preprocess = replace(counts.preprocess, max_length=64)
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
        assert "".join(text[a:b] for a, b in spans).split() == "".join(text.split()).split() or " " in text
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
