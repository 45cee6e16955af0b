"""How a run ends before its time: Ctrl-C, SIGTERM, its budget, a loss that is no number. And what it leaves behind."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from tiny_run import assert_same, checkpoint, in_child, metrics, tiny_run

import zoo
from zoo.tasks import ClassificationTask, ContrastiveTask, NonFiniteLoss
from zoo.training.callbacks import BestAndLastCheckpoints, is_step_end, monitors
from zoo.training.fit import prepare_model
from zoo.training.main import _ended
from zoo.training.parse import SettingsError
from zoo.training.run_dir import RunError, open_run
from zoo.training.stopping import StopOnSignalOrTime, TrainingInterrupted


class Signal(L.Callback):
    """Sends a signal to its own process in the middle of a step."""

    def __init__(self, number: int, step: int):
        self.number, self.step = number, step

    def on_before_optimizer_step(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step(tmp_path: Path, number: int, capsys: pytest.CaptureFixture) -> None:
    before = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted) as error:
        tiny_run(tmp_path / "run", "steps=8", "checkpoint_every=0", callbacks=(Signal(number, 4),))
    assert error.value.step == 5 and signal.getsignal(number) is before
    assert checkpoint(tmp_path / "run", "last.ckpt")["global_step"] == 5
    assert _ended(error.value) == 130
    assert "step 5" in capsys.readouterr().err
    tiny_run(tmp_path / "run", "steps=8", "checkpoint_every=0")
    assert "resuming at step 5" in capsys.readouterr().out
    tiny_run(tmp_path / "other", "steps=8", "checkpoint_every=0")
    assert_same(tmp_path / "other", tmp_path / "run")


def test_the_budget_stops_and_never_shapes_the_schedule(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "run"
    result = tiny_run(folder, "steps=400", "max_minutes=0.001")
    assert 0 < result.steps < 400 and not result.finished
    written = json.loads((folder / "metrics.json").read_text())
    assert (written["finished"], written["steps"], written["planned_steps"]) == (False, result.steps, 400)
    assert "time budget used up" in capsys.readouterr().out
    rows = [row for row in metrics(folder) if row["lr"]]
    last = float(rows[-1]["lr"])
    assert last > 1e-4 or result.steps > 300  # the cosine's end is far away
    tiny_run(folder, "steps=400", "max_minutes=0.001")
    assert "resuming at step" in capsys.readouterr().out


def test_a_finished_run_says_so_and_the_next_is_a_new_one(tmp_path: Path) -> None:
    result = tiny_run(tmp_path / "run", "steps=4")
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written["finished"] and written["steps"] == 4 and written["seed"] == 0 and written["real"] is False
    assert written["data"] == "noise" and written["result"]["test_accuracy"] == result.metrics["test_accuracy"]
    assert written["seconds"] > 0
    tiny_run(tmp_path / "run", "steps=4", "lr=2e-2")
    assert (tmp_path / "run-2" / "metrics.json").exists()
    assert "synthetic data" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_changed_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        tiny_run(tmp_path / "run", "steps=8", callbacks=(Signal(signal.SIGINT, 1),))
    with pytest.raises(RunError, match=r"optim\.lr: 0\.01 there, 0\.5 here"):
        tiny_run(tmp_path / "run", "steps=8", "lr=0.5")


class FakeTrainer:
    """What the callbacks of a run read of a trainer, and its checkpoints, which only have the step."""

    sanity_checking, is_global_zero, world_size, max_steps, should_stop, global_step = False, True, 1, 100, False, 0
    strategy = None

    def __init__(self, ready: int = 1, accumulate: int = 1) -> None:
        self.state, self.callback_metrics, self.accumulate_grad_batches = SimpleNamespace(fn="fit"), {}, accumulate
        progress = SimpleNamespace(current=SimpleNamespace(ready=ready))
        self.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))

    def save_checkpoint(self, file: Path) -> None:
        file.write_text(str(self.global_step))


@pytest.mark.parametrize(("mode", "best"), [("max", 3), ("min", 2)])
def test_the_best_checkpoint_is_that_of_the_greatest_or_of_the_least_metric(
    tmp_path: Path, mode: str, best: int
) -> None:
    callback, trainer = BestAndLastCheckpoints(tmp_path, 0, 1, "val", mode), FakeTrainer()
    for trainer.global_step, value in enumerate((0.5, 0.4, 0.6, 0.5), 1):
        trainer.callback_metrics["val"] = torch.tensor(value)
        callback.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert callback.best_step == best and (tmp_path / "best.ckpt").read_text() == str(best)
    assert callback.worse == 4 - best and (tmp_path / "last.ckpt").read_text() == "4"


def test_early_stopping_looks_at_the_loss_while_the_main_metric_selects(tmp_path: Path) -> None:
    callback = BestAndLastCheckpoints(tmp_path, 0, 1, "val_accuracy", "max", "val_loss", "min", 2)
    trainer = FakeTrainer()
    scores = ((0.5, 1.0), (0.6, 0.9), (0.9, 0.95), (0.8, 0.97))
    for trainer.global_step, (accuracy, loss) in enumerate(scores, 1):
        trainer.callback_metrics = {"val_accuracy": torch.tensor(accuracy), "val_loss": torch.tensor(loss)}
        assert not trainer.should_stop
        callback.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert trainer.should_stop and callback.worse == 2 and callback.best_step == 3
    resumed = BestAndLastCheckpoints(tmp_path, 0, 1, "val_accuracy", "max", "val_loss", "min", 2)
    resumed.load_state_dict(callback.state_dict())
    assert resumed.stop_best == pytest.approx(0.9) and resumed.stopped_early


def test_the_lower_loss_decides_between_equal_metrics(tmp_path: Path) -> None:
    callback = BestAndLastCheckpoints(tmp_path, 0, 1, "val_accuracy", "max", "val_loss", "min")
    trainer = FakeTrainer()
    for trainer.global_step, (accuracy, loss) in enumerate(((0.9, 0.5), (0.9, 0.3), (0.9, 0.4), (0.8, 0.1)), 1):
        trainer.callback_metrics = {"val_accuracy": torch.tensor(accuracy), "val_loss": torch.tensor(loss)}
        resumed = BestAndLastCheckpoints(tmp_path, 0, 1, "val_accuracy", "max", "val_loss", "min")
        resumed.load_state_dict(callback.state_dict())
        callback = resumed
        callback.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert callback.best_step == 2 and (tmp_path / "best.ckpt").read_text() == "2"


def test_a_metric_that_is_nan_is_never_the_best(tmp_path: Path) -> None:
    callback, trainer = BestAndLastCheckpoints(tmp_path, 0, 1, "val", "min"), FakeTrainer()
    for trainer.global_step, value in enumerate((float("nan"), 0.7, float("nan")), 1):
        trainer.callback_metrics["val"] = torch.tensor(value)
        callback.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert callback.best_step == 2 and callback.worse == 1


def test_early_stopping_without_its_metric_is_an_error(tmp_path: Path) -> None:
    callback = BestAndLastCheckpoints(tmp_path, 0, 1, "val_accuracy", "max", "val_loss", "min", 2)
    trainer = FakeTrainer()
    trainer.callback_metrics["val_accuracy"] = torch.tensor(0.5)
    with pytest.raises(ValueError, match="early stopping looks at val_loss, which the validation has not logged"):
        callback.on_validation_end(trainer, None)  # type: ignore[arg-type]


def test_monitor_is_any_metric_of_the_validations_with_its_direction() -> None:
    task = ClassificationTask(torch.nn.Linear(2, 3))
    assert monitors(task) == ("val_accuracy", "max", "val_loss", "min")
    assert monitors(task, "f1") == ("val_f1", "max", "val_f1", "max")
    assert monitors(task, "val_loss") == ("val_loss", "min", "val_loss", "min")
    with pytest.raises(SettingsError, match=r"monitor=acuracy: .* log loss, accuracy, f1.*did you mean 'accuracy'"):
        monitors(task, "acuracy")
    number = ClassificationTask(torch.nn.Linear(2, 1), problem_type="regression")
    assert monitors(number, "r2")[:2] == ("val_r2", "max") and monitors(number, "error")[:2] == ("val_error", "min")
    pairs = ContrastiveTask(zoo.contrast(image="vit_cifar_tiny", text="bert_tiny"))
    assert monitors(pairs, "text_to_image_r5")[1] == "max" and monitors(pairs, "text_to_image_median_rank")[1] == "min"


def test_the_run_selects_by_the_monitor_of_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tiny_run(tmp_path / "run", "steps=4", "monitor=f1")
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written["monitor"] == written["stop_monitor"] == "val_f1" and 0 < written["best_val_f1"] <= 1
    assert "that of the highest val_f1" in capsys.readouterr().out
    logged = {name for row in metrics(tmp_path / "run") for name in row if name.startswith("val_")}
    assert logged == set(ClassificationTask(torch.nn.Linear(2, 4)).validation_metrics)


def test_a_run_that_stopped_early_and_was_killed_does_not_train_further(tmp_path: Path) -> None:
    callback, trainer = BestAndLastCheckpoints(tmp_path, 0, 1, early_stopping_patience=2), FakeTrainer()
    callback.load_state_dict({"best": 0.5, "best_step": 1, "worse": 2})
    callback.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert trainer.should_stop


def test_the_budget_is_in_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback, trainer = StopOnSignalOrTime(BestAndLastCheckpoints(tmp_path, 0, 1), minutes=2.0), FakeTrainer()
    clock = iter((1000.0, 1119.0, 1121.0))
    monkeypatch.setattr("zoo.training.stopping.time.monotonic", lambda: next(clock))
    callback.on_train_start(trainer, None)  # type: ignore[arg-type]
    try:
        for over in (False, True):
            callback.on_train_batch_end(trainer, None)  # type: ignore[arg-type]
            assert (trainer.should_stop, callback.out_of_time) == (over, over)
    finally:
        callback.on_fit_end(trainer, None)  # type: ignore[arg-type]


def test_validations_are_counted_in_steps_and_weights_stay_in_float32(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", "steps=8", "accumulate_grad_batches=2", "precision=bf16")  # an epoch has 4 steps
    assert [row["step"] for row in metrics(tmp_path / "run") if row["val_accuracy"]] == ["4", "8"]
    state = checkpoint(tmp_path / "run", "last.ckpt")["state_dict"]
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_gradient_checkpointing_reaches_the_model() -> None:
    task = ClassificationTask(zoo.create_model("vit_cifar_tiny", depth=1, seed=0))
    prepare_model(task, False)
    assert not task.model.blocks.checkpointing
    prepare_model(task, True)
    assert task.model.blocks.checkpointing
    with pytest.raises(ValueError, match="gradient_checkpointing=true: Linear does not support it"):
        prepare_model(ClassificationTask(torch.nn.Linear(2, 2)), True)


def test_a_step_ends_with_its_last_micro_batch() -> None:
    ends = [is_step_end(FakeTrainer(ready, accumulate=3)) for ready in range(1, 7)]  # type: ignore[arg-type]
    assert ends == [False, False, True, False, False, True]


def test_nan_stops_with_step_and_batch(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class Breaks(ClassificationTask):
        def loss_of(self, batch: Any, step: int, micro: int) -> torch.Tensor:
            return super().loss_of(batch, step, micro) * (float("nan") if step == 5 else 1.0)

    with pytest.raises(NonFiniteLoss, match="step 6") as error:
        tiny_run(tmp_path / "run", "steps=8", task=Breaks)
    saved = torch.load(tmp_path / "run" / "bad_batch_step6.pt", weights_only=True)
    assert saved["batch"]["pixel_values"].shape == (8, 3, 8, 8) and saved["step"] == 5
    state = checkpoint(tmp_path / "run", "last.ckpt")
    assert state["global_step"] == 4 and all(torch.isfinite(v).all() for v in state["state_dict"].values())
    assert _ended(error.value) == 1
    assert "bad_batch_step6.pt" in capsys.readouterr().err


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_a_run_clips_its_gradients(tmp_path: Path, clip: float) -> None:
    norms = []

    class Look(L.Callback):
        def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
            parameters = list(module.model.parameters())
            norm = lambda *_: norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in parameters])))  # noqa: E731
            trainer.optimizers[0].register_step_post_hook(norm)

    tiny_run(tmp_path / "run", "steps=3", f"gradient_clip_val={clip}", callbacks=(Look(),))
    assert len(norms) == 3
    assert max(norms) <= 0.01 * 1.001 if clip else min(norms) > 0.05


def test_a_further_logger_by_its_name(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    tiny_run(tmp_path / "run", "steps=2", "logger=TensorBoardLogger")
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
    with pytest.raises(SettingsError, match="did you mean 'TensorBoardLogger'"):
        tiny_run(tmp_path / "other", "steps=2", "logger=TensorboardLogger")


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = torch.save, []

    def full(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(path)
        if len(calls) == 2:
            path.write(b"half")
            raise OSError(28, "No space left on device")
        real(value, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        tiny_run(tmp_path / "run", "steps=8")
    monkeypatch.undo()
    assert checkpoint(tmp_path / "run", "last.ckpt")["global_step"] == 2
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["last.ckpt"]


def test_checkpoints_run_no_code(tmp_path: Path) -> None:
    from zoo.training.checkpoint_files import AtomicCheckpointIO

    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "evil"),))

    torch.save({"state_dict": Evil()}, tmp_path / "x.ckpt")
    with pytest.raises(Exception, match="Weights only"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "x.ckpt", weights_only=False)
    assert not (tmp_path / "evil").exists()


def test_a_second_process_is_turned_away(tmp_path: Path) -> None:
    class Intrude(L.Callback):
        def on_train_start(self, *args: Any) -> None:
            assert in_child(tiny_run, tmp_path / "run", "steps=4") == 1
            assert open_run(tmp_path / "run", {}, "never").path.name == "run-2"

    tiny_run(tmp_path / "run", "steps=4", callbacks=(Intrude(),))


def test_callback_state_keeps_its_keys_in_checkpoints(tmp_path: Path) -> None:
    """Checkpoints from before the callbacks were renamed have their state under these keys."""
    tiny_run(tmp_path / "run", "steps=2")
    assert checkpoint(tmp_path / "run", "last.ckpt")["callbacks"].keys() == {"Clock", "Checkpoints"}
