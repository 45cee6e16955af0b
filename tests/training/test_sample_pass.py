"""Passes before the first step: the FLOPs are those of the matrix products, and gradients that vary are noticed."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_run import image_sets, standin, tiny_run
from torch import Tensor

from zoo.data.image.datamodule import ImageDataModule
from zoo.parallel.config import PlanSettings
from zoo.tasks.bf16_weights import BF16Weights
from zoo.tasks.classification import ClassificationTask
from zoo.training import banner
from zoo.training.sample_pass import PASSES, SamplePass


def test_flops_are_those_of_the_matrix_products() -> None:
    """Twice the multiply-adds forward; backward the same for the weights and again for the inputs, except the first."""
    data = ImageDataModule(image_sets(), 8, seed=0)
    task = ClassificationTask(standin(), augment=data.augment)
    forward = [2 * a * b for a, b in ((192, 16), (16, 16), (16, 16), (16, 4))]
    counted = SamplePass(task, data.sample(), "cpu", "fp32").flops_per_item()
    assert counted == 3 * sum(forward) - forward[0]
    assert all(p.grad is None for p in task.parameters())
    for parameter in task.model.stem.parameters():
        parameter.requires_grad_(False)
    assert SamplePass(task, data.sample(), "cpu", "bf16").flops_per_item() == 3 * sum(forward) - 2 * forward[0]


def test_a_pass_with_bfloat16_weights_leaves_the_task_as_it_is() -> None:
    data = ImageDataModule(image_sets(), 8, seed=0)
    task = ClassificationTask(standin(), augment=data.augment)
    counted = SamplePass(task, data.sample(), "cpu", "bf16").flops_per_item()
    task.bf16_weights = BF16Weights(task.model)
    sample = SamplePass(task, data.sample(), "cpu", "bf16-master")
    assert sample.flops_per_item() == counted and sample.repeats()
    assert sample.task.bf16_weights is not task.bf16_weights and sample.task.bf16_weights.model is sample.task.model
    assert {p.dtype for p in [*task.parameters(), *sample.task.parameters()]} == {torch.float32}


class Vary(ClassificationTask):
    """The gradient of one weight differs in its last bits from pass to pass, as with atomic additions."""

    passes = 0

    def loss_of(self, batch: Any, step: int, micro: int) -> Tensor:
        self.passes += 1
        return super().loss_of(batch, step, micro) * (1 + 1e-6 * self.passes)


def test_a_pass_repeats_with_dropout_and_leaves_the_random_numbers_alone() -> None:
    data = ImageDataModule(image_sets(), 8, seed=0)
    before = torch.get_rng_state()
    assert SamplePass(ClassificationTask(standin(), augment=data.augment), data.sample(), "cpu", "fp32").repeats()
    assert not SamplePass(Vary(standin(), augment=data.augment), data.sample(), "cpu", "fp32").repeats()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind, deterministic, printed", [(Vary, False, True), (Vary, True, False),
                                                          (ClassificationTask, False, False)])  # fmt: skip
def test_the_banner_says_whether_a_resumed_run_is_exact(
    kind: type, deterministic: bool, printed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ImageDataModule(image_sets(), 8, seed=0)
    task = kind(standin(), augment=data.augment)
    trainer = SimpleNamespace(accelerator="cuda", deterministic=deterministic, strategy="auto", precision="fp32",
                              devices=1, num_nodes=1)  # fmt: skip
    run: Any = SimpleNamespace(config=SimpleNamespace(trainer=trainer, plan=PlanSettings()))
    monkeypatch.setattr(banner, "SamplePass", lambda task, sample, device, p: SamplePass(task, sample, "cpu", p))
    line = banner.describe_resume(run, task, 10, data)
    assert bool(line) is printed and (not printed or "deterministic=true makes it exact" in line)
    assert banner.describe_resume(run, task, 0, data) == ""


def test_the_time_of_a_pass_is_not_that_of_the_first_ones() -> None:
    data = ImageDataModule(image_sets(), 8, seed=0)
    sample, now = SamplePass(ClassificationTask(standin(), augment=data.augment), data.sample(), "cpu", "fp32"), [0.0]
    seconds = iter([8.0, 6.0, 4.0, 2.0, 4.0])

    def run() -> None:
        now[0] += next(seconds)

    sample._run = run  # type: ignore[method-assign]
    assert sample.seconds_per_item(lambda: now[0]) == 2.0 / sample.items and PASSES == 5


@pytest.mark.parametrize("computing", [False, True])
def test_the_expected_end_does_not_count_what_the_thread_of_the_baseline_takes(
    computing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ImageDataModule(image_sets(), 8, seed=0)
    clocks: list[Any] = []
    monkeypatch.setattr(SamplePass, "seconds_per_item", lambda self, clock: clocks.append(clock) or 1.0)
    t = SimpleNamespace(accelerator="cpu", precision="fp32", strategy="auto", validate_every=0, devices=1, num_nodes=1)
    run: Any = SimpleNamespace(
        config=SimpleNamespace(trainer=t, data=SimpleNamespace(batch_size=8), plan=PlanSettings()),
        data=SimpleNamespace(validation=6, test=6), baseline=SimpleNamespace(is_computing=computing),
    )  # fmt: skip
    task = ClassificationTask(standin(), augment=data.augment)
    assert banner.expected_seconds(run, task, 10, 5, data) == 10 * 8 + (2 * 6 + 6) / 3
    assert clocks == [time.thread_time if computing else time.perf_counter]


def test_the_banner_times_passes_after_it_has_waited_for_the_baseline(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.training.baseline import BaselineThread

    alive: list[bool] = []
    compute = BaselineThread._compute

    def slow(self: BaselineThread, *arguments: Any) -> None:
        time.sleep(0.3)
        compute(self, *arguments)

    timed = SamplePass.seconds_per_item

    def noted(self: SamplePass, clock: Any = time.perf_counter) -> float:
        alive.append(any(thread.name == "baseline" for thread in threading.enumerate()))
        return timed(self, clock)

    monkeypatch.setattr(BaselineThread, "_compute", slow)
    monkeypatch.setattr(SamplePass, "seconds_per_item", noted)
    tiny_run(tmp_path / "run", "log_every=50")
    assert alive == [False]
