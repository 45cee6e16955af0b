"""Labeled audio clips of shards, decoded batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.audio.dataset import AudioDataset, AudioSplits
from zoo.data.audio.spectrograms import Spectrograms
from zoo.data.audio.tables import AUDIO_NAMES, AudioClips, SamplingRateMismatch, decode_clip
from zoo.data.config import AudioDataSettings
from zoo.data.keyed_batches import Keys
from zoo.data.sources.class_names import read_names
from zoo.data.splits import with_test
from zoo.data.stream_order import StreamOrder
from zoo.data.streams.folder import Shards, describe, open_splits
from zoo.data.streams.labels import label_role, numbered_labels
from zoo.data.streams.records import Role
from zoo.data.streams.rows import StreamRows
from zoo.preprocessing.audio_io import info
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.utils.errors import DataError

ENDINGS = ("wav", "flac", "ogg", "mp3", "opus", "m4a")
SAMPLE = 1000  # clips that the length of the input, the mean and the standard deviation are computed from


class StreamedClips(AudioClips):
    """The clips of rows of shards, decoded where they are indexed.

    Args:
        stream: The rows.
        sampling_rate: Sampling rate in Hz; 0 is that of the first clip.
        resample: Resample clips with another sampling rate; otherwise they raise.
    """

    def __init__(self, stream: StreamRows, sampling_rate: int, resample: bool) -> None:
        self.stream, self.resample = stream, resample
        self.sampling_rate = sampling_rate or _first_rate(stream)

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, i: int) -> Tensor:
        """Waveform [S] of one clip."""
        return self.decoded([i])[0]

    def decoded(self, items: Sequence[int]) -> list[Tensor]:
        """The waveforms [S] at these positions. Raises: DataError that names a broken or short one."""
        waves = []
        for item, blob in zip(items, self.stream.read(items, "audio")):
            place = self.stream.place(item)
            try:
                waves.append(decode_clip(blob, place, sampling_rate=self.sampling_rate, resample=self.resample))
            except SamplingRateMismatch:
                raise
            except ValueError as error:
                raise _broken(place, error) from None
        return waves

    def take(self, rows: Tensor) -> "StreamedClips":
        """The clips of these rows."""
        return StreamedClips(self.stream.take(rows), self.sampling_rate, self.resample)

    def sample(self) -> AudioClips:
        """Clips in memory, 1,000 at most, evenly spaced."""
        step = max(1, len(self) // SAMPLE)
        return AudioClips.of(self.decoded(range(0, len(self), step)[:SAMPLE]), self.sampling_rate)


def _first_rate(stream: StreamRows) -> int:
    try:
        return info(stream.read([0], "audio")[0]).sampling_rate
    except ValueError as error:
        raise _broken(stream.place(0), error) from None


def _broken(place: str, error: ValueError) -> DataError:
    return DataError(f"{place}: {error}; replace the clip, or write the shard without it")


@dataclass
class StreamedAudio(AudioDataset):
    """Labeled audio clips of shards: an AudioDataset whose clips are decoded where they are indexed."""

    @property
    def stream(self) -> StreamRows:
        """The rows of the clips."""
        clips: Any = self.clips
        return clips.stream

    def key_hashes(self) -> Tensor:
        """Those of the keys of the clips."""
        return self.stream.hashes


class StreamedSpectrograms(Dataset[Any]):
    """Dataset of the spectrograms of clips in shards, with the batches of Spectrograms.

    Args:
        audio: The clips.
        preprocess: Feature extractor of the model.
    """

    def __init__(self, audio: StreamedAudio, preprocess: SpectrogramFeatureExtractor) -> None:
        self.audio, self.preprocess, self.labels = audio, preprocess, audio.labels

    def __len__(self) -> int:
        return len(self.audio)

    def stream_order(self, seed: int) -> StreamOrder:
        """The order of training."""
        return self.audio.stream.order(seed)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        index = torch.tensor(list(keys))
        batch = self._spectrograms(index).__getitems__(Keys(range(len(keys)), keys.epoch))
        return batch | {"index": index, "epoch": keys.random_epoch}

    def means_and_deviations(self, rows: Tensor) -> Tensor:
        """Mean and standard deviation of each mel bin over time, float32 [n, 2 F]."""
        found = self._spectrograms(rows)
        clips = found.values.split(found.lengths.tolist())
        return torch.stack([torch.cat([clip.mean(0), clip.std(0, correction=0)]) for clip in clips])

    def _spectrograms(self, rows: Tensor) -> Spectrograms:
        clips: Any = self.audio.clips
        waves = AudioClips.of(clips.decoded(rows.tolist()), clips.sampling_rate)
        return Spectrograms.of(waves, self.labels[rows], self.preprocess)


def load_streamed_audio(sources: Sequence[Shards], s: AudioDataSettings, seed: int) -> AudioSplits:
    """Splits of labeled audio clips in shards, of which nothing but the index and the labels is read.

    Raises: DataError for damaged files, samples without audio or a label, and options of data in memory.
    """
    parts = open_splits(sources, s, [Role("audio", ENDINGS, AUDIO_NAMES, s.audio), label_role(s.label)])
    classes, labels = numbered_labels(parts, read_names(s.class_names))
    sets, rate = {}, s.sampling_rate
    for split, part in parts.items():
        clips = StreamedClips(part, rate, s.resample)
        sets[split], rate = StreamedAudio(clips, labels[split]), clips.sampling_rate
    sets = with_test(sets, seed, f"{s.name} has a single clip: none is left to hold out for testing; add some")
    notes = [f"read piece by piece from {describe(sources)}"]
    name = Path(s.name).expanduser().resolve().name
    return AudioSplits(sets["train"], sets["test"], name, True, describe(sources), validation=sets.get("validation"),
                       classes=classes, notes=notes)  # fmt: skip
