"""Labelled audio clips in memory."""

from dataclasses import dataclass, field

from torch import Tensor

from zoo.data.audio.tables import Clips
from zoo.data.splits import even_rows


@dataclass
class SoundSet:
    """clips: N sounds; labels: int64 [N]; speakers: who speaks in each, where that is known."""

    clips: Clips
    labels: Tensor
    speakers: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.clips)

    def take(self, rows: Tensor) -> "SoundSet":
        """The sounds of these rows."""
        speakers = [self.speakers[i] for i in rows.tolist()] if self.speakers else []
        return SoundSet(self.clips.take(rows), self.labels[rows], speakers)

    def subset(self, count: int, *, seed: int = 0) -> "SoundSet":
        """`count` sounds, the classes as evenly as they allow; 0 keeps all."""
        return self if not count or count >= len(self) else self.take(even_rows(self.labels, count, seed))


@dataclass
class SoundSets:
    """Parts of a data set of sounds.

    Attributes:
        classes: Names of the labels.
        validation: None where the data brings none: a part of `train` is then to be held out.
        real: False for sounds that the program synthesised.
        source: Where they came from.
    """

    train: SoundSet
    validation: SoundSet | None
    test: SoundSet
    classes: list[str]
    name: str
    real: bool
    source: str

    @property
    def rate(self) -> int:
        """Samples per second."""
        return self.train.clips.rate
