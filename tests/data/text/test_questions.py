"""Questions with contexts from files of SQuAD and tables; their windows, with the places of the answers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.data import QuestionDataModule, QuestionSettings, load_card, load_questions, make_questions
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Splits
from zoo.data.synthetic import questions
from zoo.data.text.questions import Questions
from zoo.data.text.questions_datamodule import QuestionTokens
from zoo.preprocessing.tokenizer_training import train
from zoo.utils.errors import DataError

CONTEXT = "Ada lived in Rome. Bob lived in Oslo."


def row(question: str = "where?", text: Any = "Rome", start: Any = 13, context: Any = CONTEXT) -> dict[str, Any]:
    return {"question": question, "context": context, "answers": {"text": [text], "answer_start": [start]}}


def squad(rows: list[dict[str, Any]]) -> dict[str, Any]:
    qas = [{"id": str(i), "question": one["question"], "is_impossible": not one["answers"]["text"], "answers": [
        {"text": text, "answer_start": start} for text, start in zip(*one["answers"].values())]}
        for i, one in enumerate(rows)]  # fmt: skip
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": qas}]}]}


def load(name: object, **options: Any) -> Splits[Questions]:
    return load_questions(QuestionSettings(name=str(name), **options))


def test_the_layouts_are_read_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(f"where {i}?") for i in range(6)]
    rows += [{"question": "who?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}}]
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad" / "train.json").write_text(json.dumps(squad(rows)))
    (tmp_path / "squad" / "dev.json").write_text(json.dumps(squad(rows[:2])))
    (tmp_path / "squad" / "test.jsonl").write_text("\n".join(map(json.dumps, rows[:1])))
    found = load(tmp_path / "squad")
    assert found.validation is not None and (len(found.train), len(found.validation), len(found.test)) == (7, 2, 1)
    assert found.train.answers == [[("Rome", 13)]] * 6 + [[]] and found.train.contexts == [CONTEXT] * 7
    assert "questions: 10, of which 1 have no answer" in "".join(capsys.readouterr())
    (tmp_path / "flat.json").write_text(json.dumps({"data": rows}))
    flat = load(tmp_path / "flat.json", test=str(tmp_path / "squad" / "test.jsonl"))
    assert flat.train == found.train and flat.test == found.test
    held_out = load(tmp_path / "flat.json")
    assert (len(held_out.train), len(held_out.test)) == (6, 1)


@pytest.mark.parametrize(("bad", "says"), [
    (row(start=14), "the answer 'Rome' does not stand at character 14 of the context, which has 'ome.' there"),
    (row(question=" "), "the question is ' '"), (row(context=None), "the context is None"),
    (row(text=""), "the answer ''"), (row(start=-1), "at -1"),
    ({**row(), "answers": ["Rome"]}, "the answers are"), ({**row(), "answers": None}, "the answers are None"),
])  # fmt: skip
def test_broken_rows(tmp_path: Path, bad: dict, says: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, [row(), bad, *[row()] * 8])))
    with pytest.raises(DataError, match=f"line 2: .*{says}"):
        load(file)
    assert sum(map(len, load(file, on_error="skip").parts)) == 9


@pytest.mark.parametrize(("text", "says"), [
    ("{", "invalid JSON"), ('{"data": 3}', "expected a list of objects"), ("[]", "expected a list of objects"),
    ('{"data": [{"paragraphs": [{"context": "a"}]}]}', "'qas'.* as in SQuAD"),
])  # fmt: skip
def test_broken_files(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=says):
        load(tmp_path / "a.json")
    (tmp_path / "a.csv").write_text("question,context\na,b\n")
    with pytest.raises(DataError, match="expected a file of SQuAD"):
        load(tmp_path / "a.csv")


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
@pytest.mark.parametrize("max_length", [40, 512])
def test_labels_are_the_places_of_the_answer(kind: Any, max_length: int) -> None:
    rows = make_questions(60, seed=1)
    answers = [list(zip(one["answers"]["text"], one["answers"]["answer_start"])) for one in rows]
    part = Questions([one["question"] for one in rows], [one["context"] for one in rows], answers)
    processor = replace(train(kind, part.contexts, 400), max_length=max_length)
    data = QuestionTokens(part, processor, 12)
    batch = data.__getitems__(Keys(range(len(data)), 0))
    assert (len(data) > 60) == (max_length == 40) and (data.split > 0) == (max_length == 40)
    held = set()
    for i in range(len(data)):
        start, end = int(batch["start_positions"][i]), int(batch["end_positions"][i])
        question = int(batch["question"][i])
        if end:
            places = batch["offsets"][i]
            span = part.contexts[question][int(places[start, 0]) : int(places[end, 1])]
            assert span.strip() == answers[question][0][0]
            held.add(question)
    expected = {i for i, own in enumerate(answers) if own}
    assert held == expected
    assert (batch["offsets"][:, 0] == -1).all() or kind == "bpe"


def test_contexts_that_are_split_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    part = Questions(["where?"] * 4, [CONTEXT] * 4, [[("Rome", 13)]] * 4)
    processor = replace(train("wordpiece", [CONTEXT, "where?"], 60), max_length=18)
    QuestionDataModule(Splits(part, part, "x", True, "x"), processor, 2, doc_stride=4)
    assert "8 of 8 contexts do not fit into max_length=18" in "".join(capsys.readouterr())


def test_synthetic_questions() -> None:
    rows = make_questions(400, seed=1)
    assert rows == make_questions(400, seed=1) and rows != make_questions(400, seed=2)
    assert len({(one["question"], one["context"]) for one in rows}) == 400
    for one in rows:
        for text, start in zip(one["answers"]["text"], one["answers"]["answer_start"], strict=True):
            assert one["context"][start : start + len(text)] == text
    assert 30 < sum(not one["answers"]["text"] for one in rows) < 90
    assert load_card("synthetic_questions").splits == {"train": questions.TRAIN, "test": questions.TEST}
    assert torch.tensor([len(one["context"]) for one in rows]).max() < 400


def test_no_context_is_trained_on_and_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(f"where {i}?", context=f"{CONTEXT} Text {i % 40}.") for i in range(200)]
    (tmp_path / "many.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for seed in range(3):
        sets = load_questions(QuestionSettings(name=str(tmp_path / "many.jsonl")), seed=seed).with_validation(0.1, seed)
        assert [len(part) for part in sets.parts] == [160, 20, 20]
        contexts = [set(part.contexts) for part in sets.parts]
        assert not contexts[0] & contexts[1] and not contexts[0] & contexts[2] and not contexts[1] & contexts[2]
        assert sum(map(len, contexts)) == 40
    limited = load_questions(QuestionSettings(name=str(tmp_path / "many.jsonl"), max_train_samples=50))
    limited = limited.with_validation(0.1, 0)
    assert not set(limited.train.contexts) & set(limited.validation.contexts)
    assert "too few" not in capsys.readouterr().err


def test_too_few_contexts_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(f"where {i}?", context=f"{CONTEXT} Text {i % 2}.") for i in range(40)]
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sets = load(tmp_path / "two.jsonl").with_validation(0.1, 0)
    assert [len(part) for part in sets.parts] == [32, 4, 4]
    assert "there are 2 different contexts, too few to hold some out" in capsys.readouterr().err
    own = {split: str(tmp_path / "two.jsonl") for split in ("validation", "test")}
    load(tmp_path / "two.jsonl", **own)
    assert "different contexts" not in capsys.readouterr().err
