"""Sounds with captions: written ones from a table, or sentences about the classes of a labeled set."""

from pathlib import Path

import torch
from torch import Tensor

from zoo.data.audio.dataset import AudioDataset, AudioSplits
from zoo.data.audio.load import load_audio
from zoo.data.audio.tables import AudioClips, decode_audio
from zoo.data.config import AudioPairSettings
from zoo.data.pairs.dataset import PairDataset, PairSplits
from zoo.data.pairs.load import finish, from_tables
from zoo.data.pairs.tables import CAPTION_FILES, Rows, find_tables
from zoo.data.sources.tables import SUFFIXES
from zoo.utils.errors import DataError, did_you_mean


def load_audio_pairs(
    settings: AudioPairSettings | None = None, *, sampling_rate: int = 0, seed: int = 0
) -> PairSplits[AudioClips]:
    """Find, read and decode sounds with captions; see `AudioPairSettings` for where from.

    Args:
        sampling_rate: Samples per second that are needed; 0 leaves it to `settings.sampling_rate`, then to the files.
        seed: Of splits and smaller choices.

    Raises:
        DataError: An unknown name, column or class; missing or broken files (listed); files of several rates; says how
            to mend it.
    """
    s = settings or AudioPairSettings()
    if captioned(s):
        if s.held_out_classes:
            raise DataError(
                f"held_out_classes={s.held_out_classes}: the sounds of {s.name} have captions and no classes"
            )
        decoder = AudioDecoder(sampling_rate or s.sampling_rate, s.resample)
        name = Path(s.name).name or s.name
        sets = from_tables(find_tables(s.name), s, "audio", decoder, seed, name=name, source=s.name)
        return finish(sets, s, seed)
    return of_classes(load_audio(s, sampling_rate=sampling_rate, seed=seed), s)


def captioned(s: AudioPairSettings) -> bool:
    """Whether captions are written beside the sounds."""
    folder = Path(s.name).expanduser()
    files = [folder / f"{CAPTION_FILES[0]}{suffix}" for suffix in SUFFIXES]
    return bool(s.captions) or any(file.is_file() for file in files)


def prompts(s: AudioPairSettings, names: list[str]) -> list[tuple[str, ...]]:
    """All that is said of each class."""
    return [tuple(sentence.replace("{}", name) for sentence in s.sentences) for name in names]


def of_classes(sets: AudioSplits, s: AudioPairSettings) -> PairSplits[AudioClips]:
    """A labeled set as pairs; classes that are to stay unseen are kept apart."""
    for name in s.held_out_classes:
        if name not in sets.classes:
            raise DataError(f"held_out_classes={name}: the classes of {sets.name} are {', '.join(sets.classes)}"
                            f"{did_you_mean(name, sets.classes)}")  # fmt: skip
    if len(sets.classes) - len(set(s.held_out_classes)) < 2:
        raise DataError(
            f"held_out_classes={s.held_out_classes} leaves fewer than two of {len(sets.classes)} classes to train on"
        )
    kept_out = torch.tensor([name in s.held_out_classes for name in sets.classes])
    said = prompts(s, sets.classes)

    def pairs(part: AudioDataset, unseen: bool) -> PairDataset[AudioClips]:
        chosen = part.take((kept_out[part.labels] == unseen).nonzero()[:, 0])
        return PairDataset(chosen.clips, [said[i] for i in chosen.labels.tolist()], classes=chosen.labels)

    parts = [sets.train, sets.validation, sets.test]
    validation = None if sets.validation is None else pairs(sets.validation, False)
    train, test = pairs(sets.train, False), pairs(sets.test, False)
    unseen = joined([pairs(part, True) for part in parts if part]) if s.held_out_classes else None
    return PairSplits(train, validation, test, sets.name, sets.real, sets.source, sets.classes, unseen)


def joined(parts: list[PairDataset[AudioClips]]) -> PairDataset[AudioClips]:
    """Sets behind each other."""
    waves: list[Tensor] = [part.items[i] for part in parts for i in range(len(part))]
    labels = torch.cat([part.classes for part in parts if part.classes is not None])
    return PairDataset(
        AudioClips.of(waves, parts[0].items.sampling_rate), [c for p in parts for c in p.captions], classes=labels
    )


class AudioDecoder:
    """Makes sets of rows, all of one rate: the given one, else that of the first sound."""

    def __init__(self, sampling_rate: int, resample: bool) -> None:
        self.sampling_rate, self.resample = sampling_rate, resample

    def __call__(self, rows: Rows, skipped: list[str]) -> PairDataset[AudioClips]:
        """Decode; what cannot be read is left out and goes into `skipped`."""
        if not len(rows):
            return PairDataset(AudioClips.of([], self.sampling_rate), [])
        heard = decode_audio(rows.blobs, rows.places.__getitem__, sampling_rate=self.sampling_rate, resample=self.resample,
                              on_error="skip")  # fmt: skip
        skipped += heard.broken
        self.sampling_rate = heard.clips.sampling_rate
        return PairDataset(heard.clips, [rows.captions[i] for i in heard.kept])
