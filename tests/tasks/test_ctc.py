"""The CTC task: in anybody's Trainer, with figures that are those of the texts."""

from dataclasses import replace

import lightning as L
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import zoo
from zoo.data.audio.speech_datamodule import SpeechDataModule, Utterances, WaveformAugment
from zoo.data.audio.tables import AudioClips
from zoo.data.audio.transcribed import Recordings
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Splits
from zoo.inference.ctc_decoding import beam
from zoo.nn.losses import ctc_loss
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.tasks import CTCTask

SMALL = dict(conv_channels=(32, 32), conv_kernels=(10, 4), conv_strides=(5, 4), width=32, depth=1, heads=2,
             position_kernel=8, position_groups=2, dropout=0.0, attention_dropout=0.0)  # fmt: skip
LETTERS = {"a": 0.05, "b": 0.11, "c": 0.2}  # cycles per sample


@pytest.fixture(scope="module")
def data() -> Utterances:
    """Texts of three letters, each a tone of 160 samples, in noise."""
    draw = torch.Generator().manual_seed(0)
    texts = ["".join("abc"[i] for i in torch.randint(3, (3,), generator=draw)) for _ in range(48)]
    tones = {c: torch.sin(2 * torch.pi * f * torch.arange(160)) for c, f in LETTERS.items()}
    waves = [torch.cat([torch.cat([tones[c], torch.zeros(32)]) for c in text]) for text in texts]
    waves = [wave + 0.05 * torch.randn(len(wave), generator=draw) for wave in waves]
    return Utterances(Recordings(AudioClips.of(waves, 8000), texts), Vocabulary.of(["abc"]))


def test_it_learns(data: Utterances) -> None:
    model = zoo.create_model("wav2vec2_tiny", head="ctc", vocab_size=len(data.encoder), seed=0, **SMALL)
    task = CTCTask(model, lr=1e-2, vocabulary=data.encoder, augment=WaveformAugment(model.preprocess), width=4)
    model.preprocess = replace(model.preprocess, vocabulary=data.encoder)
    module = SpeechDataModule(Splits(data.spoken, data.spoken, "tones", False, "written here"), model, 16)
    trainer = L.Trainer(max_steps=60, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                        accelerator="cpu", gradient_clip_val=1.0, log_every_n_steps=1000)  # fmt: skip
    trainer.fit(task, module)
    trainer.test(task, module, verbose=False)
    figures = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test_")}
    assert figures["test_wer"] <= 0.2 and figures["test_cer"] <= 0.1, figures
    assert set(figures) == {"test_loss", "test_wer", "test_cer"}
    assert {name.replace("test_", "val_") for name in figures} == set(task.validation_metrics)
    batch = task.augment(data.__getitems__(Keys(range(48), 0)), seed=0, step=0, train=False)
    assert batch["lengths"] == batch["attention_mask"].sum(1).tolist()
    with torch.no_grad():
        model.eval()
        scores = model(batch["input_values"], batch["attention_mask"])
    transcripts = [data.encoder.decode(answers[0][0]) for answers in beam(scores, width=4)]
    right = sum(one == other for one, other in zip(transcripts, data.spoken.transcripts)) / 48
    assert right == pytest.approx(1 - figures["test_wer"])
    frames, labels, lengths = model.frames(batch["attention_mask"].sum(1)), batch["labels"], batch["label_lengths"]
    expected = ctc_loss(scores, frames, labels, lengths, blank=data.encoder.blank_id)  # of a symbol, not of a text
    assert figures["test_loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_the_test_searches_with_a_beam_and_validation_is_greedy(data: Utterances, monkeypatch) -> None:
    model = zoo.create_model("wav2vec2_tiny", head="ctc", vocab_size=len(data.encoder), seed=0, **SMALL)
    task = CTCTask(model, vocabulary=data.encoder, augment=WaveformAugment(model.preprocess), width=3).eval()
    widths = []
    monkeypatch.setattr(
        "zoo.tasks.ctc.beam", lambda *args, **options: widths.append(options["width"]) or beam(*args, **options)
    )
    batch = data.__getitems__(Keys(range(4), 0))
    task.validation_step(batch, 0)
    assert widths == []
    task.test_step(batch, 0)
    assert widths == [3]


def test_what_is_refused(data: Utterances) -> None:
    model = zoo.create_model("wav2vec2_tiny", head=None, seed=0, **SMALL)
    with pytest.raises(ValueError, match="the model has no vocabulary"):
        CTCTask(model)
    with pytest.raises(ValueError, match="width=0"):
        CTCTask(model, vocabulary=data.encoder, width=0)


def test_a_deterministic_loss_of_a_gpu_is_computed_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's gradient of the CTC loss on a GPU raises under deterministic algorithms."""
    devices: list[str] = []

    def loss(log_p: torch.Tensor, *tensors: torch.Tensor, **options: object) -> torch.Tensor:
        devices.append("".join({x.device.type for x in (log_p, *tensors)}))
        return log_p.sum()

    monkeypatch.setattr(torch.nn.functional, "ctc_loss", loss)
    with FakeTensorMode():
        logits = torch.ones(2, 9, 5, device="cuda")
        counts = torch.ones(2, dtype=torch.long, device="cuda")
        for deterministic in (False, True):
            monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda on=deterministic: on)
            assert ctc_loss(logits, counts, counts[:, None], counts).device.type == "cuda"
    assert devices == ["cuda", "cpu"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_deterministic_loss_on_a_gpu() -> None:
    logits = torch.randn(4, 50, 9, generator=torch.Generator().manual_seed(0))
    labels, counts = torch.randint(1, 9, (4, 12)), torch.full((4,), 12)
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for device in ("cuda", "cuda", "cpu"):
            given = logits.to(device).requires_grad_()
            frames, lengths = torch.full((4,), 50, device=device), counts.to(device)
            ctc_loss(given, frames, labels.to(device), lengths).backward()
            gradients.append(given.grad.cpu())
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.allclose(gradients[0], gradients[2], atol=1e-6)
