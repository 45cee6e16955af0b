"""Precision, recall and F1 of each class: the numbers of scikit-learn, a short table, files in the run folder."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from sklearn.metrics import classification_report
from tiny_run import tiny_run

from zoo.tasks.problem_types import Objective
from zoo.training.class_report import ClassReport


def report(predicted: torch.Tensor, labels: torch.Tensor, names: list[str]) -> ClassReport:
    metric = Objective().metrics("test", len(names))["counts"]
    metric.update(torch.nn.functional.one_hot(predicted, len(names)).float(), labels)
    return ClassReport.of(metric.compute(), names)


def printed(found: ClassReport) -> str:
    out = Console(file=io.StringIO(), width=100)
    found.print(out)
    return out.file.getvalue()  # type: ignore[attr-defined]


def test_the_numbers_are_those_of_scikit_learn() -> None:
    g = torch.Generator().manual_seed(0)
    labels, predicted = (torch.randint(0, 5, (200,), generator=g) for _ in range(2))
    predicted = torch.where(torch.rand(200, generator=g) < 0.6, labels, predicted)
    found = report(predicted, labels, list("abcde"))
    expected = classification_report(labels, predicted, target_names=list("abcde"), output_dict=True)
    for name, *scores, support in found.rows():
        row = expected[name]
        assert scores == pytest.approx([row["precision"], row["recall"], row["f1-score"]]) and support == row["support"]
    for mean in ("macro", "weighted"):
        row = expected[f"{mean} avg"]
        assert list(found.means()[mean].values()) == pytest.approx(
            [row["precision"], row["recall"], row["f1-score"]], abs=1e-6
        )


def test_a_class_without_items_does_not_count_in_the_means_and_is_not_printed() -> None:
    found = report(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), ["cat", "dog", "absent"])
    assert found.means()["macro"]["f1"] == pytest.approx(2 / 3, abs=1e-6)
    assert found.rows()[2] == ["absent", 0.0, 0.0, 0.0, 0] and "absent" not in printed(found)


def test_of_many_classes_the_worst_ten_are_printed() -> None:
    labels = torch.arange(40) % 20
    predicted = torch.where(labels < 3, 19, labels)
    text = printed(report(predicted, labels, [f"class{i}" for i in range(20)]))
    assert "the 10 worst of 20 classes" in text and len(text.splitlines()) == 13
    assert all(f"class{i} " in text for i in (0, 1, 2, 19)) and "macro" in text and "weighted" in text


def test_names_are_printed_as_they_are() -> None:
    text = printed(report(torch.tensor([0, 1]), torch.tensor([0, 1]), ["[red]x[/red]", "a\x1b[31m" + "b" * 60]))
    assert "[red]x[/red]" in text and "\x1b[31m" not in text and "b" * 40 not in text


def test_a_run_writes_its_report_and_its_confusion_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tiny_run(tmp_path / "run", "steps=4")
    with open(tmp_path / "run" / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list("abcd") and sum(int(row["support"]) for row in rows) == 12
    with open(tmp_path / "run" / "confusion.csv", newline="") as file:
        matrix = list(csv.reader(file))
    assert matrix[0] == ["true class", *"abcd"] and sum(int(n) for row in matrix[1:] for n in row[1:]) == 12
    right = sum(int(row[1 + i]) for i, row in enumerate(matrix[1:]))
    assert right / 12 == pytest.approx(result.metrics["test_accuracy"], abs=1e-6)
    means = json.loads((tmp_path / "run" / "metrics.json").read_text())["means_over_classes"]
    assert means["macro"]["f1"] == pytest.approx(result.metrics["test_f1"], abs=1e-5)
    assert "precision  recall" in capsys.readouterr().out
