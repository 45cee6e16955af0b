"""How a run starts: a batch that a small training set fills, and nothing left of a start that failed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import checkpoint, in_child, metrics, tiny_run

from zoo.tasks import ClassificationTask, NonFiniteLoss
from zoo.training.parse import SettingsError
from zoo.training.run_dir import RunError, RunFolder


def test_a_small_training_set_is_one_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """32 of the 40 images are trained on."""
    tiny_run(tmp_path / "run", "batch_size=64", "steps=3")
    said = capsys.readouterr()
    assert "batch_size 64 -> 32: the training set has 32 images" in said.err and "3 of 32 items (3 epochs)" in said.out
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["steps"] == 3
    assert "batch_size: 64" in (tmp_path / "run" / "config.yaml").read_text()  # so that the same command resumes


def test_a_small_batch_is_what_accumulation_divides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_run(tmp_path / "run", "batch_size=60", "accumulate_grad_batches=3", "steps=2")
    assert "batch_size 32 -> 30: the training set has 32 images" in capsys.readouterr().err
    assert checkpoint(tmp_path / "run", "last.ckpt")["global_step"] == 2
    assert [row["step"] for row in metrics(tmp_path / "run") if row["val_accuracy"]] == ["1", "2"]


# --- a start that fails ---


class Fails(ClassificationTask):
    """Fails in the loss of a step."""

    step = 0

    def loss_of(self, batch: Any, step: int, micro: int) -> torch.Tensor:
        if step == self.step and self._trainer is not None:  # not in the measurement of the banner
            raise RuntimeError("out of memory")
        return super().loss_of(batch, step, micro)


class FailsLater(Fails):
    step = 1


def test_an_error_before_the_first_step_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="monitor=x"):
        tiny_run(tmp_path / "runs" / "run", "monitor=x")
    with pytest.raises(RuntimeError, match="out of memory"):
        tiny_run(tmp_path / "runs" / "run", "steps=4", task=Fails)
    assert list((tmp_path / "runs").iterdir()) == []
    tiny_run(tmp_path / "runs" / "run", "steps=2")
    assert [file.name for file in (tmp_path / "runs").iterdir()] == ["run"]


def test_an_error_after_the_first_step_keeps_the_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        tiny_run(tmp_path / "run", "steps=4", task=FailsLater)
    assert (tmp_path / "run" / "config.yaml").exists()


def test_the_batch_of_a_loss_that_is_not_finite_is_kept(tmp_path: Path) -> None:
    class Breaks(ClassificationTask):
        def loss_of(self, batch: Any, step: int, micro: int) -> torch.Tensor:
            return super().loss_of(batch, step, micro) * float("nan")

    with pytest.raises(NonFiniteLoss):
        tiny_run(tmp_path / "run", "steps=1", task=Breaks)
    assert (tmp_path / "run" / "bad_batch_step1.pt").exists()


def test_a_folder_that_was_there_before_is_never_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(SettingsError):
        tiny_run(folder, "monitor=x")
    assert (folder / "config.yaml").exists()  # of the start before, which the next one takes up
    with pytest.raises(RuntimeError):
        tiny_run(folder, "steps=4", task=Fails)
    assert (folder / "config.yaml").exists()


def test_a_folder_with_other_files_is_never_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create({})
    (folder.path / "notes.txt").write_text("mine")
    folder.discard_if_new()
    assert (folder.path / "notes.txt").exists()
    (folder.path / "notes.txt").unlink()
    (folder.checkpoints / "last.ckpt").write_text("x")
    folder.discard_if_new()
    assert folder.last is not None
    folder.last.unlink()
    folder.discard_if_new()
    assert not folder.path.exists()


def test_the_folder_of_another_process_is_not_removed(tmp_path: Path) -> None:
    """It was created a moment ago, and holds nothing yet but what a start writes."""
    first = RunFolder(tmp_path / "run")
    first.create({})

    def second() -> None:
        other = RunFolder(tmp_path / "run")
        with pytest.raises(RunError, match="another process"):
            other.create({})
        other.discard_if_new()

    assert in_child(second) == 0 and (tmp_path / "run" / "config.yaml").exists()
    first.release()
