"""Tasks whose model is cut into the stages of a pipeline: the steps of one process, checkpoints for any plan."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed.pipelining  # here and not in each child
from plan_fit import fit
from ranks import ranks

import zoo
from zoo.parallel import Plan
from zoo.parallel.shards import whole
from zoo.tasks import CausalLMTask, ClassificationTask, MaskedLMTask, initialize_mup
from zoo.tasks.base import Task
from zoo.tasks.config import OptimSettings

STEPS = 4
OPTIM = OptimSettings(lr=1e-2, warmup=0.25, layer_decay=0.8)
TEXT = dict(vocab_size=50, width=16, depth=4, heads=4, max_length=16, dropout=0.0, seed=0)


def causal() -> Task:
    return CausalLMTask(zoo.create_model("gpt_nano", **TEXT).double(), optim=OPTIM, ema=0.9)


def masked() -> Task:
    model = zoo.create_model("bert_tiny", head="masked_lm", attention_dropout=0.0, **TEXT).double()
    return MaskedLMTask(model, mask_id=4, special=(0, 1, 2, 3, 4), optim=OPTIM, ema=0.9)


def classes() -> Task:
    model = zoo.create_model("bert_tiny", head="classify", num_classes=3, attention_dropout=0.0, **TEXT).double()
    return ClassificationTask(model, optim=OPTIM, ema=0.9, label_smoothing=0.1, class_weights=torch.tensor([1, 2, 0.5]))


def frozen() -> Task:
    """The first of two stages has nothing to train."""
    freeze = ["tokens", "blocks.0", "blocks.1"]
    return CausalLMTask(zoo.create_model("gpt_nano", tie_word_embeddings=False, **TEXT).double(),
                        optim=OptimSettings(lr=1e-2, freeze=freeze))  # fmt: skip


def mup() -> Task:
    """The norm before the shared embeddings has rates and values of its own, and is not in the stage of these."""
    model = zoo.create_model("gpt_nano", **TEXT | dict(width=32)).double()
    initialize_mup(model, 8)
    return CausalLMTask(model, optim=replace(OPTIM, mup=True, mup_base_width=8), ema=0.9)


TASKS: dict[str, Callable[[], Task]] = {
    "next tokens": causal,
    "masked tokens": masked,
    "classes": classes,
    "frozen stage": frozen,
    "muP": mup,
}


def batches(name: str, part: int, parts: int) -> list[dict[str, Any]]:
    """Part of batches of six texts of different lengths, which two microbatches do not share equally; of three texts,
    if there are two parts, which do not divide into two."""
    ids = torch.randint(5, 50, (2 * STEPS, 6, 11), generator=torch.Generator().manual_seed(0))
    keep = torch.arange(11) < torch.tensor([11, 9, 5, 3, 11, 4])[:, None]
    rows = torch.arange(6).chunk(parts)[part]
    extra = {"labels": (ids[0, rows, 0] % 3)} if name == "classes" else {}
    return [{"input_ids": x[rows], "attention_mask": keep[rows].long(), "index": rows} | extra for x in ids]


class Losses(L.Callback):
    """The loss of each step as it was computed; what is logged is rounded to float32."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.found.append(float(pl_module._step_loss))


def train(rank: int, name: str, plan: Plan) -> tuple[list[float], list[dict[str, float]], dict[str, torch.Tensor]]:
    """The losses of steps of two batches with clipped gradients, what is logged, and the weights of this process."""
    task, losses, part = TASKS[name](), Losses(), rank // plan.tensor % plan.batch_parts
    rows = fit(task, plan, rank, batches(name, part, plan.batch_parts), max_steps=STEPS, accumulate_grad_batches=2,
               gradient_clip_val=0.5, log_every_n_steps=1, callbacks=[losses])  # fmt: skip
    values = {key: whole(x.detach()).clone() for key, x in task.state_dict().items()}
    return losses.found, rows, values


def assert_one_process(name: str, plan: Plan) -> None:
    ((losses, logged, weights),) = ranks(1, train, name, Plan())
    seen: set[str] = set()
    for found, rows, values in ranks(plan.world, train, name, plan):
        assert found == pytest.approx(losses, abs=1e-10, rel=0)
        assert [row.keys() for row in rows] == [row.keys() for row in logged]
        for row, expected in zip(rows, logged, strict=True):
            assert row == pytest.approx(expected, rel=1e-6)
        for key, value in values.items():
            torch.testing.assert_close(value.reshape(weights[key].shape), weights[key], atol=1e-10, rtol=0)
        seen |= values.keys()
    assert seen == weights.keys()


FULL = [pytest.param(name, marks=pytest.mark.full) for name in ("next tokens", "masked tokens")]


@pytest.mark.parametrize("name", ["muP", "classes", *FULL])
def test_steps_are_those_of_one_process(name: str) -> None:
    assert_one_process(name, Plan(pipeline=2, microbatches=4))


def test_a_stage_without_trained_parameters() -> None:
    assert_one_process("frozen stage", Plan(pipeline=2, microbatches=2))


class Own(CausalLMTask):
    """A task that may compute another loss."""


def test_other_tasks_and_precisions_are_named() -> None:
    from zoo.tasks.pipelined import TaskPipeline

    plan, mesh = Plan(pipeline=2), None
    model = zoo.create_model("gpt_nano", **TEXT)
    for task, precision, message in (
        (Own(model), "32-true", r"Own does not run in a pipeline \(plan: pipeline=2\).* use shard= or tensor="),
        (CausalLMTask(model), "16-mixed", r"precision=16-mixed scales the loss"),
    ):
        with pytest.raises(ValueError, match=message):
            TaskPipeline(task, plan, mesh, precision)  # type: ignore[arg-type]


@pytest.mark.full
@pytest.mark.parametrize("name", ["next tokens", "masked tokens", "classes"])
def test_eight_processes_in_three_dimensions(name: str) -> None:
    assert_one_process(name, Plan(pipeline=2, tensor=2, data=2, microbatches=2))


@pytest.mark.full
@pytest.mark.parametrize("plan", [Plan(pipeline=2, schedule="interleaved"), Plan(pipeline=2, shard=2)])
def test_other_schedules_and_shards(plan: Plan) -> None:
    assert_one_process("next tokens", plan)
