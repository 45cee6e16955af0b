"""The option `calibration=temperature` of a run: fitted on the validation items of the best checkpoint, and said."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_run import tiny_run

from zoo.tasks import ClassificationTask
from zoo.training.parse import SettingsError


def test_a_run_fits_a_temperature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = []

    def task(*args: Any, **kwargs: Any) -> ClassificationTask:
        tasks.append(ClassificationTask(*args, **kwargs))
        return tasks[-1]

    plain = tiny_run(tmp_path / "plain", "steps=8", "lr=3e-2")
    result = tiny_run(tmp_path / "run", "steps=8", "lr=3e-2", "calibration=temperature", task=task)
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    found = written["calibration"]
    assert found["temperature"] == tasks[0].temperature > 0 and "temperature" in capsys.readouterr().out
    assert result.metrics["test_accuracy"] == plain.metrics["test_accuracy"]
    assert (result.metrics["test_loss"] != plain.metrics["test_loss"]) == (found["temperature"] != 1.0)
    validation = written["validation"]
    assert validation["val_calibration_error"] == pytest.approx(found["val_calibration_error_before"], abs=1e-5)
    assert validation["val_accuracy"] == pytest.approx(written["best_val_accuracy"], abs=1e-6)


def test_a_temperature_is_not_fitted_on_the_test_set(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="this run validates on the test set"):
        tiny_run(tmp_path / "run", "steps=2", "calibration=temperature", "val_fraction=0")


def test_a_regression_has_no_temperature(tmp_path: Path) -> None:
    def regression(model: Any, **kwargs: Any) -> ClassificationTask:
        return ClassificationTask(model, problem_type="regression", **kwargs | {"label_smoothing": 0.0})

    with pytest.raises(SettingsError, match="a regression has no probabilities"):
        tiny_run(tmp_path / "run", "steps=2", "calibration=temperature", task=regression)
