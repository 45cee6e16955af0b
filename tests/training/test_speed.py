"""Use of the devices: shares of a step, memory, model FLOPs utilization."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_run import metrics, tiny_run

from zoo.training import callbacks, speed
from zoo.training.callbacks import TrainingTimer
from zoo.training.speed import PEAKS, TimedAugmentation, describe_parts, peak_flops
from zoo.utils.stopwatch import Stopwatch


def test_the_peak_is_that_of_the_longest_name_else_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"NVIDIA H100 80GB HBM3": 989, "NVIDIA H100 PCIe": 756, "NVIDIA GH200 480GB": 989, "NVIDIA L40S": 362,
             "NVIDIA L4": 121, "NVIDIA A100-SXM4-40GB": 312, "Tesla T4": 65, "NVIDIA A10G": 70, "NVIDIA H200": 989,
             "NVIDIA GeForce RTX 4090": 165, "NVIDIA RTX A6000": 155}  # fmt: skip
    assert {name: peak_flops(name) for name in names} == {name: 1e12 * peak for name, peak in names.items()}
    parts = list(PEAKS)
    assert all(long not in parts[i + 1 :] for i, short in enumerate(parts) for long in parts if short in long != short)
    monkeypatch.setattr(speed, "_measured_peak", lambda device: 7e12)
    assert peak_flops("Another GPU") == 7e12
    monkeypatch.undo()
    assert speed._measured_peak(torch.device("cpu"), size=64, repeats=2) > 1e6


def test_utilization_is_flops_times_speed_over_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = TrainingTimer(10)
    assert timer.use_of_gpu(100.0) == {"gpu_memory_gb": None, "mfu": None}
    timer.flops_per_item, timer.peak_flops = 2e9, 1e12
    monkeypatch.setattr(callbacks, "gpu_memory", lambda: 1.25)
    assert timer.use_of_gpu(100.0) == {"gpu_memory_gb": 1.25, "mfu": 0.2}
    assert timer.use_of_gpu(None)["mfu"] is None


def test_shares_and_speed_leave_out_the_first_step_and_validations(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(callbacks, "is_step_end", lambda trainer: True)
    timer = TrainingTimer(10)
    timer.parts["data"] = watch = Stopwatch()
    trainer: Any = SimpleNamespace(global_step=0)
    timer.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert timer.mean_items_per_second() is None and timer.shares() == {}
    for step in range(5):
        watch.time(lambda step=step: now.__setitem__(0, now[0] + (50.0 if step == 0 else 1.0)))
        trainer.global_step = step
        timer.on_before_optimizer_step(trainer, None, None)  # type: ignore[arg-type]
        now[0] += 3.0
        timer.on_train_batch_end(trainer, None)  # type: ignore[arg-type]
        timer.on_validation_start(trainer, None)  # type: ignore[arg-type]
        now[0] += 1000.0
        timer.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert timer.mean_items_per_second() == 2.5 and timer.shares() == {"data": 0.25}
    assert describe_parts({"data": 0.25, "augmentation": 0.02}) == ["data 25%"]


def test_rows_that_are_written_at_once_have_one_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    timer, trainer = TrainingTimer(10), SimpleNamespace(global_step=0)
    logger = callbacks.CsvLogger(tmp_path / "metrics.csv", timer)
    timer.on_train_start(trainer, None)  # type: ignore[arg-type]
    logger.log_metrics({"train_loss": 1.0}, 0)
    for step in (2, 3):
        now[0] += step
        trainer.global_step += step - 1
        timer.on_before_optimizer_step(trainer, None, None)  # type: ignore[arg-type]
        for row in range(2):
            logger.log_metrics({"train_loss": 1.0}, 10 * step + row)
    speeds = [row["items_per_second"] for row in logger.experiment.rows()]
    assert speeds[:3] == ["", "10", "10"] and float(speeds[3]) == float(speeds[4]) > 0


def test_augmentation_is_timed_in_training_alone() -> None:
    watch = Stopwatch()
    augment = TimedAugmentation(lambda batch, *, seed, step, train: (seed, step, train), watch)
    assert augment({}, seed=1, step=2, train=False) == (1, 2, False) and watch.seconds == 0.0
    assert augment({"x": torch.ones(1)}, seed=1, step=2, train=True) == (1, 2, True) and watch.seconds > 0.0


def test_a_row_of_metrics_does_not_ask_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("asked the driver"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert speed.gpu_memory() is None


def test_a_run_writes_them(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", "steps=6")
    result = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert result["items_per_second"] > 0 and result["mfu"] is None and result["gpu_memory_gb"] is None
    assert 0 < result["data_share"] < 1 and 0 < result["augmentation_share"] < 1
    assert "mfu" not in metrics(tmp_path / "run")[0]
