"""The data modules of audio: labeled clips as spectrograms, and transcribed speech."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from zoo.data.audio.datamodule import AudioDataModule
from zoo.data.audio.dataset import AudioDataset, AudioSplits
from zoo.data.audio.speech_datamodule import SpeechDataModule
from zoo.data.audio.tables import AudioClips
from zoo.data.audio.transcribed import Recordings
from zoo.data.splits import Splits
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.waveform import WaveformFeatureExtractor
from zoo.utils.errors import DataError

RATE = 8000


def clips(count: int = 12) -> AudioClips:
    """Clip i is noise of 0.1 s and 10 * i samples."""
    noise = torch.Generator().manual_seed(0)
    return AudioClips.of([0.1 * torch.randn(800 + 10 * i, generator=noise) for i in range(count)], RATE)


def test_clips_in_batches_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    whole = AudioDataset(clips(), torch.arange(12) % 3)
    splits = AudioSplits(whole, whole.take(torch.arange(3)), "noise", False, "made here", classes=["a", "b", "c"])
    preprocess = SpectrogramFeatureExtractor(sampling_rate=RATE, num_mel_bins=16, frames=8)
    data = AudioDataModule(splits, preprocess, 4, seed=1)
    assert "clips are longer than the" in capsys.readouterr().err
    batch = next(iter(data.train_dataloader()))
    assert data.augment(batch, seed=1, step=0, train=True)["input_values"].shape == (4, 8, 16)
    wave, rate = data.first_clip()
    assert rate == RATE == splits.sampling_rate and torch.equal(wave, whole.clips[0])
    values, labels = data.sample_spectrograms(3)
    assert values.shape == (3, 8, 16) and sorted(labels) == [0, 1, 2]
    test = data.augment(data.test.__getitems__(next(iter(data.val_dataloader().batches))), seed=0, step=0, train=False)
    whole_clip = preprocess.batch([whole.clips[0]])["input_values"][0]
    assert torch.allclose(test["input_values"][0][: len(whole_clip)], whole_clip[:8], atol=1e-5)


def recognizer(vocabulary: Vocabulary | None, step: int) -> Any:
    preprocess = WaveformFeatureExtractor(sampling_rate=RATE, vocabulary=vocabulary)
    return SimpleNamespace(preprocess=preprocess, frames=lambda samples: samples // step)


def test_speech_in_batches_and_clips_too_short_for_their_text() -> None:
    speech = Recordings(clips(), ["ab"] * 12)
    splits = Splits(speech, speech, "noise", False, "made here")
    vocabulary = Vocabulary.of(["ab"])
    data = SpeechDataModule(splits, recognizer(vocabulary, 100), 4, tempo=0.1, noise=0.1)
    assert data.train.tempo == 0.1 and data.test.tempo == 0.0 and data.augment.noise == 0.1
    assert data.first_clip()[1] == RATE and next(iter(data.train_dataloader()))["labels"].shape == (4, 2)
    with pytest.raises(DataError, match=r"clip 0 is 0\.10 s long, which gives 1 frames .* needs 2"):
        SpeechDataModule(splits, recognizer(vocabulary, 400), 4, tempo=0.5)
    with pytest.raises(ValueError, match="no vocabulary"):
        SpeechDataModule(splits, recognizer(None, 100), 4)
