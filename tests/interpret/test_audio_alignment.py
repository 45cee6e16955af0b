"""Attention of the tokens of a transcript to the times of its clip."""

from pathlib import Path

import pytest
import torch

import zoo
from zoo.interpret.audio_alignment import AudioAlignment, align_audio, plot_audio_alignment
from zoo.models.whisper.transcript_tokens import TranscriptTokens
from zoo.preprocessing.tokenizer_training import train
from zoo.preprocessing.whisper import WhisperProcessor

TEXT = "red car"


@pytest.fixture(scope="module")
def model():
    tokenizer = train("whisper", [TEXT, "car red"] * 3, 280, max_length=40)
    ids = {name: tokenizer.id("eos") for name in ("eos_token_id", "bos_token_id", "pad_token_id")}
    made = zoo.create_model("whisper_nano", vocab_size=tokenizer.vocab_size, frames=200, mel_bins=16, width=16, depth=2,
                            heads=2, decoder_start_token_id=1, seed=0, **ids)  # fmt: skip
    made.preprocess = WhisperProcessor(sampling_rate=8000, num_mel_bins=16, frames=200, tokenizer=tokenizer)
    return made.eval()


def test_rows_are_tokens_and_columns_the_clip(model) -> None:
    wave = torch.randn(8000, generator=torch.Generator().manual_seed(0)) * 0.1
    found = align_audio(model, wave, TEXT, sampling_rate=8000)
    assert found.tokens == ["red", "car"] and found.seconds == 1.0
    assert found.weights.shape == (2, 50) and found.spectrogram.shape == (16, 100)
    labels = TranscriptTokens.of(model).encode(TEXT)
    assert labels[-1] == model.config.eos_token_id and len(labels) == 3
    with zoo.capture(model, layers="decoder.*.cross") as maps, torch.no_grad():
        model(input_features=model.preprocess((wave, 8000))["input_features"],
              decoder_input_ids=torch.tensor([[1, *labels[:-1]]]))  # fmt: skip
    expected = torch.stack([one.mean(1) for one in maps.values()]).mean(0)[0, :2, :50]
    assert torch.allclose(found.weights, expected, atol=1e-6)
    with pytest.raises(ValueError, match="has no tokens to align"):
        align_audio(model, wave, "", sampling_rate=8000)


def test_centers_are_mean_times() -> None:
    weights = torch.tensor([[0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.2, 0.2]])
    centers = AudioAlignment(["a", "b"], weights, torch.zeros(3, 8), 2.0).centers
    assert centers.tolist() == pytest.approx([0.25, 1.5])


def test_the_plot(model, tmp_path: Path) -> None:
    found = [align_audio(model, torch.randn(4000 * n), TEXT, sampling_rate=8000) for n in (1, 3)]
    figure = plot_audio_alignment(found, path=tmp_path / "times.png")
    assert (tmp_path / "times.png").stat().st_size > 1000
    assert [label.get_text() for label in figure.axes[2].get_yticklabels()] == ["red", "car"]
    with pytest.raises(ValueError, match="no alignments given"):
        plot_audio_alignment([])
