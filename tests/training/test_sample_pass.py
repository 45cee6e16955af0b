"""Passes before the first step: the FLOPs are those of the matrix products, and gradients that vary are noticed."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_run import image_sets, standin
from torch import Tensor

from zoo.data.image.datamodule import ImageDataModule
from zoo.tasks.bf16_weights import BF16Weights
from zoo.tasks.classification import ClassificationTask
from zoo.training import banner
from zoo.training.sample_pass import SamplePass


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
    trainer = SimpleNamespace(accelerator="cuda", deterministic=deterministic, strategy="auto", precision="fp32")
    run: Any = SimpleNamespace(config=SimpleNamespace(trainer=trainer))
    monkeypatch.setattr(banner, "SamplePass", lambda task, sample, device, p: SamplePass(task, sample, "cpu", p))
    line = banner.describe_resume(run, task, 10, data)
    assert bool(line) is printed and (not printed or "deterministic=true makes it exact" in line)
    assert banner.describe_resume(run, task, 0, data) == ""
