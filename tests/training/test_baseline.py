"""The baseline of a run: what simple models reach on its items, by their own laws and beside a run."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import assert_same, image_sets, tiny_run
from torch import Tensor

from zoo.data.audio.datamodule import AudioDataModule
from zoo.data.audio.dataset import AudioDataset, AudioSplits
from zoo.data.audio.tables import AudioClips
from zoo.data.datamodule import KeyedDataModule
from zoo.data.image.datamodule import ImageDataModule
from zoo.data.splits import Splits
from zoo.data.text.datamodule import TextDataModule
from zoo.data.text.dataset import TextDataset
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.tokenizer_training import train as train_tokenizer
from zoo.tasks.problem_types import Objective, unit_of
from zoo.training import banner, baseline, fit
from zoo.training.baseline import Baseline, BaselineThread, compute, start_baseline
from zoo.training.run import Run


def texts(rows: list[tuple[Any, Any]], classes: list[str], kind: Any = "single_label_classification") -> TextDataModule:
    """Every third row is a test item, and every third of the others validates."""
    parts = [TextDataset([text for text, _ in part], torch.tensor([label for _, label in part])) for part in
             (rows[2::3], rows[1::3], rows[::3])]  # fmt: skip
    splits = Splits(parts[0], parts[2], "rows", True, "a test", validation=parts[1], classes=classes, problem_type=kind)
    plain = [word for text, _ in rows for word in ([text] if isinstance(text, str) else text)]
    return TextDataModule(splits, train_tokenizer("wordpiece", plain, 300, max_length=64), 4)


WORDS = ["the soup is good", "the bread is good", "the soup is bad", "the bread is bad"]


def test_words_that_decide_the_class_are_found() -> None:
    data = texts([(WORDS[i % 4] + f" {i}", i % 4 // 2) for i in range(90)], ["good", "bad"])
    found = compute(Objective(), data)
    assert (found.name, found.metric) == ("word counts + logistic regression", "accuracy")
    assert (found.score, found.validation_score) == (1.0, 1.0) and found.items == found.items_of == 30
    assert found.constant == "majority class" and found.constant_score == pytest.approx(0.5, abs=0.1)
    assert found.describe().startswith("word counts + logistic regression: accuracy 100.00% (validation), 100.00% (t")


def test_the_majority_class_where_words_say_nothing() -> None:
    data = texts([(f"text {i}", int(i % 10 == 0)) for i in range(90)], ["no", "yes"])
    found = compute(Objective(), data)
    assert found.name == found.constant and found.score == found.constant_score == pytest.approx(0.9)


@pytest.mark.parametrize("text", ["这个很好", "สวัสดีดี"], ids=["Chinese", "Thai"])
def test_scripts_without_spaces_are_counted_by_character(text: str) -> None:
    other = text[::-1][:2] + text[0]
    data = texts([((text if i % 2 else other) + str(i), i % 2) for i in range(60)], ["a", "b"])
    assert compute(Objective(), data).score == 1.0


def test_pairs_of_texts_count_each_side_apart() -> None:
    """Which side has which word decides; both sides together are always the same words."""
    data = texts([(("hot", "cold") if i % 2 else ("cold", "hot"), i % 2) for i in range(60)], ["a", "b"])
    assert compute(Objective(), data).score == 1.0


def test_several_labels_are_scored_one_by_one_and_a_constant_one_too() -> None:
    rows = [(f"{'red' if i % 2 else 'blue'} {'dog' if i % 4 > 1 else 'cat'}", [float(i % 2), float(i % 4 > 1), 0.0])
            for i in range(90)]  # fmt: skip
    found = compute(Objective("multi_label_classification"), texts(rows, list("xyz"), "multi_label_classification"))
    assert found.metric == "f1" and found.name == "word counts + logistic regression"
    assert found.score == pytest.approx(2 / 3, abs=0.01)  # the third label is never true: its F1 score is 0


def test_numbers_are_compared_in_their_own_unit() -> None:
    rows = [(f"{'long' if i % 2 else 'short'} text", 1000.0 + 50 * (i % 2)) for i in range(90)]
    data = texts(rows, ["length"], "regression")
    objective = Objective("regression", unit=unit_of(data.part("train").labels))
    found = compute(objective, data)
    assert (found.name, found.metric, found.constant) == ("word counts + ridge regression", "error", "mean")
    assert found.constant_score == pytest.approx(25, abs=1) and found.score < 5
    assert found.is_better_than(20.0) and not found.is_better_than(1.0)


def test_colors_of_images() -> None:
    data = ImageDataModule(image_sets().with_validation(0.2, 0), 8)  # classes differ in brightness
    found = compute(Objective(), data)
    assert found.name == "mean colors of a 4 x 4 grid + logistic regression" and found.score == 1.0


def test_images_are_pooled_as_one_by_one() -> None:
    data = ImageDataModule(image_sets(200).with_validation(0.2, 0), 8)
    rows = torch.arange(5, 140)
    grids = data.simple_features("train", rows)
    image = data.part("train").images[5].float()
    assert torch.allclose(grids[0].view(3, 4, 4)[:, 1, 2], image[:, 2:4, 4:6].mean((1, 2))) and len(grids) == len(rows)


def test_spectra_of_audio() -> None:
    t = torch.arange(4000) / 8000
    waves = [(t * 2 * np.pi * (300 if i % 2 else 1500) + i).sin() * (0.1 + i / 100) for i in range(24)]
    part = AudioDataset(AudioClips.of(waves, 8000), torch.arange(24) % 2)
    splits = AudioSplits(part, part, "tones", False, "a test", classes=["high", "low"])
    data = AudioDataModule(splits, SpectrogramFeatureExtractor(sampling_rate=8000, num_mel_bins=16), 4)
    assert data.simple_features("test", torch.tensor([3, 5])).shape == (2, 32)
    found = compute(Objective(), data)
    assert found.name == "log mel statistics + logistic regression" and found.score == 1.0


def test_large_sets_are_sampled_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    data = texts([(WORDS[i % 4] + f" {i}", i % 4 // 2) for i in range(300)], ["good", "bad"])
    monkeypatch.setattr(baseline, "MAX_ITEMS", 40)
    found = compute(Objective(), data)
    assert found.items == 40 and "computed from 40 of 100 items" in found.describe()
    monkeypatch.setattr(baseline, "MAX_CHARACTERS", 20 * 20)
    assert 10 < compute(Objective(), data).items < 30


def test_items_without_features_have_the_majority_class() -> None:
    class Rows(KeyedDataModule):
        """A data module of one's own."""

    found = compute(Objective(), Rows(image_sets().with_validation(0.2, 0), 8))
    assert found.name == "majority class" and found.score == 0.25


def test_a_task_without_labels_has_no_baseline() -> None:
    assert start_baseline(object(), ImageDataModule(image_sets(), 8)) is None  # type: ignore[arg-type]


def test_a_fault_is_named_and_the_run_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageDataModule, "simple_features", lambda *_: 1 / 0)
    thread = BaselineThread(Objective(), ImageDataModule(image_sets(), 8))
    assert thread.wait() is None
    assert thread.describe() == "not computed: ZeroDivisionError: division by zero"
    assert thread.as_dict() == {"problem": thread.problem}


def test_the_time_limit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.linear_model  # noqa: F401  its import takes longer than the limit

    release = threading.Event()
    monkeypatch.setattr(baseline, "MAX_SECONDS", 0.2)
    monkeypatch.setattr(baseline, "LONGEST", 2)

    def no_features_until_then(*_: object) -> None:
        release.wait()

    monkeypatch.setattr(ImageDataModule, "simple_features", no_features_until_then)
    thread = BaselineThread(Objective(), ImageDataModule(image_sets(), 8))
    assert thread.describe(0.0) == "being computed; shown when it is known" and not thread.is_described
    began = time.monotonic()
    assert thread.as_dict() == {"problem": "not computed within 0.2 s"}
    assert time.monotonic() - began > 0.3, "this process computes nothing meanwhile, as on a busy CPU"
    assert thread.describe(0.0) == "not computed within 0.2 s" and thread.is_described
    release.set()
    thread._thread.join(20)
    assert thread.wait() is not None, "a thread that waits for a busy CPU has its baseline later"
    with pytest.raises(TimeoutError, match="the limit is 0 s of CPU time"):
        compute(Objective(), texts([(WORDS[i % 4], i % 2) for i in range(30)], ["a", "b"]), limit=0.0)


def test_no_random_number_of_the_run_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "MAX_ITEMS", 20)  # a sample of the rows
    data = texts([(WORDS[i % 4] + f" {i}", i % 4 // 2) for i in range(90)], ["good", "bad"])
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first, second = compute(Objective(), data), compute(Objective(), data)
    assert first == second
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # type: ignore[index]


def test_a_run_computes_the_same_with_and_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The baseline is late here: known after the banner, before the first step."""
    banner_is_printed = threading.Event()

    def computed(*args: Any) -> Baseline:
        banner_is_printed.wait(60)
        return compute(*args)

    def print_banner(run: Run, *args: Any) -> float | None:
        seconds = banner.print_banner(run, *args)
        banner_is_printed.set()
        assert run.baseline is None or run.baseline.wait()
        return seconds

    monkeypatch.setattr(banner, "BASELINE_SECONDS", 0.0)
    monkeypatch.setattr(baseline, "compute", computed)
    monkeypatch.setattr(fit, "print_banner", print_banner)
    tiny_run(tmp_path / "with", "monitor=f1")
    shown = capsys.readouterr().out
    tiny_run(tmp_path / "without", "monitor=f1", "baseline=false")
    assert_same(tmp_path / "with", tmp_path / "without")
    found = json.loads((tmp_path / "with" / "metrics.json").read_text())["baseline"]
    assert (found["metric"], found["name"], found["score"]) == (
        "f1",
        "mean colors of a 4 x 4 grid + logistic regression",
        1.0,
    )
    lines = [line.split(maxsplit=1)[1] for line in shown.splitlines() if line.startswith("baseline ")]
    assert lines == ["being computed; shown when it is known", lines[1], lines[1]]  # the banner, a step, the end
    assert "f1 100.00% (validation)" in lines[1]
    assert "baseline" not in capsys.readouterr().out
    assert json.loads((tmp_path / "without" / "metrics.json").read_text())["baseline"] is None


def test_only_the_numbers_of_the_metric_are_percentages() -> None:
    found = Baseline("mean", "error", 12.5, 13.0, 5, 5, "min", "mean", 12.5, 13.0)
    assert found.describe() == "mean: error 13.0000 (validation), 12.5000 (test)"


def test_more_classes_shrink_the_sample_and_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(baseline, "MAX_SCORES", 120)
    real = TextDataModule.simple_features
    monkeypatch.setattr(TextDataModule, "simple_features", lambda *args: seen.append(args[2]) or real(*args))
    data = texts([(f"{WORDS[i % 4]} {i}", i % 4) for i in range(300)], list("abcd"))
    assert compute(Objective(), data).items_of == 100
    assert len(seen[0]) == 30


@pytest.mark.parametrize(("metric", "compared"), [("f1", "f1"), ("loss", "accuracy"), ("", "accuracy")])
def test_the_metric_that_the_run_monitors_is_compared(metric: str, compared: str) -> None:
    data = texts([(f"text {i}", int(i % 10 == 0)) for i in range(90)], ["no", "yes"])
    found = compute(Objective(), data, metric)
    assert found.metric == compared
    expected = 0.9 / 1.9 if compared == "f1" else 0.9  # the mean over the classes, one of which is never predicted
    assert found.constant_score == pytest.approx(expected, abs=1e-4)
