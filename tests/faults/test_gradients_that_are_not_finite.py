"""A gradient that is not finite never reaches the weights: its step is skipped, a bounded number of times."""

import json
import math
import os
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from fault_inputs import Feed
from ranks import ranks
from tiny_run import Kill, assert_same, checkpoint, in_child, metrics, standin, tiny_run
from torch import Tensor

from zoo.tasks import ClassificationTask, NonFiniteGradient, NonFiniteLoss
from zoo.tasks import loss_guard as guards
from zoo.tasks.config import OptimSettings
from zoo.tasks.loss_guard import LossGuard, MicroBatch

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
skipping = pytest.mark.filterwarnings("ignore:step .* is skipped")


class BadGradient(ClassificationTask):
    """The loss is finite, its gradient is not in some steps (of one rank): the root of zero has no slope."""

    def __init__(self, *args: Any, bad: Callable[[int], bool] = lambda step: step == 5, **options: Any):
        super().__init__(*args, **options)
        self.bad = bad

    def loss_of(self, batch: Any, step: int, micro: int) -> Tensor:
        loss = super().loss_of(batch, step, micro)
        return loss + (self.model.head.bias * 0).sum().sqrt() if self.bad(step) else loss


class Sgd(BadGradient):
    """An optimizer without fused kernels."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)


class Follow(L.Callback):
    """Weights, moving average and state of the optimizer after each step."""

    def __init__(self) -> None:
        self.states: list[list[Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        optimizer = [x for state in trainer.optimizers[0].state.values() for x in state.values() if x is not None]
        self.states.append([_whole(x) for x in (*module.state_dict().values(), *optimizer)])


def _whole(x: Tensor) -> Tensor:
    return (x.full_tensor() if hasattr(x, "full_tensor") else x).detach().clone()


def batches(count: int, rows: int = 4) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"pixel_values": torch.rand(rows, 3, 8, 8, generator=generator), "labels": torch.arange(rows) % 4}
        for _ in range(count)
    ]


def fit(task: L.LightningModule, folder: Path, steps: int, **trainer: Any) -> list[list[Tensor]]:
    follow = Follow()
    options = {"max_steps": steps, "accelerator": "cpu", "log_every_n_steps": 1, **QUIET, **trainer}
    L.Trainer(default_root_dir=folder, callbacks=[follow], **options).fit(task, Feed(batches(steps)))
    return follow.states


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@skipping
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("kind", [BadGradient, Sgd])
def test_the_step_is_skipped_and_training_continues(tmp_path: Path, kind: type, clip: float | None) -> None:
    task = kind(standin(), lr=1e-2, ema=0.9)
    states = fit(task, tmp_path, 8, gradient_clip_val=clip)
    assert [step for step in range(1, 8) if same(states[step - 1], states[step])] == [5]
    assert all(x.isfinite().all() for state in states for x in state)
    assert task.guard.skipped == 1
    saved = torch.load(tmp_path / "bad_batch_step6.pt", weights_only=True)
    assert torch.equal(saved["batch"]["pixel_values"], batches(8)[5]["pixel_values"])
    assert saved["step"] == 5 and math.isnan(saved["gradient_norm"]) and math.isfinite(saved["loss"])


@skipping
def test_clipping_by_value_lets_none_through_either(tmp_path: Path) -> None:
    states = fit(BadGradient(standin(), lr=1e-2), tmp_path, 8, gradient_clip_val=0.1, gradient_clip_algorithm="value")
    assert same(states[4], states[5]) and not same(states[5], states[6])


@skipping
def test_the_first_step_of_all(tmp_path: Path) -> None:
    task = BadGradient(standin(), lr=1e-2, ema=0.9, bad=lambda step: step == 0)
    before = [x.clone() for x in task.state_dict().values()]
    states = fit(task, tmp_path, 2)
    assert same(before, states[0][: len(before)]) and not same(states[0], states[1])


@skipping
def test_accumulation_saves_all_micro_batches(tmp_path: Path) -> None:
    task = BadGradient(standin(), lr=1e-2, bad=lambda step: step == 0)
    fit(task, tmp_path, 3, accumulate_grad_batches=3, max_steps=1)
    saved = torch.load(tmp_path / "bad_batch_step1.pt", weights_only=True)
    found = [saved["batch"], *(further["batch"] for further in saved["further"])]
    assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(found, batches(3), strict=True))


@skipping
def test_too_many_stop_the_training(tmp_path: Path) -> None:
    task = BadGradient(standin(), lr=1e-2, bad=lambda step: True)
    before = [x.clone() for x in task.state_dict().values()]
    with pytest.raises(NonFiniteGradient, match="not finite in 11 of 11 steps") as error:
        fit(task, tmp_path, 20)
    assert same(before, list(task.state_dict().values()))
    assert error.value.file.exists() and len(list(tmp_path.glob("bad_batch_*"))) == 11


def test_a_long_run_may_skip_one_step_in_a_hundred(tmp_path: Path) -> None:
    guard = LossGuard()
    guard.folder = tmp_path
    micro = [MicroBatch(torch.tensor(1.0), torch.tensor(1.0), {"x": torch.zeros(1)}, 0)]
    with pytest.warns(UserWarning, match="is skipped"):
        for step in range(0, 5000, 100):
            guard.watch(torch.tensor(1.0), torch.tensor(float("inf")), step + 99, micro)
    assert guard.skipped == 50 and len(list(tmp_path.iterdir())) == 10  # the disk does not fill
    with pytest.raises(NonFiniteGradient):
        guard.watch(torch.tensor(1.0), torch.tensor(float("nan")), 5000, micro)


# --- in a run ---------------------------------------------------------------------------------------------------------


@skipping
def test_metrics_count_them_and_a_resumed_run_is_the_same(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    words, task = ("steps=10",), partial(BadGradient, bad=lambda step: step in (4, 8))
    assert in_child(tiny_run, one, *words, task=task) == 0
    assert in_child(tiny_run, other, *words, task=task, callbacks=(Kill(7),)) == -9
    assert in_child(tiny_run, other, *words, task=task) == 0
    assert_same(one, other)
    assert [row["skipped_steps"] for row in metrics(one)] == [*"0000111122"]
    for folder in (one, other):
        assert json.loads((folder / "metrics.json").read_text())["skipped_steps"] == 2
        assert checkpoint(folder, "last.ckpt")["skipped_steps"] == 2
        assert json.loads((folder / "metrics.json").read_text())["steps"] == 10  # the schedule moves on


# --- several processes ------------------------------------------------------------------------------------------------


def on_rank(rank: int, strategy: str, folder: Path, kind: type) -> Any:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", GROUP_RANK="0",
                      MASTER_ADDR="127.0.0.1", MASTER_PORT="1", TORCHELASTIC_RUN_ID="t")  # fmt: skip
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

    made = DDPStrategy() if strategy == "ddp" else ModelParallelStrategy(2, 1, save_distributed_checkpoint=False)
    task = kind(standin(), lr=1e-2, ema=0.9, bad=lambda step: step == 2 and rank == 1)
    try:
        states = fit(task, folder, 4, strategy=made, devices=2, use_distributed_sampler=False, gradient_clip_val=1.0)
    except NonFiniteLoss as error:
        return error.step, str(error)
    return [same(one, two) for one, two in pairwise(states)], task.guard.skipped, states


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_all_ranks_skip_together(tmp_path: Path, strategy: str) -> None:
    (skips, count, states), (skips1, count1, states1) = ranks(2, on_rank, strategy, tmp_path, BadGradient)
    assert skips == skips1 == [False, True, False] and count == count1 == 1
    assert same(states[-1], states1[-1]) and all(x.isfinite().all() for x in states[-1])
    assert {file.name for file in tmp_path.iterdir()} == {"bad_batch_step3.pt", "bad_batch_step3_rank1.pt"}


class BadLoss(BadGradient):
    """The loss is infinite in some steps (of one rank)."""

    def loss_of(self, batch: Any, step: int, micro: int) -> Tensor:
        return ClassificationTask.loss_of(self, batch, step, micro) + (float("inf") if self.bad(step) else 0.0)


def test_all_ranks_stop_together_at_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    (step, message), (step1, message1) = ranks(2, on_rank, "ddp", tmp_path, BadLoss)
    assert step == step1 == 2
    assert message.startswith("the loss of another process is inf") and message1.startswith("the loss is inf")
    assert [file.name for file in tmp_path.iterdir()] == ["bad_batch_step3_rank1.pt"]


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_a_loss_that_is_not_finite_stops_at_once(tmp_path: Path, value: str) -> None:
    class Breaks(ClassificationTask):
        def loss_of(self, batch: Any, step: int, micro: int) -> Tensor:
            return super().loss_of(batch, step, micro) + (float(value) if step == 1 else 0.0)

    task = Breaks(standin(), lr=1e-2)  # the gradient is finite
    with pytest.raises(NonFiniteLoss, match=f"the loss is {value} at step 2") as error:
        fit(task, tmp_path, 4)
    assert torch.load(error.value.file, weights_only=True)["step"] == 1


# --- the queue on a GPU -----------------------------------------------------------------------------------------------


class Event:
    """A torch.cuda.Event: the values are copied when it is synchronized, not before."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.host = values, torch.zeros_like(values)

    def synchronize(self) -> None:
        self.host.copy_(self.values)


@pytest.fixture
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LossGuard:
    """A guard of losses on a GPU."""

    def later(values: Tensor) -> tuple[Tensor, Event]:
        event = Event(values)
        return event.host, event

    monkeypatch.setattr(guards, "_to_cpu", later)
    guard = LossGuard(behind=4)
    guard.folder = tmp_path
    return guard


def watch(guard: LossGuard, step: int, loss: float = 1.0, norm: float = 1.0) -> None:
    micro = MicroBatch(torch.tensor(loss), torch.tensor(1.0), {"x": torch.tensor([step])}, 0)
    guard.watch(torch.tensor(loss), torch.tensor(norm), step, [micro])


def test_losses_of_a_gpu_are_checked_four_steps_later(guard: LossGuard) -> None:
    for step in range(3):
        watch(guard, step)
    watch(guard, 3, loss=float("inf"))
    for step in range(4, 7):
        watch(guard, step)
    with pytest.raises(NonFiniteLoss, match="the loss is inf at step 4") as error:
        watch(guard, 7)
    assert torch.load(error.value.file, weights_only=True)["batch"]["x"].item() == 3
    guard.drain()  # nothing is left


def test_losses_of_a_gpu_are_checked_before_a_checkpoint(guard: LossGuard) -> None:
    watch(guard, 0)
    watch(guard, 1, loss=float("nan"))
    with pytest.raises(NonFiniteLoss, match="step 2"):
        guard.drain()


def test_gradients_of_a_gpu_are_counted_later(guard: LossGuard) -> None:
    watch(guard, 0, norm=float("nan"))
    for step in range(1, 4):
        watch(guard, step)
    assert guard.skipped == 0
    with pytest.warns(UserWarning, match="step 1: the norm of the gradient is nan"):
        watch(guard, 4)
    assert guard.skipped == 1 and (guard.folder / "bad_batch_step1.pt").exists()


@skipping
def test_rows_of_a_gpu_are_written_after_their_check_and_in_order(guard: LossGuard) -> None:
    rows: list[tuple[int, float, int]] = []
    for step in range(6):
        watch(guard, step, loss=float(step), norm=float("inf") if step == 1 else 1.0)
        guard.after_check(lambda loss, step=step: rows.append((step, loss, guard.skipped)))  # type: ignore[misc]
    assert rows == [(0, 0.0, 0), (1, 1.0, 1)]
    watch(guard, 6, loss=float("nan"))
    with pytest.raises(NonFiniteLoss, match="step 7"):
        guard.drain()  # before a checkpoint
    assert rows == [(step, float(step), int(step > 0)) for step in range(6)]


@pytest.mark.parametrize("killed", [0, 5, 7])
def test_metrics_of_a_gpu_are_complete_though_they_arrive_later(
    killed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`metrics.csv` is that of a CPU, also after a kill: rows are written before a checkpoint, or again."""
    words = ("steps=11", "log_every=1", "validate_every=4", "checkpoint_every=3")
    tiny_run(tmp_path / "cpu", *words)

    def later(values: Tensor) -> tuple[Tensor, Event]:
        event = Event(values)
        return event.host, event

    monkeypatch.setattr(guards, "_to_cpu", later)
    if killed:
        in_child(partial(tiny_run, tmp_path / "gpu", *words, callbacks=(Kill(killed),)))
        assert len(metrics(tmp_path / "gpu")) < 11
    tiny_run(tmp_path / "gpu", *words)
    cpu, gpu = metrics(tmp_path / "cpu"), metrics(tmp_path / "gpu")
    assert gpu == cpu and len(gpu) == 11


def test_half_precision_with_a_gradient_scaler(tmp_path: Path) -> None:
    """The scaler skips the step, the moving average with it; this is how it finds its scale, so nobody is warned."""
    from lightning.pytorch.plugins import MixedPrecision

    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0))
    task = BadGradient(standin(), lr=1e-2, ema=0.9, optim=OptimSettings(warmup=0.0), bad=lambda step: step == 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="step .* is skipped")
        states = fit(task, tmp_path, 4, plugins=[plugin], gradient_clip_val=1.0)
    assert [same(one, two) for one, two in pairwise(states)] == [False, True, False]
    assert task.guard.skipped == 1 and not list(tmp_path.iterdir())


def test_half_precision_that_finds_no_scale_stops(tmp_path: Path) -> None:
    from lightning.pytorch.plugins import MixedPrecision

    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(NonFiniteGradient, match="11 of 11 steps"):
        fit(BadGradient(standin(), lr=1e-2, bad=lambda step: True), tmp_path, 20, plugins=[plugin])
