"""Labeled audio clips in memory."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from torch import Tensor

from zoo.data.audio.tables import AudioClips
from zoo.data.splits import Items, Splits


@dataclass
class AudioDataset(Items):
    """Labeled audio clips.

    Attributes:
        clips: N audio clips.
        labels: int64 [N].
        speakers: Speaker of each clip; empty if unknown.
    """

    noun: ClassVar[str] = "clips"

    clips: AudioClips
    labels: Tensor
    speakers: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.clips)

    def take(self, rows: Tensor) -> Self:
        """The clips of these rows."""
        speakers = [self.speakers[i] for i in rows.tolist()] if self.speakers else []
        return replace(self, clips=self.clips.take(rows), labels=self.labels[rows], speakers=speakers)

    def groups(self) -> Tensor:
        """The classes."""
        return self.labels


@dataclass
class AudioSplits(Splits[AudioDataset]):
    """Splits of a labeled audio dataset."""

    @property
    def sampling_rate(self) -> int:
        """Samples per second."""
        return self.train.clips.sampling_rate
