"""Labeled audio clips in memory."""

from dataclasses import dataclass, field

from torch import Tensor

from zoo.data.audio.tables import AudioClips
from zoo.data.splits import balanced_rows


@dataclass
class AudioDataset:
    """Labeled audio clips.

    Attributes:
        clips: N audio clips.
        labels: int64 [N].
        speakers: Speaker of each clip; empty if unknown.
    """

    clips: AudioClips
    labels: Tensor
    speakers: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.clips)

    def take(self, rows: Tensor) -> "AudioDataset":
        """The clips of these rows."""
        speakers = [self.speakers[i] for i in rows.tolist()] if self.speakers else []
        return AudioDataset(self.clips.take(rows), self.labels[rows], speakers)

    def subset(self, count: int, *, seed: int = 0) -> "AudioDataset":
        """A seeded, class-balanced subset of `count` clips; 0 keeps all."""
        return self if not count or count >= len(self) else self.take(balanced_rows(self.labels, count, seed))


@dataclass
class AudioSplits:
    """Splits of a labeled audio dataset.

    Attributes:
        classes: Class names.
        validation: None if the dataset has no validation split; hold out a part of `train` then.
        real: False for synthesized audio.
        source: Origin of the data: a path, a Hub repository, or a description.
    """

    train: AudioDataset
    validation: AudioDataset | None
    test: AudioDataset
    classes: list[str]
    name: str
    real: bool
    source: str

    @property
    def sampling_rate(self) -> int:
        """Samples per second."""
        return self.train.clips.sampling_rate
