"""One recipe under plans, on one, two and four processes: the same losses, metrics and weights but for rounding."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from peers import randomize
from plan_fit import fit
from ranks import as_torchrun, ranks
from speeds import full_unless
from tiny_run import Kill, checkpoint, in_child, metrics, tiny_run
from torch import nn
from torchmetrics import Metric

import zoo
from zoo.parallel import Plan
from zoo.parallel.config import PlanSettings
from zoo.parallel.shards import whole
from zoo.tasks import CausalLMTask, MaskedLMTask, Seq2SeqTask, text_metric
from zoo.tasks.base import Task
from zoo.tasks.config import OptimSettings
from zoo.training.config import RunSettings
from zoo.training.devices import settle_plan
from zoo.training.plots import PLOTS, save_plots
from zoo.training.same_ranks import check_same

WORDS = ("steps=4", "accelerator=cpu", "mixup=0", "validate_every=2", "precision=fp32", "baseline=false")
PLANS = {
    "copies": ("plan.data=2",),
    "shards": ("plan.shard=2", "plan.checkpointing=selective", "plan.cpu_offload=true"),
    "heads": ("plan.tensor=2",),
    "heads and tokens": ("plan.tensor=2", "plan.sequence=true"),
    "shards of parts": ("plan.tensor=2", "plan.shard=2"),
    "copies of parts": ("plan.tensor=2", "devices=4"),
    "tokens": ("plan.context=2",),
    "stages": ("plan.pipeline=2", "plan.checkpointing=full"),
}


def vit(seed: int) -> nn.Module:
    sizes = dict(image_size=8, patch_size=4, width=16, depth=2, heads=4, mlp_dim=32, num_classes=4)
    model = zoo.create_model("vit_cifar_tiny", seed=seed, **sizes)
    model.labels = list("abcd")
    return model


def run(folder: Path, words: tuple[str, ...], kill: int | None = None) -> None:
    tiny_run(folder, *WORDS, *words, model=vit, callbacks=() if kill is None else (Kill(kill),))


def together(world: int, folder: Path, *words: str, kill: int | None = None) -> list[int]:
    """`run` in several processes, as torchrun starts them; returns their exit codes."""
    words = words if any("devices" in word for word in words) else (*words, f"devices={world}")
    return as_torchrun(world, lambda rank: run(folder, words, kill))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert in_child(run, folder, ()) == 0
    return folder


USUAL = ("shards", "shards of parts", "tokens", "stages")  # what the others add is tested in tests/parallel


@pytest.mark.parametrize("name", full_unless(USUAL, PLANS))
def test_a_recipe_computes_the_same(name: str, alone: Path, tmp_path: Path) -> None:
    words = PLANS[name]
    world = 4 if "parts" in name else 2
    assert together(world, tmp_path / "run", *words) == [0] * world
    assert_alike(alone, tmp_path / "run")


def test_a_pipeline_continues_under_other_plans(alone: Path, tmp_path: Path) -> None:
    """One process starts, two stages continue, then two processes that divide the heads."""
    often = "checkpoint_every=1"
    assert in_child(run, tmp_path / "run", (often,), kill=1) == -9
    assert together(2, tmp_path / "run", often, "plan.pipeline=2", kill=3) == [-9, -9]
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_dir()
    assert together(2, tmp_path / "run", often, "plan.tensor=2") == [0, 0]
    assert_alike(alone, tmp_path / "run")


@pytest.mark.parametrize(("plan", "message"), [
    (dict(checkpointing="full"), "plan.checkpointing=full is of a plan of several processes"),
    (dict(shard=2, pipeline=2, cpu_offload=True), "plan.cpu_offload=true does not go with the stages"),
    (dict(shard=2, mixed_precision="fp16"), "plan.mixed_precision=fp16 needs precision=fp16"),
    (dict(shard=3), "the plan is for 3 processes"),
    (dict(pipeline=2, schedule="interleaved", microbatches=5), "microbatches=5 .* choose a multiple of 2, such as 6"),
])  # fmt: skip
def test_plans_that_a_recipe_cannot_follow(plan: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settle_plan(RunSettings(plan=PlanSettings(**plan)), processes=2)


@pytest.mark.parametrize(("words", "message"), [
    (("batch_size=6",), r"batch_size=6 .* multiple of .* accumulate_grad_batches x 4 microbatches .* = 4"),
    (("plan.microbatches=1",), r"microbatches=1 with schedule='1f1b' and pipeline=2: choose at least 2"),
    (("compile=stack",), r"compile=stack: the stages of plan.pipeline=2 have parts"),
    (("plan.context=2", "devices=4"), r"context=2 does not go with pipeline=2"),
])  # fmt: skip
def test_pipelines_that_a_recipe_cannot_follow(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", ("plan.pipeline=2", *words, *(() if "devices=4" in words else ("devices=2",))))


def test_plots_that_call_a_divided_model_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the first process makes plots, and it would wait for the others."""
    model = SimpleNamespace(parameters=lambda: [SimpleNamespace(device_mesh=None)])
    run, task = SimpleNamespace(folder=SimpleNamespace(path=tmp_path)), SimpleNamespace(evaluated=model)
    called: list[str] = []
    plots = {name: lambda *_, name=name: called.append(name) for name in (*PLOTS, "alignment")}
    save_plots(cast(Any, run), task, cast(Any, None), plots)
    assert called == ["curves", "confusion", "sample"]
    assert capsys.readouterr().out.endswith("hold parts of the model: attention, alignment\n")


# --- Tasks whose processes have the outputs of different tokens -------------------------------------------------------


def text_task(name: str) -> Task:
    sizes = dict(vocab_size=50, width=16, depth=2, heads=4, max_length=16, dropout=0.0, seed=0)
    if name == "next tokens":
        return CausalLMTask(zoo.create_model("gpt_nano", **sizes), optim=OptimSettings(lr=1e-2), ema=0.9)
    model = zoo.create_model("bert_tiny", head="masked_lm", attention_dropout=0.0, **sizes)
    return MaskedLMTask(model, mask_id=4, special=(0, 1, 2, 3, 4), optim=OptimSettings(lr=1e-2), ema=0.9)


def texts(part: int, parts: int) -> list[dict[str, Any]]:
    """The rows of a part of three batches, of different numbers of tokens; most padding is in the last part."""
    ids = torch.randint(5, 50, (3, 4, 11), generator=torch.Generator().manual_seed(0))
    keep = torch.arange(11) < torch.tensor([11, 9, 5, 3])[:, None]
    rows = torch.arange(4).chunk(parts)[part]
    return [{"input_ids": x[rows], "attention_mask": keep[rows].long(), "index": rows} for x in ids]


def train_on_texts(rank: int, name: str, plan: Plan) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """What a task logs in three steps and a validation, and its weights."""
    task, batches = text_task(name), texts(rank // plan.context, plan.batch_parts)
    rows = fit(task, plan, rank, batches, max_steps=3, gradient_clip_val=0.5, log_every_n_steps=1)
    return rows, {key: whole(x.detach()) for key, x in task.state_dict().items()}


@pytest.mark.parametrize("name", ["next tokens", pytest.param("masked tokens", marks=pytest.mark.full)])
def test_a_language_model_on_parts_of_texts(name: str) -> None:
    ((logged, weights),) = ranks(1, train_on_texts, name, Plan())
    for rows, values in ranks(4, train_on_texts, name, Plan(shard=2, context=2)):
        assert [row.keys() for row in rows] == [row.keys() for row in logged]
        for row, expected in zip(rows, logged, strict=True):
            assert row == pytest.approx(expected, rel=1e-5)
        for key, value in weights.items():
            torch.testing.assert_close(values[key].reshape(value.shape), value, atol=1e-3, rtol=1e-3)


class Same(Metric):
    """The fraction of the texts that are as expected."""

    directions = {"same": "max"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.add_state("seen", torch.zeros(2), dist_reduce_fx="sum")

    def update(self, texts: list[str], expected: list[str]) -> None:
        self.seen += torch.tensor([sum(x == y for x, y in zip(texts, expected, strict=True)), len(texts)])

    def compute(self) -> dict[str, float]:
        return {"same": float(self.seen[0] / self.seen[1]), "texts": float(self.seen[1])}


def writer(references: list[str]) -> Seq2SeqTask:
    sizes = dict(vocab_size=50, width=16, depth=1, heads=2, dropout=0.0, seed=0)
    model = randomize(zoo.create_model("bart_nano", **sizes))
    for value in model.parameters():  # or it writes the same text for all rows
        value.data *= 4 if value.ndim > 1 else 1
    model.preprocess = SimpleNamespace(decode=lambda row: str(row[row != 1].tolist()))  # type: ignore[assignment]
    return Seq2SeqTask(model, lr=1e-12, text_metric=Same, references={"val": references}, val_samples=3,
                       generation={"max_new_tokens": 6})  # fmt: skip


def pairs(part: int, parts: int) -> list[dict[str, Any]]:
    rows = torch.arange(4).chunk(parts)[part]
    ids, labels = torch.randint(5, 50, (2, 4, 8), generator=torch.Generator().manual_seed(0))
    return [
        {"input_ids": ids[rows], "attention_mask": torch.ones_like(ids[rows]), "labels": labels[rows], "index": rows}
    ]


def write_texts(rank: int, plan: Plan, references: list[str]) -> tuple[dict[str, float], list[str]]:
    """What is logged in a step and a validation, and the messages at the start."""
    messages: list[str] = []
    text_metric.announce = messages.append  # type: ignore[assignment]
    batches = pairs(rank // plan.context, plan.batch_parts)
    rows = fit(writer(references), plan, rank, batches, max_steps=1)
    return {key: value for row in rows for key, value in row.items()}, messages


def test_texts_are_generated_where_processes_hold_shards(tmp_path: Path) -> None:
    """And a message names what is left out where they are not."""
    alone, (batch,) = writer([]), pairs(0, 1)
    references = alone.generate(alone.model.eval(), batch)
    assert len(set(references)) > 1
    for plan in (Plan(data=2), Plan(shard=2)):
        for row, messages in ranks(2, write_texts, plan, references):
            assert row["val_same"] == 1.0 and row["val_texts"] == 3.0 and not messages, row
    for row, messages in ranks(2, write_texts, Plan(context=2), references):
        assert "val_same" not in row and messages[0].startswith("no same: processes that divide tokens (plan.context)")


def compared(rank: int) -> str:
    try:
        check_same({"optim.lr": "0.001" if rank < 2 else "0.002", "seed": "0"})
    except ValueError as error:
        return str(error)
    return ""


def test_processes_with_other_settings_are_found() -> None:
    for message in ranks(3, compared):
        assert message.startswith("process 2 differs from process 0 in optim.lr: 0.002 there, 0.001 in process 0")


def assert_alike(one: Path, other: Path) -> None:
    """The same losses and metrics, and about the same weights."""
    for mine, theirs in zip(metrics(one), metrics(other), strict=True):
        for key in ("train_loss", "val_loss", "val_accuracy"):
            assert float(mine[key] or 0) == pytest.approx(float(theirs[key] or 0), rel=1e-4), key
    weights = [checkpoint(folder, "last.ckpt")["state_dict"] for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key].reshape(value.shape), atol=2e-3, rtol=1e-2)
