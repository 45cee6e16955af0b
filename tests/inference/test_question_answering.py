"""Answers to questions: as transformers decodes them, over all windows of a context, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from text_peers import SENTENCES, save_text_tokenizer, transformers_text

import zoo
from zoo.inference.question_answering import Answer
from zoo.preprocessing.text_windows import encode_windows

CONTEXT = " ".join(text for text, _ in SENTENCES)
QUESTION = "the soup"


def folder_of(name: str, folder: Path) -> Path:
    transformers_text(folder, f"{name}ForQuestionAnswering")
    save_text_tokenizer(folder, "roberta" if name == "Roberta" else "wordpiece")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> zoo.Model:
    return zoo.load(folder_of("Bert", tmp_path))


@pytest.mark.parametrize("name", ["Bert", "DistilBert", "Roberta", "ModernBert"])
@pytest.mark.parametrize("impossible", [False, True])
def test_as_transformers_decodes_one_window(name: str, impossible: bool, tmp_path: Path) -> None:
    """Its pipeline of this task is gone since version 5; the function that it shared with that of documents is not."""
    pipelines = pytest.importorskip("transformers.pipelines.document_question_answering")
    import transformers

    folder = folder_of(name, tmp_path)
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    context = CONTEXT[:60].rsplit(" ", 1)[0]
    inputs = tokenizer(QUESTION, context, return_tensors="pt", return_token_type_ids=name == "Bert")
    with torch.no_grad():
        output = theirs(**inputs)
    outside = torch.tensor([[part != 1 for part in inputs.sequence_ids(0)]]).long()
    outside[0, 0] = 0  # the first token stands for no answer
    starts, ends, scores, null = pipelines.select_starts_ends(
        output.start_logits.numpy(), output.end_logits.numpy(), outside.numpy(), inputs["attention_mask"].numpy(),
        top_k=6, handle_impossible_answer=impossible, max_answer_len=30,
    )  # fmt: skip
    spans = [(inputs.token_to_chars(int(a)).start, inputs.token_to_chars(int(b)).end) for a, b in zip(starts, ends)]
    expected = sorted(((float(p), a, b) for p, (a, b) in zip(scores, spans)), reverse=True)
    found = zoo.predict(
        zoo.load(folder), (QUESTION, context), top_k=10**4 if impossible else 6, handle_impossible_answer=impossible
    )
    answers = [one for one in found if one.answer]
    assert [one[1:] for one in answers[:6]] == [pytest.approx(one, abs=1e-5) for one in expected]
    assert all(context[one.start : one.end] == one.answer for one in found)
    assert [one.probability for one in found if not one.answer] == ([pytest.approx(null, abs=1e-5)] * impossible)


def test_over_all_windows(model: zoo.Model) -> None:
    """The best sums of logits over all spans of all windows, each place once."""
    pair = (QUESTION, CONTEXT)
    (windows,) = encode_windows(model.preprocess, [pair])
    assert len(windows) > 2
    best: dict[tuple[int, int], float] = {}
    starts, ends, nulls = [], [], []
    for window in windows:
        batch = model.preprocess._pad([window])
        with torch.no_grad():
            scores = model(**batch)[0].double()
        own = [i for i, part in enumerate(window.sequence_ids) if part == 1]
        starts += [scores[i, 0] for i in [0, *own]]
        ends += [scores[i, 1] for i in [0, *own]]
        nulls.append(float(scores[0].sum()))
        for i in own:
            for j in own:
                if i <= j < i + 30:
                    span = (window.offsets[i][0], window.offsets[j][1])
                    best[span] = max(float(scores[i, 0] + scores[j, 1]), best.get(span, -math.inf))
    total = float(torch.stack(starts).logsumexp(0) + torch.stack(ends).logsumexp(0))
    expected = sorted(best.items(), key=lambda one: -one[1])[:8]
    found = zoo.predict(model, pair, top_k=8)
    assert [(one.start, one.end) for one in found] == [span for span, _ in expected]
    assert [one.probability for one in found] == pytest.approx([math.exp(s - total) for _, s in expected], abs=1e-6)
    with_null = zoo.predict(model, pair, top_k=10**6, handle_impossible_answer=True)
    assert next(one for one in with_null if not one.answer).probability == pytest.approx(
        math.exp(min(nulls) - total), abs=1e-6
    )
    assert sum(one.probability for one in with_null) <= 1 + 1e-6


def test_many_questions_as_each_alone(model: zoo.Model) -> None:
    pairs = [(QUESTION, CONTEXT), ("a place", "the food was fine"), (QUESTION, CONTEXT[:50])]
    for pair, found in zip(pairs, zoo.predict(model, pairs)):
        alone = zoo.predict(model, pair)
        assert [one[2:] for one in alone] == [one[2:] for one in found] and isinstance(found[0], Answer)
        assert [one[1] for one in alone] == pytest.approx([one[1] for one in found], abs=1e-5)


def test_what_is_refused(model: zoo.Model) -> None:
    with pytest.raises(ValueError, match=r"text 0: expected a tuple \(question, context\)"):
        zoo.predict(model, "the soup")
    with pytest.raises(ValueError, match=r"text 0: the question has \d+ tokens, which leaves no room"):
        zoo.predict(model, (CONTEXT, "the soup"))
    with pytest.raises(ValueError, match="truncation=False"):
        zoo.predict(model, (QUESTION, CONTEXT), truncation=False)
    with pytest.warns(UserWarning, match="1 of 2 inputs are labeled"):
        good, bad = zoo.predict(model, [(QUESTION, "the soup"), (QUESTION, "")], on_error="label")
    assert good[0].answer and bad[0].answer.startswith("error: text 1") and math.isnan(bad[0].probability)
    classifier = zoo.create_model("bert_tiny", vocab_size=99, head="classify")
    classifier.preprocess = replace(model.preprocess)
    with pytest.raises(ValueError, match="handle_impossible_answer=True is for head='qa'"):
        zoo.predict(classifier, "the soup", handle_impossible_answer=True)
