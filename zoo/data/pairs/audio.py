"""Load audio clips with captions from tables, or with captions made from the labels of a labeled dataset."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from zoo.data.audio.dataset import AudioDataset, AudioSplits
from zoo.data.audio.load import SYNTHETIC, TASK, check_sampling_rate, labeled_clips, load_audio
from zoo.data.audio.tables import AudioClips, audio_folder, decode_audio, with_full_paths
from zoo.data.config import AudioPairSettings
from zoo.data.pairs.dataset import PairDataset, PairSplits
from zoo.data.pairs.load import finish, from_tables
from zoo.data.pairs.tables import CAPTION_FILES, NAMES, Rows, caption_folder
from zoo.data.sources.columns import LABEL_NAMES
from zoo.data.sources.find import find_tables
from zoo.data.sources.tables import SUFFIXES, Table
from zoo.utils.errors import DataError, did_you_mean


def load_audio_pairs(
    settings: AudioPairSettings | None = None, *, sampling_rate: int = 0, seed: int = 0
) -> PairSplits[AudioClips]:
    """Load and decode a dataset of audio clips with captions.

    Args:
        settings: Dataset and options; see `AudioPairSettings`.
        sampling_rate: Required sampling rate in Hz; 0 uses `settings.sampling_rate`, then that of the files.
        seed: Seed of splits and subsets.

    Raises:
        DataError: An unknown name, column or class; missing or broken files (listed); files with different sampling
            rates. The message says how to fix it.
    """
    s = settings or AudioPairSettings()
    if has_captions(s):
        _check_no_class_options(s)
        decoder = AudioDecoder(sampling_rate or s.sampling_rate, s.resample)
        source, s = find_tables(s, "audio-text pairs", folder=caption_folder)
        return finish(from_tables(source, s, "audio", decoder, seed), s, seed)
    if s.name in SYNTHETIC:
        return pairs_from_classes(load_audio(s, sampling_rate=sampling_rate, seed=seed), s)
    s = replace(s, sampling_rate=check_sampling_rate(s.sampling_rate, sampling_rate))
    source, s = find_tables(s, TASK, folder=audio_folder)
    if _has_only_captions(source.tables["train"], s):
        _check_no_class_options(s)
        return finish(from_tables(source, s, "audio", AudioDecoder(s.sampling_rate, s.resample), seed), s, seed)
    tables = {split: with_full_paths(table, Path(table.where).parent) for split, table in source.tables.items()}
    clips = labeled_clips(replace(source, tables=tables), s, seed)
    return pairs_from_classes(clips.limited(s.max_train_samples, s.max_test_samples, seed), s)


def _check_no_class_options(s: AudioPairSettings) -> None:
    if s.held_out_classes:
        raise DataError(f"held_out_classes={s.held_out_classes}: {s.name} has captions instead of class labels")
    if s.group_option or s.class_names or s.normalize_labels:
        raise DataError(f"{s.name} has captions instead of class labels: omit group_column=, group_pattern=, "
                        f"class_names= and normalize_labels=")  # fmt: skip


def _has_only_captions(table: Table, s: AudioPairSettings) -> bool:
    """Whether a table has a column with a common name of captions, and none of labels."""
    labels = {s.label, *LABEL_NAMES, *table.names}
    return not labels & set(table.columns) and any(name in table.columns for name in NAMES["captions"])


def has_captions(s: AudioPairSettings) -> bool:
    """Whether the dataset has a caption column or a caption file."""
    folder = Path(s.name).expanduser()
    files = [folder / f"{CAPTION_FILES[0]}{suffix}" for suffix in SUFFIXES]
    return bool(s.captions) or any(file.is_file() for file in files)


def prompts(s: AudioPairSettings, names: list[str]) -> list[tuple[str, ...]]:
    """All captions of each class, from the templates `s.sentences`."""
    return [tuple(sentence.replace("{}", name) for sentence in s.sentences) for name in names]


def pairs_from_classes(sets: AudioSplits, s: AudioPairSettings) -> PairSplits[AudioClips]:
    """Pairs of clips and captions from a labeled dataset; held-out classes become the split `unseen`."""
    for name in s.held_out_classes:
        if name not in sets.classes:
            raise DataError(f"held_out_classes={name}: expected classes of {sets.name}: {', '.join(sets.classes)}"
                            f"{did_you_mean(name, sets.classes)}")  # fmt: skip
    if len(sets.classes) - len(set(s.held_out_classes)) < 2:
        raise DataError(
            f"held_out_classes={s.held_out_classes} leaves fewer than 2 of {len(sets.classes)} classes to train on"
        )
    is_held_out = torch.tensor([name in s.held_out_classes for name in sets.classes])
    captions = prompts(s, sets.classes)

    def pairs(part: AudioDataset, unseen: bool) -> PairDataset[AudioClips]:
        chosen = part.select((is_held_out[part.labels] == unseen).nonzero()[:, 0])
        found = PairDataset(chosen.clips, [captions[i] for i in chosen.labels.tolist()], classes=chosen.labels)
        found.group_ids, found.group_option = chosen.group_ids, chosen.group_option
        return found

    validation = None if sets.validation is None else pairs(sets.validation, False)
    train, test = pairs(sets.train, False), pairs(sets.test, False)
    unseen = concatenate([pairs(part, True) for part in sets.parts]) if s.held_out_classes else None
    return PairSplits(train, test, sets.name, sets.real, sets.source, validation=validation, classes=sets.classes,
                      unseen=unseen, notes=sets.notes)  # fmt: skip


def concatenate(parts: list[PairDataset[AudioClips]]) -> PairDataset[AudioClips]:
    """Concatenate datasets."""
    waves: list[Tensor] = [part.items[i] for part in parts for i in range(len(part))]
    labels = torch.cat([part.classes for part in parts if part.classes is not None])
    return PairDataset(
        AudioClips.of(waves, parts[0].items.sampling_rate), [c for p in parts for c in p.captions], classes=labels
    )


class AudioDecoder:
    """Decodes rows to datasets of one sampling rate: the given one, or else that of the first clip."""

    def __init__(self, sampling_rate: int, resample: bool) -> None:
        self.sampling_rate, self.resample = sampling_rate, resample

    def __call__(self, rows: Rows, skipped: list[str]) -> PairDataset[AudioClips]:
        """Decode the rows; messages of unreadable files are appended to `skipped`."""
        if not len(rows):
            return PairDataset(AudioClips.of([], self.sampling_rate), [])
        decoded = decode_audio(
            rows.blobs,
            rows.places.__getitem__,
            sampling_rate=self.sampling_rate,
            resample=self.resample,
            on_error="collect",
        )
        skipped += decoded.broken
        self.sampling_rate = decoded.clips.sampling_rate
        return PairDataset(decoded.clips, [rows.captions[i] for i in decoded.kept])
