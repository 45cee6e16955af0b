"""Sounds with captions: written ones from a table, or sentences about the classes of a labelled set."""

from pathlib import Path

import torch
from torch import Tensor

from zoo.data.audio.dataset import SoundSet, SoundSets
from zoo.data.audio.load import load_sounds
from zoo.data.audio.tables import Clips, decode_sounds
from zoo.data.config import SoundPairSettings
from zoo.data.pairs.dataset import PairSet, PairSets
from zoo.data.pairs.load import finish, from_tables
from zoo.data.pairs.tables import CAPTION_FILES, Rows, find_tables
from zoo.data.sources.tables import SUFFIXES
from zoo.utils.errors import DataError, did_you_mean


def load_sound_pairs(settings: SoundPairSettings | None = None, *, rate: int = 0, seed: int = 0) -> PairSets[Clips]:
    """Find, read and decode sounds with captions; see `SoundPairSettings` for where from.

    Args:
        rate: Samples per second that are needed; 0 leaves it to `settings.rate`, then to the files.
        seed: Of splits and smaller choices.

    Raises:
        DataError: An unknown name, column or class; missing or broken files (listed); files of several rates; says how
            to mend it.
    """
    s = settings or SoundPairSettings()
    if captioned(s):
        if s.unseen:
            raise DataError(f"unseen={s.unseen}: the sounds of {s.name} have captions and no classes")
        decoder = SoundDecoder(rate or s.rate, s.resample)
        name = Path(s.name).name or s.name
        sets = from_tables(find_tables(s.name), s, "audio", decoder, seed, name=name, source=s.name)
        return finish(sets, s, seed)
    return of_classes(load_sounds(s, rate=rate, seed=seed), s)


def captioned(s: SoundPairSettings) -> bool:
    """Whether captions are written beside the sounds."""
    folder = Path(s.name).expanduser()
    files = [folder / f"{CAPTION_FILES[0]}{suffix}" for suffix in SUFFIXES]
    return bool(s.captions) or any(file.is_file() for file in files)


def prompts(s: SoundPairSettings, names: list[str]) -> list[tuple[str, ...]]:
    """All that is said of each class."""
    return [tuple(sentence.replace("{}", name) for sentence in s.sentences) for name in names]


def of_classes(sets: SoundSets, s: SoundPairSettings) -> PairSets[Clips]:
    """A labelled set as pairs; classes that are to stay unseen are kept apart."""
    for name in s.unseen:
        if name not in sets.classes:
            raise DataError(f"unseen={name}: the classes of {sets.name} are {', '.join(sets.classes)}"
                            f"{did_you_mean(name, sets.classes)}")  # fmt: skip
    if len(sets.classes) - len(set(s.unseen)) < 2:
        raise DataError(f"unseen={s.unseen} leaves fewer than two of {len(sets.classes)} classes to train on")
    kept_out = torch.tensor([name in s.unseen for name in sets.classes])
    said = prompts(s, sets.classes)

    def pairs(part: SoundSet, unseen: bool) -> PairSet[Clips]:
        chosen = part.take((kept_out[part.labels] == unseen).nonzero()[:, 0])
        return PairSet(chosen.clips, [said[i] for i in chosen.labels.tolist()], classes=chosen.labels)

    parts = [sets.train, sets.validation, sets.test]
    validation = None if sets.validation is None else pairs(sets.validation, False)
    train, test = pairs(sets.train, False), pairs(sets.test, False)
    unseen = joined([pairs(part, True) for part in parts if part]) if s.unseen else None
    return PairSets(train, validation, test, sets.name, sets.real, sets.source, sets.classes, unseen)


def joined(parts: list[PairSet[Clips]]) -> PairSet[Clips]:
    """Sets behind each other."""
    waves: list[Tensor] = [part.things[i] for part in parts for i in range(len(part))]
    labels = torch.cat([part.classes for part in parts if part.classes is not None])
    return PairSet(Clips.of(waves, parts[0].things.rate), [c for p in parts for c in p.captions], classes=labels)


class SoundDecoder:
    """Makes sets of rows, all of one rate: the given one, else that of the first sound."""

    def __init__(self, rate: int, resample: bool) -> None:
        self.rate, self.resample = rate, resample

    def __call__(self, rows: Rows, skipped: list[str]) -> PairSet[Clips]:
        """Decode; what cannot be read is left out and goes into `skipped`."""
        if not len(rows):
            return PairSet(Clips.of([], self.rate), [])
        heard = decode_sounds(rows.blobs, rows.places.__getitem__, rate=self.rate, resample=self.resample,
                              on_error="skip")  # fmt: skip
        skipped += heard.broken
        self.rate = heard.clips.rate
        return PairSet(heard.clips, [rows.captions[i] for i in heard.kept])
