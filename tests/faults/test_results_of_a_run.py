"""The result of a run is that of its best step, its time that of the whole run, across kills and second thoughts."""

import csv
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tiny_run import Kill, assert_same, checkpoint, in_child, status, tiny_run

from zoo.tasks.classification import ClassificationTask
from zoo.training import fit
from zoo.training.callbacks import BestAndLastCheckpoints, TrainingTimer

SIX = ("steps=6", "validate_every=3", "checkpoint_every=0")
EACH = ("steps=6", "validate_every=3", "checkpoint_every=1")


class Scripted(L.Callback):
    """Logs a metric with these values, by step, which `scripted` makes the one that selects the best step."""

    def __init__(self, values: dict[int, float]):
        self.values = values

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.log("val_scripted", self.values[trainer.global_step])


def scripted(*args: Any, **kwargs: Any) -> ClassificationTask:
    task = ClassificationTask(*args, **kwargs)
    task.monitor = task.stop_monitor = "val_scripted"
    task.mode = task.stop_mode = "max"
    return task


class Tested(L.Callback):
    """Keeps the weights that were tested."""

    weights: dict[str, torch.Tensor]

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}


def test_the_best_of_two_validations_is_tested_though_it_came_first(tmp_path: Path) -> None:
    tested = Tested()
    tiny_run(tmp_path / "run", *SIX, callbacks=(Scripted({3: 0.75, 6: 0.25}), tested), task=scripted)
    best, last = (checkpoint(tmp_path / "run", name)["state_dict"] for name in ("best.ckpt", "last.ckpt"))
    name = "ema.head.weight"
    assert torch.equal(tested.weights[name], best[name]) and not torch.equal(best[name], last[name])
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (written["best_step"], written["best_val_scripted"], written["steps"]) == (3, 0.75, 6)


def last_row_seconds(folder: Path) -> float:
    with open(folder / "metrics.csv", newline="") as file:
        return float(list(csv.DictReader(file))[-1]["seconds"])


def test_the_seconds_are_those_of_the_run_and_not_of_its_best_checkpoint(tmp_path: Path) -> None:
    result = tiny_run(tmp_path / "run", *SIX, callbacks=(Scripted({3: 0.9, 6: 0.1}),), task=scripted)
    assert result.seconds >= last_row_seconds(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["seconds"] == result.seconds


def test_the_seconds_before_a_kill_count(tmp_path: Path) -> None:
    assert in_child(tiny_run, tmp_path / "run", *SIX, callbacks=(Kill(5),)) == -9
    add_seconds(tmp_path / "run", 1000)
    result = tiny_run(tmp_path / "run", *SIX)
    assert 1000 < result.seconds < 2000 and last_row_seconds(tmp_path / "run") > 1000


def test_the_seconds_of_a_run_killed_after_its_last_step_count(tmp_path: Path) -> None:
    assert in_child(tiny_run, tmp_path / "run", *SIX, callbacks=(Kill(6, "on_fit_end"),)) == -9
    add_seconds(tmp_path / "run", 1000)
    assert 1000 < tiny_run(tmp_path / "run", *SIX).seconds < 2000


def add_seconds(folder: Path, seconds: float) -> None:
    """Let the part of a run that its last checkpoint holds have taken longer."""
    state = checkpoint(folder, "last.ckpt")
    state["callbacks"][TrainingTimer(1).state_key]["seconds"] += seconds
    torch.save(state, folder / "checkpoints" / "last.ckpt")


# --- early stopping ---

ONCE_GOOD = {1: 0.9, 2: 0.8, 3: 0.7, 4: 0.6, 5: 0.5, 6: 0.4, 7: 0.3, 8: 0.2}
EIGHT = ("steps=8", "validate_every=1", "checkpoint_every=0")


def patient_run(folder: Path, patience: int, *callbacks: L.Callback) -> None:
    fit.BestAndLastCheckpoints = lambda *args: BestAndLastCheckpoints(*args[:-1], patience)
    tiny_run(folder, *EIGHT, callbacks=(*callbacks, Scripted(ONCE_GOOD)), task=scripted)


def test_the_early_stopping_count_survives_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert in_child(patient_run, folder, 3, Kill(3)) == -9
    assert checkpoint(folder, "last.ckpt")["global_step"] == 3
    assert in_child(patient_run, folder, 3) == 0
    written = json.loads((folder / "metrics.json").read_text())
    assert (written["steps"], written["best_step"], written["finished"]) == (4, 1, True)


def test_a_run_killed_after_it_stopped_early_trains_no_further(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert in_child(patient_run, folder, 2, Kill(3, "on_fit_end")) == -9
    assert in_child(patient_run, folder, 2) == 0
    assert json.loads((folder / "metrics.json").read_text())["steps"] == 3


# --- a kill between the two checkpoints, and a second signal ---


def killed_while_copying(folder: Path) -> None:
    copy, calls = shutil.copyfile, []

    def kill(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        copy(*args)

    shutil.copyfile = kill
    improving(folder)


def improving(folder: Path) -> None:
    tiny_run(folder, "steps=6", "validate_every=2", callbacks=(Scripted({2: 0.1, 4: 0.2, 6: 0.3}),), task=scripted)


def test_last_is_never_newer_than_its_best(tmp_path: Path) -> None:
    """A kill between the writing of last.ckpt and best.ckpt: a last that names a best step has that checkpoint."""
    folder = tmp_path / "run"
    assert in_child(killed_while_copying, folder) == -9
    last, best = checkpoint(folder, "last.ckpt"), checkpoint(folder, "best.ckpt")
    assert last["callbacks"]["Checkpoints"]["best_step"] == best["global_step"] == last["global_step"] == 2
    assert in_child(improving, folder) == 0
    assert in_child(improving, tmp_path / "whole") == 0
    assert_same(tmp_path / "whole", folder)


class Signals(L.Callback):
    """Sends SIGINT to this process so many times within a step."""

    def __init__(self, count: int, step: int):
        self.count, self.step = count, step

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            for _ in range(self.count):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)  # until the handler has run


@pytest.fixture
def default_handler() -> Any:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("count", "step"), [(1, 5), (2, 4)])
def test_a_second_ctrl_c_interrupts_the_step(
    count: int, step: int, tmp_path: Path, default_handler: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    run: Callable[[], Any] = lambda: tiny_run(folder, *EACH, callbacks=(Signals(count, 4),))  # noqa: E731
    assert status(run) == 130
    assert checkpoint(folder, "last.ckpt")["global_step"] == step
    assert "run the same command again to resume" in capsys.readouterr().err
    tiny_run(folder, *EACH)
    tiny_run(tmp_path / "whole", *EACH)
    assert_same(tmp_path / "whole", folder)
