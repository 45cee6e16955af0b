"""Audio clips of shards: batches equal those of clips in memory, and what is said of broken ones."""

import io
import math
from pathlib import Path

import pytest
import soundfile
import torch

from tests.shard_files import write_tar
from zoo.data import AudioDataModule, AudioDataSettings, AudioSplits, load_audio
from zoo.data.audio.spectrograms import Spectrograms
from zoo.data.audio.streamed import StreamedAudio
from zoo.data.keyed_batches import Keys
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.utils.errors import DataError

RATE = 8000


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def clip(i: int, rate: int = RATE, kind: str = "WAV") -> bytes:
    time = torch.arange(rate // 10 + 40 * i) / rate
    file = io.BytesIO()
    soundfile.write(file, (0.5 * torch.sin(2 * math.pi * (300 + 50 * i) * time)).numpy(), rate, format=kind)
    return file.getvalue()


def write(folder: Path, **more: dict[str, bytes]) -> Path:
    clips = {f"{i}": {("wav", "flac")[i % 2]: clip(i, kind=("WAV", "FLAC")[i % 2]), "cls": b"%d" % (i % 2)}
             for i in range(20)}  # fmt: skip
    write_tar(folder / "a.tar", clips | more)
    return folder


def load(folder: Path, **options: object) -> AudioSplits:
    return load_audio(AudioDataSettings(name=str(folder), **options))  # type: ignore[arg-type]


def test_batches_are_those_of_clips_in_memory(tmp_path: Path) -> None:
    sets = load(write(tmp_path / "data")).with_validation(0.2, 0)
    assert isinstance(sets.train, StreamedAudio) and sum(map(len, sets.parts)) == 20 and sets.sampling_rate == RATE
    extractor = SpectrogramFeatureExtractor(sampling_rate=RATE, num_mel_bins=16, frames=32)
    data = AudioDataModule(sets, extractor, 4)
    memory = Spectrograms.of(sets.train.clips.sample(), sets.train.labels, extractor)
    for keys in data.batches(step=lambda: 0):
        batch, other = data.train.__getitems__(keys), memory.__getitems__(keys)
        assert all(torch.equal(batch[name], other[name]) for name in ("labels", "frames", "index"))
        for values, expected, frames in zip(batch["input_values"], other["input_values"], batch["frames"]):
            assert torch.allclose(values[:frames], expected[:frames], atol=1e-5)
    first, values = memory.__getitems__(Keys([0], 0)), data.simple_features("train", torch.arange(3))
    assert torch.allclose(values[0, :16], first["input_values"][0].mean(0), atol=1e-5) and values.shape == (3, 32)
    assert data.sample_spectrograms(1)[0].shape == (1, 32, 16) and data.first_clip()[1] == RATE


@pytest.mark.parametrize(("sample", "says"), [
    ({"wav": b"no audio", "cls": b"0"}, r"a\.tar, sample x: .*write the shard without it"),
    ({"wav": clip(0, 16000), "cls": b"0"}, r"sample x has a sampling rate of 16000 Hz, expected 8000: pass data\.resa"),
    ({"cls": b"0"}, r"sample x has no audio: expected a member wav, flac"),
])  # fmt: skip
def test_broken_clips_are_named(sample: dict[str, bytes], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        [part.clips.sample() for part in load(write(tmp_path / "data", x=sample)).parts]
    if sample.get("wav", b"").startswith(b"RIFF"):
        resampled = [part.clips.sample() for part in load(tmp_path / "data", resample=True).parts]
        assert sum(map(len, resampled)) == 21
