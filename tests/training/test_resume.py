"""Killed at any step, then the same command: bit-equal losses and weights, as if nothing had happened."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tiny_run import Kill, assert_same, checkpoint, in_child, metrics, tiny_run

from zoo.tasks import ClassificationTask
from zoo.training.run_dir import RunError

SEVEN = ("steps=14",)  # epochs of 4 steps: three validations at the ends of epochs, one at the end


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert in_child(tiny_run, folder, *SEVEN) == 0
    return folder


def test_the_undisturbed_run(whole: Path) -> None:
    rows = metrics(whole)
    assert [row["step"] for row in rows] == [str(i) for i in range(1, 15)]
    assert [row["step"] for row in rows if row["val_accuracy"]] == ["4", "8", "12", "14"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    state = checkpoint(whole, "last.ckpt")["state_dict"]
    assert {key.partition(".")[0] for key in state} == {"model", "ema"}
    assert not torch.equal(state["model.head.weight"], state["ema.head.weight"])


@pytest.mark.parametrize(("step", "where"), [
    (0, "on_train_batch_start"),        # before anything was saved
    (6, "on_train_batch_end"),          # right before a checkpoint
    (7, "on_before_optimizer_step"),
    (8, "on_validation_start"),         # the epoch's last step is done, its validation is not
    (8, "on_validation_epoch_end"),
    (9, "on_train_batch_start"),        # one step into the third epoch
    (14, "on_fit_end"),
])  # fmt: skip
def test_killed_and_started_again(whole: Path, tmp_path: Path, step: int, where: str) -> None:
    folder = tmp_path / "run"
    assert in_child(tiny_run, folder, *SEVEN, callbacks=(Kill(step, where),)) == -9
    assert not (folder / "metrics.json").exists()
    assert in_child(tiny_run, folder, *SEVEN) == 0
    assert_same(whole, folder)
    assert not (tmp_path / "run-2").exists()


def test_killed_again_and_again_with_workers(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for step in (3, 9):
        assert in_child(tiny_run, folder, *SEVEN, "num_workers=2", callbacks=(Kill(step),)) == -9
    assert in_child(tiny_run, folder, *SEVEN, "num_workers=2") == 0
    assert_same(whole, folder)


def test_steps_after_the_last_checkpoint_are_logged_once(tmp_path: Path) -> None:
    words = ("steps=8", "checkpoint_every=0")  # after validations only: three steps are lost
    assert in_child(tiny_run, tmp_path / "run", *words, callbacks=(Kill(7, "on_train_batch_start"),)) == -9
    assert [row["step"] for row in metrics(tmp_path / "run")] == [str(step) for step in range(1, 8)]
    assert in_child(tiny_run, tmp_path / "run", *words) == 0
    assert [row["step"] for row in metrics(tmp_path / "run")] == [str(step) for step in range(1, 9)]


def test_accumulation_is_resumed_too(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert in_child(tiny_run, one, *SEVEN, "accumulate_grad_batches=2") == 0
    assert in_child(tiny_run, other, *SEVEN, "accumulate_grad_batches=2", callbacks=(Kill(7),)) == -9
    assert in_child(tiny_run, other, *SEVEN, "accumulate_grad_batches=2") == 0
    assert_same(one, other)


def test_bfloat16_weights_are_resumed_from_those_in_float32(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    words = (*SEVEN, "accumulate_grad_batches=2", "precision=bf16-master")
    assert in_child(tiny_run, one, *words) == 0
    assert in_child(tiny_run, other, *words, callbacks=(Kill(7),)) == -9
    assert in_child(tiny_run, other, *words) == 0
    assert_same(one, other)
    state = checkpoint(one, "last.ckpt")["state_dict"]
    assert {x.dtype for x in state.values()} == {torch.float32}
    assert any(not torch.equal(x, x.bfloat16().float()) for name, x in state.items() if name.startswith("model."))


class KillAtMicroBatch(L.Callback):
    """SIGKILL before the second micro-batch of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step and batch_idx % trainer.accumulate_grad_batches:
            os.kill(os.getpid(), signal.SIGKILL)


def test_accumulation_of_weighted_items_is_resumed_too(tmp_path: Path) -> None:
    """Each micro-batch has another sum of class weights; the run is killed within a step."""
    one, other = tmp_path / "one", tmp_path / "other"
    words = (*SEVEN, "accumulate_grad_batches=2", "mixup=0")
    weighted = partial(ClassificationTask, class_weights=torch.tensor([1.0, 2.7, 0.3, 9.1]))
    assert in_child(tiny_run, one, *words, task=weighted) == 0
    assert in_child(tiny_run, other, *words, task=weighted, callbacks=(KillAtMicroBatch(7),)) == -9
    assert in_child(tiny_run, other, *words, task=weighted) == 0
    assert_same(one, other)
    assert checkpoint(one, "last.ckpt")["items_per_micro_batch"] != 4.0


def test_a_checkpoint_of_another_model_is_one_error(tmp_path: Path) -> None:
    """As after an edit of the recipe, which no setting shows."""
    tiny_run(tmp_path / "run", *SEVEN, "max_minutes=0.0001")

    def edited(model: Any, **options: Any) -> ClassificationTask:
        model.head = torch.nn.Linear(model.head.in_features, model.head.out_features + 1)
        return ClassificationTask(model, **options)

    with pytest.raises(RunError, match=r"weights of another model \(head\.weight: .* there, .* here\)"):
        tiny_run(tmp_path / "run", *SEVEN, task=edited)
