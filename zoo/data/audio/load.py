"""Load labeled audio clips: spoken digits, your own folders and tables, Hub datasets or synthetic audio."""

from dataclasses import replace
from typing import Any

from zoo.data.audio.dataset import AudioDataset, AudioSplits
from zoo.data.audio.streamed import load_streamed_audio
from zoo.data.audio.tables import AUDIO_NAMES, AudioClips, audio_folder, decode_audio, read_audio_table, sources_of
from zoo.data.config import AudioDataSettings, AudioSourceSettings, LabeledAudioSettings
from zoo.data.sources.class_names import columns_of, name_labels
from zoo.data.sources.columns import LABEL_NAMES, announce_skipped, drop_unlabeled_splits, find_column, with_values
from zoo.data.sources.find import Source, find_tables
from zoo.data.sources.groups import assign_groups
from zoo.data.sources.labels import encode_labels
from zoo.data.sources.tables import Table
from zoo.data.splits import with_test
from zoo.data.streams.folder import find_shards
from zoo.data.synthetic import audio as synthetic
from zoo.utils.console import announce
from zoo.utils.errors import DataError, did_you_mean

TASK = "audio classification"
SYNTHETIC = ("auto", "synthetic", "synthetic_audio")


def load_audio(settings: LabeledAudioSettings | None = None, *, seed: int = 0, sampling_rate: int = 0) -> AudioSplits:
    """Load and decode a labeled audio dataset.

    Args:
        settings: Dataset and options; see `AudioDataSettings`, with which folders of shards are read piece by piece.
        seed: Seed of splits and subsets.
        sampling_rate: Required sampling rate in Hz; 0 uses `settings.sampling_rate`, then that of the files.

    Raises:
        DataError: An unknown name, column or speaker; a missing, broken or empty file; files with different sampling
            rates; labels that are missing or all of one class. The message says how to fix it.
    """
    s: Any = settings or AudioDataSettings()
    s = replace(s, sampling_rate=check_sampling_rate(s.sampling_rate, sampling_rate))
    if s.name in SYNTHETIC:
        sets = synthetic_audio(s.sampling_rate, s.resample)
    elif isinstance(s, AudioDataSettings) and (shards := find_shards(s)):
        sets = load_streamed_audio(shards, s, seed)
    else:
        source, s = find_tables(s, TASK, read=read_audio_table, folder=audio_folder)
        sets = labeled_clips(source, s, seed)
    return sets.limited(s.max_train_samples, s.max_test_samples, seed)


def check_sampling_rate(requested: int, required: int) -> int:
    """The sampling rate of the model, or else the requested one; 0 is none. Raises: DataError if they differ."""
    if requested and required and requested != required:
        raise DataError(
            f"data.sampling_rate={requested}: the model of model.source= takes audio at {required} Hz; "
            f"omit data.sampling_rate="
        )
    return required or requested


def synthetic_audio(sampling_rate: int = 0, resample: bool = False) -> AudioSplits:
    """The synthetic dataset of labeled audio clips, at another sampling rate if `resample` allows it."""
    train, test = (
        AudioDataset(AudioClips.of(list(waves), synthetic.SAMPLING_RATE).synthetic_at(sampling_rate, resample), labels)
        for waves, labels in (
            synthetic.make_audio(n, seed=seed) for seed, n in enumerate((synthetic.TRAIN, synthetic.TEST))
        )
    )
    return AudioSplits(train, test, "synthetic", False, "synthesized audio clips", classes=list(synthetic.CLASSES))


def labeled_clips(source: Source, s: LabeledAudioSettings, seed: int) -> AudioSplits:
    """Decode labeled clips from tables; without a test table, 10 % of each class are held out as test split."""
    label = find_column(source.tables["train"], s.label, "label", LABEL_NAMES)
    tables, notice = drop_unlabeled_splits(source.tables, [label])
    if notice:
        announce(notice)
    tables = hold_out_speaker(tables, s)
    named = name_labels(tables, columns_of(tables, label), s)
    tables = named.tables
    read: dict[str, AudioClips] = {}
    rows: dict[str, list[int]] = {}
    for split, table in tables.items():
        labeled = with_values(table, label, s.on_error, "label")
        read[split], rows[split] = read_audio(
            table, s, labeled, sampling_rate=read["train"].sampling_rate if read else s.sampling_rate
        )
    _, names, labels = encode_labels(tables, [label], rows, "single_label_classification", source.classes)
    speakers = {split: t.columns.get(s.speaker, []) for split, t in tables.items()}
    sets = {
        split: AudioDataset(
            clips, labels[split], [str(speakers[split][i]) for i in rows[split]] if speakers[split] else []
        )
        for split, clips in read.items()
    }
    notes = [*named.notes, *assign_groups(sets, tables, rows, s, source.where)]
    problem = (f"{source.where}: each class has a single clip, so that none is left to hold out for testing; "
               f"add clips or a test split")  # fmt: skip
    sets = with_test(sets, seed, problem, names)
    return AudioSplits(sets["train"], sets["test"], source.name, True, source.where,
                       validation=sets.get("validation"), classes=names, notes=notes)  # fmt: skip


def read_audio(
    table: Table, s: AudioSourceSettings, rows: list[int], *, sampling_rate: int
) -> tuple[AudioClips, list[int]]:
    """(decoded clips, their rows) of the given rows of a table; broken files are skipped with on_error="skip"."""
    sources, names = sources_of(table, find_column(table, s.audio, "audio", AUDIO_NAMES))
    decoded = decode_audio(
        [sources[i] for i in rows],
        lambda i: names[rows[i]],
        sampling_rate=sampling_rate,
        resample=s.resample,
        on_error=s.on_error,
    )
    announce_skipped(decoded.broken, "broken audio files")
    return decoded.clips, [rows[i] for i in decoded.kept]


def hold_out_speaker(tables: dict[str, Table], s: AudioSourceSettings) -> dict[str, Table]:
    """Split by speaker: test on all rows of `s.held_out_speaker`, train on the other speakers' rows of `train`.

    Raises: DataError for an unknown speaker, or a table without a speaker column.
    """
    if not s.held_out_speaker:
        return tables
    for table in tables.values():
        find_column(table, s.speaker, "speaker", ())
    speakers = {split: [str(v) for v in t.columns[s.speaker]] for split, t in tables.items()}
    known = sorted({name for names in speakers.values() for name in names})
    if s.held_out_speaker not in known:
        raise DataError(f"held_out_speaker={s.held_out_speaker}: not in column {s.speaker!r}, which has "
                        f"{', '.join(known[:20])}{did_you_mean(s.held_out_speaker, known)}")  # fmt: skip
    if len(set(speakers["train"])) < 2:
        raise DataError(f"held_out_speaker={s.held_out_speaker}: no other speaker is left to train on")
    is_held = {split: [name == s.held_out_speaker for name in names] for split, names in speakers.items()}
    train = tables["train"].take([i for i, held in enumerate(is_held["train"]) if not held])
    held = [table.take([i for i, out in enumerate(is_held[split]) if out]) for split, table in tables.items()]
    names = [name for name in train.columns if all(name in t.columns for t in held)]
    joined = {name: [value for t in held for value in t.columns[name]] for name in names}
    return {"train": train, "test": Table(joined, f"{train.where}, {s.held_out_speaker}", names=train.names)}
