"""The gradient of a step is that of the mean over all its items, however they are cut into micro-batches and ranks."""

import os
from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from fault_inputs import Feed, one_step
from ranks import ranks
from speeds import full_unless
from torch import Tensor, nn

import zoo
from zoo.data.keyed_batches import GroupedByLengthBatches
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.tasks import CausalLMTask, ClassificationTask, CTCTask, MaskedLMTask, Seq2SeqSpeechTask, Seq2SeqTask, add_lora

SMALL = {"width": 32, "depth": 1, "heads": 2, "dropout": 0.0, "attention_dropout": 0.0, "seed": 0}
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
Batch = dict[str, Tensor]


class KeepGradient(L.Callback):
    """The gradient that the optimizer takes its step by."""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        trainer.optimizers[0].register_step_post_hook(lambda *_: self.keep(module))

    def keep(self, module: L.LightningModule) -> None:
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        full = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in gradients]
        self.gradient = torch.cat([g.flatten().clone() for g in full])


def gradient(task: L.LightningModule, batches: list[Batch], **trainer: Any) -> tuple[Tensor, float]:
    """Of one optimizer step over these micro-batches; and the loss that is logged."""
    keep = KeepGradient()
    if trainer:
        options = {"max_steps": 1, "accumulate_grad_batches": len(batches), **QUIET, **trainer}
        L.Trainer(accelerator="cpu", callbacks=[keep], log_every_n_steps=1, **options).fit(task, Feed(batches))
    else:
        one_step(task, batches, keep)
    return keep.gradient, task._step_loss.item()


def cut(batch: Batch, sizes: tuple[int, ...]) -> list[Batch]:
    """The rows of a batch in micro-batches of these sizes, each without needless padding."""
    found = []
    for rows in torch.arange(sum(sizes)).split(list(sizes)):
        part = {name: value[rows] if value.ndim else value for name, value in batch.items()}
        if (keep := part.get("attention_mask")) is not None:
            longest = int(keep.sum(1).max())
            part = {name: x[:, :longest] if x.shape[1:] == keep.shape[1:] else x for name, x in part.items()}
        found.append(part)
    return found


def texts() -> Batch:
    """Four texts of different lengths."""
    ids = torch.randint(5, 200, (4, 40), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(40) < torch.tensor([[6], [40], [1], [23]])).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "index": torch.arange(4), "epoch": torch.tensor(0)}


def images() -> Batch:
    """Four images, one of them of the rare class."""
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return {"pixel_values": pixels, "labels": torch.tensor([0, 0, 0, 1])}


def clips() -> Batch:
    """Four clips with transcripts of different lengths."""
    generator = torch.Generator().manual_seed(1)
    return {
        "input_values": torch.randn(4, 400, generator=generator),
        "labels": torch.randint(2, 6, (4, 8), generator=generator),
        "label_lengths": torch.tensor([2, 8, 5, 1]),
    }


class Frames(nn.Module):
    """Clips [B, T] -> scores [B, T / 10, 6]."""

    inputs = ("input_values",)

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(10, 6)

    def forward(self, input_values: Tensor) -> Tensor:
        return self.proj(input_values.unflatten(1, (-1, 10)))

    def frames(self, samples: Tensor) -> Tensor:
        return samples // 10


def causal_lm() -> L.LightningModule:
    return CausalLMTask(zoo.create_model("gpt_nano", **SMALL), lr=1e-3)


def masked_lm() -> L.LightningModule:
    return MaskedLMTask(zoo.create_model("bert_tiny", vocab_size=200, **SMALL), lr=1e-3, mask_id=4)


def weighted_classes() -> L.LightningModule:
    model = zoo.create_model("vit_cifar_tiny", num_classes=2, **SMALL)
    return ClassificationTask(model, lr=1e-3, class_weights=torch.tensor([1.0, 9.0]))


def ctc() -> L.LightningModule:
    torch.manual_seed(0)
    return CTCTask(Frames(), lr=1e-3, vocabulary=Vocabulary(("<pad>", "|", *"abcd")))


def smoothed() -> L.LightningModule:
    model = zoo.create_model("vit_cifar_tiny", num_classes=2, **SMALL)
    return ClassificationTask(model, lr=1e-3, label_smoothing=0.1, class_weights=torch.tensor([1.0, 9.0]))


def several_labels() -> L.LightningModule:
    model = zoo.create_model("vit_cifar_tiny", num_classes=2, problem_type="multi_label_classification", **SMALL)
    return ClassificationTask(model, lr=1e-3, class_weights=torch.tensor([1.0, 9.0]))


def regression() -> L.LightningModule:
    return ClassificationTask(zoo.create_model("vit_cifar_tiny", num_classes=1, **SMALL), lr=1e-3)


def several() -> Batch:
    return images() | {"labels": torch.tensor([[0, 1], [0, 0], [1, 1], [1, 0]])}


def translations() -> Batch:
    """The four texts with target texts of other lengths."""
    labels = torch.randint(5, 200, (4, 9), generator=torch.Generator().manual_seed(2))
    return texts() | {"labels": labels.masked_fill(torch.arange(9) >= torch.tensor([[9], [2], [5], [1]]), -100)}


def seq2seq() -> L.LightningModule:
    model = zoo.create_model("transformer_nano", vocab_size=200, **SMALL)
    return Seq2SeqTask(model, lr=1e-3, label_smoothing=0.1)


def transcripts() -> Batch:
    """Spectrograms of 20 frames, with texts of other lengths."""
    features = torch.randn(4, 8, 40, generator=torch.Generator().manual_seed(3))
    labels = translations()["labels"]
    return {"input_features": features, "labels": labels, "index": torch.arange(4)}


def speech() -> L.LightningModule:
    model = zoo.create_model("whisper_nano", vocab_size=200, mel_bins=8, frames=40, eos_token_id=2, **SMALL)
    return Seq2SeqSpeechTask(model, lr=1e-3, label_smoothing=0.1, ctc_weight=0.3)


TASKS = [
    (causal_lm, texts), (masked_lm, texts), (weighted_classes, images), (smoothed, images), (several_labels, several),
    (regression, images), (ctc, clips), (seq2seq, translations), (speech, transcripts),
]  # fmt: skip


def assert_same(one: tuple[Tensor, float], other: tuple[Tensor, float]) -> None:
    assert one[0].norm() > 0
    assert (one[0] - other[0]).norm() <= 1e-4 * one[0].norm()
    assert one[1] == pytest.approx(other[1], rel=1e-5)  # the logged loss is the same mean


@pytest.mark.parametrize(("task", "batch"), TASKS)
@pytest.mark.parametrize("sizes", [(2, 2), (1, 1, 1, 1), (3, 1)], ids=str)
def test_micro_batches_make_no_difference(
    task: Callable[[], L.LightningModule], batch: Callable[[], Batch], sizes: tuple[int, ...]
) -> None:
    assert_same(gradient(task(), [batch()]), gradient(task(), cut(batch(), sizes)))


def on_rank(rank: int, task: Any, batch: Any, strategy: str) -> tuple[Tensor, float]:
    """One step of two ranks with two micro-batches each."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", GROUP_RANK="0",
                      MASTER_ADDR="127.0.0.1", MASTER_PORT="1", TORCHELASTIC_RUN_ID="t")  # fmt: skip
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

    made = DDPStrategy() if strategy == "ddp" else ModelParallelStrategy(2, 1, save_distributed_checkpoint=False)
    mine = cut(batch(), (1, 1, 1, 1))[rank::2]  # rank r takes micro-batches r and 2 + r
    return gradient(task(), mine, strategy=made, devices=2, use_distributed_sampler=False)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize(("task", "batch"), full_unless(TASKS[1:3], [*TASKS[:3], TASKS[6], TASKS[8]]))
def test_ranks_make_no_difference(
    task: Callable[[], L.LightningModule], batch: Callable[[], Batch], strategy: str
) -> None:
    whole = gradient(task(), [batch()])
    for found in ranks(2, on_rank, task, batch, strategy):
        assert_same(whole, found)


def test_adapters_make_no_difference() -> None:
    pytest.importorskip("peft")

    def adapted() -> L.LightningModule:
        task = causal_lm()
        add_lora(task.model, 2)
        return task

    whole, parts = gradient(adapted(), [texts()]), gradient(adapted(), cut(texts(), (3, 1)))
    assert len(whole[0]) < sum(p.numel() for p in causal_lm().parameters()) / 2
    assert_same(whole, parts)


def test_low_precision_makes_no_difference() -> None:
    """But for rounding: bfloat16 has 8 bits."""
    whole = gradient(causal_lm(), [texts()], precision="bf16-mixed")
    parts = gradient(causal_lm(), cut(texts(), (3, 1)), precision="bf16-mixed")
    assert (whole[0] - parts[0]).norm() < 0.02 * whole[0].norm()
    assert whole[1] == pytest.approx(parts[1], rel=1e-3)


def test_clipping_sees_the_gradient_of_the_mean() -> None:
    norms = [
        gradient(causal_lm(), batches, gradient_clip_val=0.01)[0].norm().item()
        for batches in ([texts()], cut(texts(), (3, 1)), cut(texts(), (1, 1, 1, 1)))
    ]
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)


def test_the_last_window_of_an_epoch_may_be_smaller() -> None:
    """Three micro-batches where four are accumulated: Lightning takes a step with them all the same."""
    parts = cut(texts(), (1, 1, 1, 1))[:3]
    found = gradient(causal_lm(), parts, accumulate_grad_batches=4)
    assert_same(gradient(causal_lm(), parts), found)


def test_a_micro_batch_without_tokens_counts_nothing() -> None:
    whole, alone = cut(texts(), (2, 1, 1)), cut(texts(), (3, 1))
    assert whole[1]["input_ids"].shape == (1, 1)  # one token, which none follows
    assert_same(gradient(causal_lm(), alone), gradient(causal_lm(), whole))


def test_micro_batches_that_are_grouped_by_length() -> None:
    """A batch of similar lengths is cut like any other."""
    batch = texts()
    [rows] = list(GroupedByLengthBatches(batch["attention_mask"].sum(1), 4, seed=0, step=lambda: 0))
    ordered = {name: x[rows] if x.ndim else x for name, x in batch.items()}
    assert_same(gradient(causal_lm(), [batch]), gradient(causal_lm(), cut(ordered, (2, 2))))


def test_a_loss_of_ones_own_counts_each_micro_batch() -> None:
    class Own(CausalLMTask):
        def loss_of(self, batch: Any, step: int, micro: int) -> Tensor:
            return self.losses(self.model, batch).mean()

    parts = cut(texts(), (2, 2))
    losses = [Own(causal_lm().model, lr=1e-3).loss_of(part, 0, 0).item() for part in parts]
    assert gradient(Own(causal_lm().model, lr=1e-3), parts)[1] == pytest.approx(sum(losses) / 2)
