"""The task of tagging words: its loss, and scores of entities equal to those of seqeval."""

import builtins
from typing import Any

import lightning as L
import pytest
import torch
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from torch.utils.data import DataLoader

import zoo
from zoo.tasks import TokenClassificationTask
from zoo.tasks.token_classification import EntityScores

TAGS = {
    "IOB": ["O", "B-A", "I-A", "B-B", "I-B"],
    "BIOES": ["O", "B-A", "I-A", "E-A", "S-A", "S-B"],
}


def rows(sentences: int, classes: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Random labels, in rows of 12 tokens, of which about a third have one; row 2 k and 2 k + 1 are of sentence k."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (2 * sentences, 12), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.6] = -100
    ids = torch.randint(5, 40, labels.shape, generator=generator)
    return [{"input_ids": ids[i], "attention_mask": torch.ones(12, dtype=torch.long), "labels": labels[i],
             "index": torch.tensor(i), "sentence": torch.tensor(i // 2)} for i in range(2 * sentences)]  # fmt: skip


def tagger(classes: int) -> zoo.Model:
    return zoo.create_model("bert_tiny", vocab_size=40, width=16, depth=1, heads=2, num_classes=classes, head="token")


@pytest.mark.parametrize("scheme", TAGS)
@pytest.mark.parametrize("batch_size", [1, 5, 40])
def test_scores_are_those_of_seqeval(scheme: str, batch_size: int, tmp_path: Any) -> None:
    """Of the decoded tags, with the windows of each sentence joined, in whatever order they come."""
    names, data = TAGS[scheme], rows(20, len(TAGS[scheme]), 1)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    model = tagger(len(names))
    with torch.no_grad():
        model.head.proj.weight.mul_(60)
    task = TokenClassificationTask(model, labels=names)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    trainer.test(task, DataLoader([data[i] for i in order], batch_size), verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    true: list[list[str]] = [[] for _ in range(20)]
    predicted: list[list[str]] = [[] for _ in range(20)]
    total, count = 0.0, 0
    for row in data:
        with torch.no_grad():
            logits = model.eval()(row["input_ids"][None], row["attention_mask"][None])[0]
        keep, sentence = row["labels"] != -100, int(row["sentence"])
        true[sentence] += [names[i] for i in row["labels"][keep]]
        predicted[sentence] += [names[i] for i in logits.argmax(-1)[keep]]
        total += float(torch.nn.functional.cross_entropy(logits[keep], row["labels"][keep], reduction="sum"))
        count += int(keep.sum())
    expected = {"precision": precision_score, "recall": recall_score, "f1": f1_score, "accuracy": accuracy_score}
    for name, score in expected.items():
        assert found[f"test_{name}"] == pytest.approx(score(true, predicted), abs=1e-6), name
    assert 0 < found["test_f1"] < 1 and found["test_loss"] == pytest.approx(total / count, rel=1e-4)
    assert task.class_names == ["A", "B"] and task.class_counts is not None
    right, wrong, _, missed, own = task.class_counts.sum(0).tolist()
    assert right / (right + wrong) == pytest.approx(found["test_precision"]) and own == right + missed
    assert right / own == pytest.approx(found["test_recall"])


def test_rows_without_sentences_are_sentences() -> None:
    scores = EntityScores(["O", "B-A", "I-A"])
    assert scores.compute() == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    scores.reset()
    for _ in range(2):
        labels = torch.tensor([[1, 2, -100], [2, 0, 0]])
        scores.update(torch.tensor([[1, 2, 2], [0, 0, 0]]), {"labels": labels})
    true, predicted = scores.sentences()
    assert true == [["B-A", "I-A"], ["I-A", "O", "O"]] * 2 and predicted[1] == ["O"] * 3
    assert scores.compute()["recall"] == 0.5


def test_the_loss_is_the_mean_over_words() -> None:
    data, model = rows(4, 5, 2), tagger(5).eval()
    batch = {name: torch.stack([row[name] for row in data]) for name in data[0]}
    task = TokenClassificationTask(model, labels=TAGS["IOB"], label_smoothing=0.1)
    logits = model(batch["input_ids"], batch["attention_mask"])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), label_smoothing=0.1)
    assert torch.allclose(task.loss_of(batch, 0, 0), expected)
    assert task._count == int((batch["labels"] != -100).sum())


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="the tags have no names"):
        TokenClassificationTask(tagger(5))
    batch = {name: value[None] for name, value in rows(1, 3, 0)[0].items()}
    with pytest.raises(ValueError, match=r"needs logits \[B, N, 3\]"):
        TokenClassificationTask(tagger(5), labels=["O", "B-A", "I-A"]).loss_of(batch, 0, 0)
    with pytest.raises(ValueError, match="labels of shape"):
        TokenClassificationTask(tagger(3), labels=["O", "B-A", "I-A"]).loss_of(batch | {"labels": batch["index"]}, 0, 0)
    plain = TokenClassificationTask(tagger(3), labels=["NN", "VB", "O"])
    assert plain.monitor == "val_accuracy" and "val_f1" not in plain.validation_metrics
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "seqeval":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'attention-zoo\[seqeval\]'"):
        TokenClassificationTask(tagger(3), labels=["O", "B-A", "I-A"])
