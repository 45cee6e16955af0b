"""A training step of the tasks waits for no GPU, with the batches of our data modules."""

from collections.abc import Callable
from typing import Any, cast

import lightning as L
import pytest
import torch
from host_waits import fake_batch, fake_gpu, on_fake_gpu
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils.data import DataLoader

import zoo
from zoo.data.audio.spectrograms import SpectrogramAugment
from zoo.data.augment_config import AugmentSettings, SpectrogramAugmentSettings
from zoo.data.image.augment import Augment
from zoo.data.keyed_batches import Keys
from zoo.data.text.datamodule import TokenDataset
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.tasks import (
    CausalLMTask,
    ClassificationTask,
    ContrastiveTask,
    CTCTask,
    ImageTextTask,
    MaskedLMTask,
    QuestionAnsweringTask,
    Seq2SeqSpeechTask,
    Seq2SeqTask,
    TextToImageTask,
    TokenClassificationTask,
    base,
    contrastive,
)
from zoo.tasks.pipelined import pair
from zoo.utils.keyed_random import beta_quantiles, log_uniform_quantiles

IDS = [[5, 6, 7, 8, 9, 10], [11, 12, 13], [14, 15, 16, 17]]
ENDS: Any = dict(bos_token_id=0, eos_token_id=1, pad_token_id=0, decoder_start_token_id=2)
TEXT: Any = dict(width=32, depth=2, heads=2, vocab_size=30, max_length=16)


def texts(**more: Any) -> dict[str, Any]:
    return TokenDataset(IDS, labels=torch.tensor([0, 1, 0])).__getitems__(Keys([0, 1, 2], 3)) | more


def unlabeled() -> dict[str, Any]:
    return {name: value for name, value in texts().items() if name != "labels"}


def words() -> dict[str, Any]:
    labels = torch.tensor([[1, -100, 0, 2, -100, 0], [0, 1, 2, -100, -100, -100], [2, 2, 0, 1, -100, -100]])
    return texts(labels=labels)


def images() -> dict[str, Any]:
    pixels = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    return {"pixel_values": pixels, "labels": torch.tensor([0, 1, 2]), "index": torch.arange(3), "epoch": 1}


def spectrograms() -> dict[str, Any]:
    return {"input_values": torch.randn(3, 40, 16), "frames": torch.tensor([40, 30, 20]), "labels": torch.arange(3),
            "index": torch.arange(3), "epoch": 1}  # fmt: skip


def speech() -> dict[str, Any]:
    lengths = [4000, 3000, 2000]
    return {"input_values": torch.randn(3, 4000), "lengths": lengths,
            "attention_mask": (torch.arange(4000) < torch.tensor(lengths)[:, None]).long(),
            "labels": torch.ones(3, 4, dtype=torch.long), "label_lengths": torch.tensor([4, 3, 2])}  # fmt: skip


def pairs() -> dict[str, Any]:
    return texts(pixel_values=torch.randn(3, 3, 32, 32))


def classifier(head: str = "classify", **more: Any) -> zoo.Model:
    return zoo.create_model("bert_tiny", head=head, **TEXT | more)


def image_task() -> ClassificationTask:
    settings = AugmentSettings(crop=4, flip=0.5, erasing=0.2, mixup=0.2, cutmix=1.0, mix_probability=0.5, policy="none")
    model = zoo.create_model("vit_cifar_tiny", width=32, depth=2, heads=2, num_classes=3)
    augment = Augment(settings, (0.5,) * 3, (0.2,) * 3, num_classes=3)
    return ClassificationTask(model, augment=augment, class_weights=torch.ones(3), ema=0.9)


def audio_task() -> ClassificationTask:
    model = zoo.create_model("ast_tiny", max_length=32, mel_bins=16, width=32, depth=2, heads=2, num_classes=3)
    settings = SpectrogramAugmentSettings(time_stretch=0.1, time_shift=True, pitch_shift=1, gain=3.0)
    return ClassificationTask(model, augment=SpectrogramAugment(settings, model.preprocess))


def speech_task() -> CTCTask:
    model = zoo.create_model("wav2vec2_tiny", head="ctc", width=32, depth=2, heads=2, position_groups=2)
    return CTCTask(model, vocabulary=Vocabulary.of(["abc"]))


def pairs_task(**options: Any) -> ContrastiveTask:
    image = {"name": "vit_cifar_tiny", "width": 32, "depth": 2, "heads": 2}
    return ContrastiveTask(zoo.contrast(image=image, text={"name": "bert_tiny"} | TEXT), **options)


def documents() -> dict[str, Any]:
    numbers = torch.tensor([[0] * 4 + [1] * 2, [0] * 6, [0] * 3 + [1] * 3])
    return {"input_ids": torch.ones(3, 6).long(), "document_ids": numbers, "lengths": [4, 2, 6, 3, 3],
            "labels": torch.ones(3, 6).long()}  # fmt: skip


def translations() -> dict[str, Any]:
    labels = torch.tensor([[4, 5, 6, 1], [4, 1, -100, -100], [4, 5, 1, -100]])
    return texts(labels=labels, label_lengths=[4, 2, 3])


def transcripts() -> dict[str, Any]:
    labels = torch.tensor([[4, 5, 6, 1], [4, 1, -100, -100], [4, 5, 1, -100]])
    return {"input_features": torch.randn(3, 80, 40), "labels": labels}


def answers() -> dict[str, Any]:
    return texts(pixel_values=torch.randn(3, 3, 32, 32), labels=torch.ones(3, 6).long(), prompt_lengths=[2, 1, 2],
                 types=torch.zeros(3).long())  # fmt: skip


def captioner(**options: Any) -> ImageTextTask:
    small = dict(width=32, depth=1, heads=2, decoder_depth=1, vocab_size=30, max_length=16)
    model = zoo.create_model("blip_nano", **cast(Any, small | dict(decoder_start_token_id=2, decoder_width=32)))
    return ImageTextTask(model, **options)


def painter() -> TextToImageTask:
    small: Any = dict(width=32, depth=2, heads=2, text_vocab_size=30, text_length=6, image_vocab_size=20)
    return TextToImageTask(zoo.create_model("dalle_nano", image_grid=(2, 2), text_dropout=0.1, **small))


CASES: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Any]]]] = {
    "images": (image_task, images),
    "texts": (lambda: ClassificationTask(classifier()), texts),
    "spectrograms": (audio_task, spectrograms),
    "speech": (speech_task, speech),
    "tags": (lambda: TokenClassificationTask(classifier("token", num_classes=3), labels=["a", "b", "c"]), words),
    "questions": (
        lambda: QuestionAnsweringTask(classifier("qa"), questions={}),
        lambda: texts(start_positions=torch.zeros(3).long(), end_positions=torch.ones(3).long()),
    ),
    "next token": (lambda: CausalLMTask(zoo.create_model("gpt_nano", **TEXT)), unlabeled),
    "masked token": (lambda: MaskedLMTask(classifier("masked_lm"), mask_id=3, special=(0, 1)), unlabeled),
    "pairs": (pairs_task, pairs),
    "equal texts": (lambda: pairs_task(duplicates="positives"), pairs),
    "parts of a batch": (lambda: pairs_task(grad_cache_size=2), pairs),
    "packed documents": (lambda: CausalLMTask(zoo.create_model("gpt_nano", **TEXT)), documents),
    "t5": (lambda: Seq2SeqTask(zoo.create_model("t5_nano", **TEXT, head_dim=16), label_smoothing=0.1), translations),
    "bart": (lambda: Seq2SeqTask(zoo.create_model("bart_nano", **TEXT)), translations),
    "transcripts": (
        lambda: Seq2SeqSpeechTask(zoo.create_model("whisper_nano", **TEXT, frames=40, **ENDS), ctc_weight=0.3),
        transcripts,
    ),
    "captions": (captioner, answers),
    "images of texts": (
        painter,
        lambda: texts(image_ids=torch.ones(3, 4).long(), index=torch.arange(3), epoch=1),
    ),
}


def made(case: str) -> tuple[Any, dict[str, Any]]:
    make_task, make_batch = CASES[case]
    return make_task(), make_batch()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a GPU without data cannot do: the loss of torch that needs the lengths, events, random numbers."""
    monkeypatch.setattr(torch.nn.functional, "ctc_loss", lambda log_p, *rest, **options: -log_p.sum((0, 2)))
    monkeypatch.setattr(contrastive, "to_host", lambda values: (torch.zeros(()), Event()))
    monkeypatch.setattr(contrastive, "seed_all", lambda *key: None)
    yield
    for table in (beta_quantiles, log_uniform_quantiles):
        table.cache_clear()


class Event:
    """An event that has fired."""

    def synchronize(self) -> None:
        pass


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("gpu")
def test_the_loss_of_a_batch_waits_for_no_gpu(case: str) -> None:
    task, batch = made(case)
    with fake_gpu() as watch:
        on_fake_gpu(task)
        watch.first_batch = True  # moves what a task has on the host
        task.loss_of(fake_batch(batch), 0, 0)
        watch.first_batch = False
        loss = task.loss_of(fake_batch(batch), 1, 0)
    assert loss.shape == () and loss.is_cuda


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("count", [3, None])
def test_the_number_of_items_of_a_step_is_not_waited_for(count: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a number on the host, or computed on the device."""
    task = ClassificationTask(classifier())
    monkeypatch.setattr(base, "seed_all", lambda *key: None)
    monkeypatch.setattr(task, "position", lambda index: (0, 0))
    task._usual_count = 3.0
    with fake_gpu():
        loss, number = torch.empty((), device="cuda"), torch.empty((), dtype=torch.long, device="cuda")
        monkeypatch.setattr(task, "loss_of", lambda *args: task.mean_loss(loss, number if count is None else count))
        weighted, sums = task.training_step({}, 0), pair(loss, number if count is None else count)
    assert weighted.is_cuda and task._micro_batches[0].count.dtype == torch.float32 and sums.dtype == torch.float64


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("case", ["texts", "speech", "tags", "pairs"])
def test_it_does_without_lengths(case: str) -> None:
    """Where the test above could fail."""
    task, batch = made(case)
    del batch["lengths"]
    with fake_gpu():
        on_fake_gpu(task)
        with pytest.raises(DataDependentOutputException):
            task.loss_of(fake_batch(batch), 0, 0)


@pytest.mark.parametrize("labels", [[[1, -100, 0], [2, 1, -100]], [[-100] * 3] * 2])
def test_tags_of_a_gpu_have_the_loss_of_a_cpu(labels: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU no words are selected, whose number the host would have to know."""
    task = TokenClassificationTask(classifier("token", num_classes=3), labels=["a", "b", "c"], label_smoothing=0.1)
    logits, given = torch.randn(2, 3, 3), torch.tensor(labels)
    monkeypatch.setattr(task, "_logits", lambda model, batch: logits)
    expected = task.loss_of({"labels": given}, 0, 0)
    total, count = task._sum_of_losses(logits, given)
    assert count == (given != -100).sum()
    assert torch.allclose(task.mean_loss(total, count), expected, rtol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["texts", "images", "spectrograms", "pairs", "tags", "masked token"])
def test_training_steps_do_not_wait(case: str) -> None:
    """With Lightning's loop, whose first steps warm up."""
    task, batch = made(case)

    class Steps(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, task: Any, batch: Any, index: int) -> None:
            torch.cuda.set_sync_debug_mode("error" if index >= 3 else "default")

        def on_train_batch_end(self, *_: Any) -> None:
            torch.cuda.set_sync_debug_mode("default")

    trainer = L.Trainer(max_steps=6, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                        accelerator="gpu", devices=1, precision="bf16-mixed", gradient_clip_val=1.0,
                        log_every_n_steps=1000)  # fmt: skip
    try:
        trainer.fit(task, DataLoader(cast(Any, [batch] * 6), batch_size=None, collate_fn=lambda batch: batch))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.global_step == 6
