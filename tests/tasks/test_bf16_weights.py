"""Training with bfloat16 weights cast from float32 ones: the numbers of a loop written by hand, float32 outside."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.tasks import CausalLMTask, ClassificationTask, ContrastiveTask, MaskedLMTask
from zoo.tasks.base import Task
from zoo.tasks.bf16_weights import BF16Weights
from zoo.tasks.optimizer import adamw, param_groups
from zoo.tasks.schedule import warmup_cosine

SMALL = dict(width=32, depth=2, heads=2, mlp_dim=48)
TEXT = dict(vocab_size=50, max_length=16, **SMALL)


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(5, 50, (4, 12), generator=torch.Generator().manual_seed(seed))


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def vit(**options: Any) -> tuple[Task, dict[str, Any]]:
    model = zoo.create_model("vit_cifar_tiny", seed=0, num_classes=4, **SMALL | options)
    return ClassificationTask(model, lr=1e-3), {"pixel_values": images(), "labels": torch.arange(4)}


def gpt(**options: Any) -> tuple[Task, dict[str, Any]]:
    mask = (torch.arange(12) < torch.tensor([[12], [5], [9], [12]])).long()
    task = CausalLMTask(zoo.create_model("gpt_nano", seed=0, **TEXT | options), lr=1e-2)
    return task, {"input_ids": tokens() * mask, "attention_mask": mask}


def llama() -> tuple[Task, dict[str, Any]]:
    return CausalLMTask(zoo.create_model("llama_nano", seed=0, **TEXT), lr=1e-2), {"input_ids": tokens()}


def performer() -> tuple[Task, dict[str, Any]]:
    return gpt(attention="performer")


def bert() -> tuple[Task, dict[str, Any]]:
    model = zoo.create_model("bert_tiny", seed=0, head="masked_lm", **TEXT)
    index = torch.arange(4)
    return MaskedLMTask(model, lr=1e-3, mask_id=4, special=(0, 1, 2, 3, 4)), {"input_ids": tokens(), "index": index}


def clip() -> tuple[Task, dict[str, Any]]:
    towers = {"image": {"image_size": 32, "patch_size": 8, **SMALL}, "text": TEXT}
    model = zoo.create_model("clip_tiny", seed=0, **{f"{t}.{k}": v for t, o in towers.items() for k, v in o.items()})
    return ContrastiveTask(model, lr=1e-3), {"pixel_values": images(), "input_ids": tokens()}


def checkpointed() -> tuple[Task, dict[str, Any]]:
    task, batch = vit(dropout=0.1)
    task.model.set_checkpointing(True)  # type: ignore[operator]
    return task, batch


def by_hand(task: Task, batch: dict[str, Any], micro: int = 0) -> tuple[Tensor, list[Tensor | None]]:
    """The loss of a model in bfloat16, and its gradients in float32."""
    half = copy.deepcopy(task)
    half.bf16_weights = None
    for parameter in half.model.parameters():
        if parameter.ndim:
            parameter.data = parameter.data.bfloat16()
    batch = {k: x.bfloat16() if k == "pixel_values" else x for k, x in batch.items()}
    torch.manual_seed(micro)
    loss = half.loss_of(batch, 0, micro)
    loss.backward()
    return loss.detach(), [None if p.grad is None else p.grad.float() for p in half.model.parameters()]


def with_bf16_weights(task: Task, batch: dict[str, Any], micro: int = 0) -> Tensor:
    task.bf16_weights = task.bf16_weights or BF16Weights(task.model)
    torch.manual_seed(micro)
    with torch.autocast("cpu", torch.bfloat16):  # as in a Trainer
        loss = task.compute_loss(batch, 0, micro)
    task.backward(loss)
    return loss.detach()


def assert_equal(ours: list[Tensor | None], theirs: list[Tensor | None], exact: bool) -> None:
    """Not exact: autograd may add the gradients of q, k and v in another order, which rounds otherwise in bfloat16."""
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert a.dtype == torch.float32
            assert torch.equal(a, b) if exact else (a - b).norm() <= 0.03 * b.norm() + 1e-4


@pytest.mark.parametrize("make", [vit, gpt, llama, performer, bert, clip, checkpointed])
def test_gradients_are_those_of_a_model_in_bfloat16(make: Callable[[], tuple[Task, dict[str, Any]]]) -> None:
    """Added up in float32 over micro-batches; the model has its float32 weights between them."""
    task, batch = make()
    task.train()
    weights, total = [*task.model.parameters()], None
    for micro in range(2):
        expected, gradients = by_hand(task, batch, micro)
        assert torch.equal(with_bf16_weights(task, batch, micro), expected)
        parts = zip(total, gradients, strict=True) if total else ()
        total = [a if b is None or a is None else a + b for a, b in parts] or gradients
        assert_equal([p.grad for p in task.model.parameters()], total, make in (gpt, llama, performer, bert))
        assert all(p is w for p, w in zip(task.model.parameters(), weights, strict=True))
    assert {p.dtype for p in task.parameters()} == {torch.float32} and any(g is not None for g in total)


class BatchNorms(nn.Module):
    """[B, 3, 32, 32] -> [B, 4], with running statistics."""

    inputs = ("pixel_values",)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.labels = list("abcd")
        self.scale = nn.Parameter(torch.tensor(1.001))
        self.seen: set[torch.dtype] = set()

    def forward(self, pixel_values: Tensor) -> Tensor:
        self.seen |= {pixel_values.dtype, self.conv.weight.dtype, self.scale.dtype, self.norm.weight.dtype}
        x = self.norm(self.conv(pixel_values))
        return self.head(F.gelu(x).mean((2, 3))) * self.scale


def test_batch_norms_and_scalars_stay_in_float32() -> None:
    model = BatchNorms()
    task = ClassificationTask(model, lr=1e-3).train()
    with_bf16_weights(task, {"pixel_values": images(), "labels": torch.arange(4)})
    assert model.seen == {torch.bfloat16, torch.float32} and not model._forward_pre_hooks
    assert model.norm.running_mean.dtype == torch.float32 and model.norm.running_mean.abs().min() > 0  # type: ignore[union-attr]
    assert model.scale.grad is not None and model.scale.grad != 0


def test_a_loss_that_fails_leaves_the_float32_weights() -> None:
    task, batch = vit()
    with pytest.raises((RuntimeError, ValueError)):
        with_bf16_weights(task, batch | {"labels": torch.tensor([0, 1])})
    assert {p.dtype for p in task.model.parameters()} == {torch.float32} and not task.model._forward_pre_hooks


def rows(count: int) -> list[dict[str, Tensor]]:
    return [{"input_ids": torch.arange(12).roll(i)[None].repeat(2, 1) % 7 + 5} for i in range(count)]


def trained(folder: Path, steps: int, *, bf16: bool, ema: float = 0.0, learned: list[float] | None = None) -> Task:
    model = zoo.create_model("gpt_nano", seed=0, **TEXT)
    task = CausalLMTask(model, lr=1e-3, ema=ema)
    task.bf16_weights = BF16Weights(model) if bf16 else None
    trainer = L.Trainer(max_steps=steps, accelerator="cpu", precision="bf16-mixed" if bf16 else "32-true",
                        accumulate_grad_batches=2, gradient_clip_val=1.0, logger=False, enable_progress_bar=False,
                        enable_model_summary=False, default_root_dir=folder, enable_checkpointing=False)  # fmt: skip
    trainer.fit(task, torch.utils.data.DataLoader(rows(2 * steps), batch_size=None))
    trainer.save_checkpoint(folder / "last.ckpt")
    if learned is not None:
        task.eval()
        with torch.no_grad():
            learned += [float(task.loss_of(row, 0, 0)) for row in rows(4)]
    return task


def test_a_run_is_the_loop_written_by_hand(tmp_path: Path) -> None:
    """Clipping, accumulation, AdamW, the schedule and the moving average are those of float32 weights."""
    steps, task = 5, None
    model = zoo.create_model("gpt_nano", seed=0, **TEXT)
    hand = CausalLMTask(model, lr=1e-3)
    optimizer = adamw(param_groups(model, hand.optim.lr, hand.optim.weight_decay), hand.optim.betas, hand.optim.eps)
    first = [group["lr"] for group in optimizer.param_groups]
    average = copy.deepcopy([*model.parameters()])
    batches = rows(2 * steps)
    for step in range(steps):
        found = [by_hand(hand, batches[2 * step + i], i)[1] for i in range(2)]
        for p, a, b in zip(model.parameters(), *found, strict=True):
            p.grad = a / 2 + b / 2  # type: ignore[operator]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        factor = warmup_cosine(step, steps=steps, warmup=round(hand.optim.warmup * steps), final=hand.optim.final_lr)
        for group, lr in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = lr * factor
        optimizer.step()
        decay = min(0.9, (1 + step) / (10 + step))
        average = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, model.parameters(), strict=True)]
    task = trained(tmp_path, steps, bf16=True, ema=0.9)
    for p, q in zip(task.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-7)
    for p, q in zip(task.ema.parameters(), average, strict=True):  # type: ignore[union-attr]
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    moments = [x for state in saved["optimizer_states"][0]["state"].values() for x in state.values()]
    assert {x.dtype for x in [*saved["state_dict"].values(), *moments] if x.is_floating_point()} == {torch.float32}
    weight = saved["state_dict"]["model.tokens.word.weight"]
    assert not torch.equal(weight, weight.bfloat16().float())


def test_it_learns_as_float32_does(tmp_path: Path) -> None:
    losses: dict[bool, list[float]] = {True: [], False: []}
    for bf16, found in losses.items():
        trained(tmp_path, 100, bf16=bf16, learned=found)
    assert losses[True] == pytest.approx(losses[False], rel=0.05) and max(losses[False]) < 2.3
