"""Labeled audio clips in memory."""

from dataclasses import dataclass, field

from torch import Tensor

from zoo.data.audio.tables import AudioClips
from zoo.data.splits import even_rows


@dataclass
class AudioDataset:
    """clips: N sounds; labels: int64 [N]; speakers: who speaks in each, where that is known."""

    clips: AudioClips
    labels: Tensor
    speakers: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.clips)

    def take(self, rows: Tensor) -> "AudioDataset":
        """The sounds of these rows."""
        speakers = [self.speakers[i] for i in rows.tolist()] if self.speakers else []
        return AudioDataset(self.clips.take(rows), self.labels[rows], speakers)

    def subset(self, count: int, *, seed: int = 0) -> "AudioDataset":
        """`count` sounds, the classes as evenly as they allow; 0 keeps all."""
        return self if not count or count >= len(self) else self.take(even_rows(self.labels, count, seed))


@dataclass
class AudioSplits:
    """Parts of a data set of sounds.

    Attributes:
        classes: Names of the labels.
        validation: None where the data brings none: a part of `train` is then to be held out.
        real: False for sounds that the program synthesized.
        source: Where they came from.
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
