"""The task of answering questions: its loss, and the scores of SQuAD over the windows of each question."""

from dataclasses import replace
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader
from torchmetrics.text import SQuAD

import zoo
from zoo.data import QuestionDataModule, make_questions
from zoo.data.splits import Splits
from zoo.data.text.questions import Questions
from zoo.preprocessing.tokenizer_training import train
from zoo.tasks import QuestionAnsweringTask
from zoo.tasks.question_answering import AnswerScores


def some(count: int) -> Questions:
    rows = make_questions(count, seed=1)
    answers = [list(zip(one["answers"]["text"], one["answers"]["answer_start"])) for one in rows]
    return Questions([one["question"] for one in rows], [one["context"] for one in rows], answers)


def reader(vocab_size: int) -> zoo.Model:
    model = zoo.create_model("bert_tiny", vocab_size=vocab_size, width=16, depth=1, heads=2, head="qa", seed=3)
    with torch.no_grad():
        model.head.proj.weight.mul_(60)
    return model


@pytest.mark.parametrize("impossible", [False, True])
def test_scores_are_those_of_squad_on_the_predictions(impossible: bool, tmp_path: Any) -> None:
    """The predictions of the test are those of zoo.predict, and their scores those of torchmetrics."""
    part = some(40)
    processor = replace(train("wordpiece", part.contexts, 300), max_length=40)
    model = reader(processor.vocab_size)
    model.preprocess = processor
    if impossible:  # raise the first token, which stands for no answer, until it wins for some questions
        with torch.no_grad():
            hidden = model.eval().encode(**processor(part.questions))
            model.head.proj.weight.add_(10 * (hidden[:, 0].mean(0) - hidden[:, 1:].mean((0, 1))))
    data = QuestionDataModule(Splits(part, part, "x", True, "x"), processor, 8, doc_stride=10)
    assert len(data.test) > len(part)
    task = QuestionAnsweringTask(model, questions={"test": part}, handle_impossible_answer=impossible)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    batches = list(data._evaluation(data.test))
    trainer.test(task, DataLoader(batches, batch_size=None), verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    answers = [one[0].answer for one in zoo.predict(model, part.texts, 1, handle_impossible_answer=impossible)]
    assert ("" in answers) == impossible and len(set(answers)) > 5
    metric, right = SQuAD(), 0
    held = [i for i, own in enumerate(part.answers) if own]
    for i in held:
        expected = {"text": [part.answers[i][0][0]], "answer_start": [0]}
        metric.update([{"prediction_text": answers[i], "id": "0"}], [{"answers": expected, "id": "0"}])
    right = sum(not answers[i] for i in range(len(part)) if i not in held)
    for name, percent in metric.compute().items():
        total = float(percent) / 100 * len(held) + right
        assert found[f"test_{name}"] == pytest.approx(total / len(part), abs=1e-6)
    assert found["test_f1"] > 0


def test_the_loss_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 2, generator=generator)
    batch = {"start_positions": torch.tensor([0, 2, 6]), "end_positions": torch.tensor([0, 3, 6])}
    from transformers.loss.loss_utils import ForQuestionAnsweringLoss

    expected = ForQuestionAnsweringLoss(logits[..., 0], logits[..., 1], *batch.values())
    task = QuestionAnsweringTask(reader(20), questions={})
    assert torch.allclose(task._losses(logits, batch).mean(), expected) and transformers


def test_padding_changes_no_loss() -> None:
    model, batch = reader(40).eval(), {"start_positions": torch.tensor([1]), "end_positions": torch.tensor([2])}
    task = QuestionAnsweringTask(model, questions={})
    ids = torch.tensor([[5, 6, 7, 8]])
    alone = task.loss_of(batch | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 0, 0)
    padded = {"input_ids": torch.cat([ids, ids * 0], 1), "attention_mask": torch.tensor([[1] * 4 + [0] * 4])}
    assert torch.allclose(task.loss_of(batch | padded, 0, 0), alone, atol=1e-6)


def test_empty_predictions() -> None:
    part = Questions(["a?", "b?"], ["one two", "one two"], [[("one", 0)], []])
    batch = {"offsets": torch.tensor([[[-1, -1], [0, 3], [4, 7]]] * 2), "question": torch.tensor([0, 1])}
    logits = torch.tensor([[[9.0, 9.0], [1.0, 1.0], [0.0, 0.0]]] * 2)
    for impossible, expected in ((True, {0: "", 1: ""}), (False, {0: "one", 1: "one"})):
        scores = AnswerScores(part, impossible)
        scores.update(logits, batch)
        assert scores.predictions() == expected and scores.compute() == {"exact_match": 0.5, "f1": 0.5}


def test_another_head_is_refused() -> None:
    model = zoo.create_model("bert_tiny", vocab_size=40, width=16, depth=1, heads=2, head="classify")
    with pytest.raises(ValueError, match=r"needs logits \[B, N, 2\]"):
        QuestionAnsweringTask(model, questions={}).loss_of({"input_ids": torch.ones(1, 3, dtype=torch.long)}, 0, 0)


def test_no_answer_must_be_the_best_in_every_window() -> None:
    """A window without the answer is sure that there is none; the one that holds it decides."""
    part = Questions(["where?"], ["in Rome"], [[("Rome", 3)]])
    scores = AnswerScores(part, handle_impossible_answer=True)
    logits = torch.zeros(2, 3, 2)
    logits[0, 0], logits[1, 0], logits[1, 2] = 9.0, -1.0, 4.0
    offsets = torch.tensor([[[-1, -1], [0, 2], [-1, -1]], [[-1, -1], [-1, -1], [3, 7]]])
    scores.update(logits, {"offsets": offsets, "question": torch.tensor([0, 0])})
    assert scores.predictions() == {0: "Rome"}
    logits[1, 0] = 5.0
    scores.reset()
    scores.update(logits, {"offsets": offsets, "question": torch.tensor([0, 0])})
    assert scores.predictions() == {0: ""}
