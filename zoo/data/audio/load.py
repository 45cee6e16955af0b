"""Sounds of named classes: spoken digits, folders and tables of a user's own, the hub's, or the embedded sounds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.data.audio.dataset import AudioDataset, AudioSplits
from zoo.data.audio.tables import AUDIO_NAMES, AudioClips, card_tables, column, decode_audio, find_tables, sources_of
from zoo.data.config import AudioDataSettings, AudioSourceSettings
from zoo.data.sources.dataset_cards import list_cards, load_card
from zoo.data.sources.hub import hub_tables
from zoo.data.sources.labels import encode_labels
from zoo.data.sources.tables import SUFFIXES, Table
from zoo.data.splits import held_rows
from zoo.data.synthetic import audio as synthetic
from zoo.data.text.load import LABEL_NAMES
from zoo.preprocessing.audio_io import resampled
from zoo.utils.console import announce
from zoo.utils.errors import DataError, did_you_mean

TEST_SHARE = 0.1
TASK = "audio classification"


def load_audio(settings: AudioDataSettings | None = None, *, seed: int = 0, sampling_rate: int = 0) -> AudioSplits:
    """Find, read and decode a set of sounds with labels; see `AudioDataSettings` for where from.

    Args:
        seed: Of the split and of the choice of fewer sounds.
        sampling_rate: Samples per second that are needed; 0 leaves it to `settings.sampling_rate`, then to the files.

    Raises:
        DataError: An unknown name, column or speaker; a missing, broken or empty file; files of several rates; labels
            that are missing, or all of one class; says how to mend it.
    """
    s = settings or AudioDataSettings()
    s = replace(s, sampling_rate=_agreed(s.sampling_rate, sampling_rate))
    sets = _find(s, seed)
    return replace(
        sets,
        train=sets.train.subset(s.max_train_samples, seed=seed),
        test=sets.test.subset(s.max_test_samples, seed=seed),
    )


def _agreed(asked: int, needed: int) -> int:
    if asked and needed and asked != needed:
        raise DataError(
            f"sampling_rate={asked}: the model of model.source= hears {needed} samples per second; leave rate= away"
        )
    return needed or asked


def _find(s: AudioDataSettings, seed: int) -> AudioSplits:
    if s.name in ("auto", "synthetic", "synthetic_audio"):
        return _refit(synthetic_audio(), s)
    tables, source, name = named_tables(s, TASK, "audio clips that the program synthesizes")
    label = column(tables["train"], s.label, "label", LABEL_NAMES)
    card = load_card(name) if name in list_cards() else None
    sets = from_tables(tables, s, label, list(card.labels) if card else None, seed)
    return replace(sets, name=name, source=source)


def synthetic_audio() -> AudioSplits:
    """The sounds that the program synthesizes."""
    train, test = (
        AudioDataset(AudioClips.of(list(waves), synthetic.SAMPLING_RATE), labels)
        for waves, labels in (
            synthetic.make_audio(n, seed=seed) for seed, n in enumerate((synthetic.TRAIN, synthetic.TEST))
        )
    )
    return AudioSplits(train, None, test, list(synthetic.CLASSES), "synthetic", False, "synthesized by the program")


def _refit(sets: AudioSplits, s: AudioDataSettings) -> AudioSplits:
    """The embedded sounds at another rate."""
    if not s.sampling_rate or s.sampling_rate == sets.sampling_rate:
        return sets
    if not s.resample:
        raise DataError(f"the embedded sounds have {sets.sampling_rate} samples per second, {s.sampling_rate} are asked for: "
                        f"resample=true converts them")  # fmt: skip
    parts = []
    for part in (sets.train, sets.test):
        waves = [resampled(part.clips[i], sets.sampling_rate, s.sampling_rate) for i in range(len(part))]
        parts.append(replace(part, clips=AudioClips.of(waves, s.sampling_rate)))
    return replace(sets, train=parts[0], test=parts[1])


def named_tables(s: Any, task: str, instead: str) -> tuple[dict[str, Table], str, str]:
    """(tables by split, where they came from, name) of what `s.name` says: a card, a file or folder, a hub data set.

    Raises: DataError, for an unknown name with the nearest.
    """
    cards = [n for n in list_cards() if (card := load_card(n)).task == TASK and card.real]
    path = Path(s.name).expanduser()
    if s.name in cards:
        return *card_tables(load_card(s.name), s, instead), s.name
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        return find_tables(path), str(path), path.resolve().stem
    if s.name.count("/") == 1 and not path.exists():
        name = s.name.removeprefix("hf-hub:")
        return hub_tables(name), f"hub {name}", name
    known = ["synthetic", *cards]
    raise DataError(f"data {s.name!r}: no such folder or table, no hub data set (org/name), and none of "
                    f"{', '.join(known)}{did_you_mean(s.name, known)}")  # fmt: skip


def from_tables(
    tables: dict[str, Table], s: AudioDataSettings, label: str, classes: list[str] | None, seed: int
) -> AudioSplits:
    """Decoded sounds with the labels of a column; a tenth of each class becomes the test where there is none."""
    tables = hold_out_speaker(tables, s)
    read: dict[str, AudioClips] = {}
    rows: dict[str, list[int]] = {}
    for split, table in tables.items():
        labeled = with_values(table, label, s.on_error, "label")
        read[split], rows[split] = read_audio(
            table, s, labeled, sampling_rate=read["train"].sampling_rate if read else s.sampling_rate
        )
    _, names, labels = encode_labels(tables, [label], rows, "single_label_classification", classes)
    who = {split: t.columns.get(s.speaker, []) for split, t in tables.items()}
    sets = {
        split: AudioDataset(clips, labels[split], [str(who[split][i]) for i in rows[split]] if who[split] else [])
        for split, clips in read.items()
    }
    if "test" not in sets:
        held = held_rows(sets["train"].labels, TEST_SHARE, seed)
        if not torch.equal(sets["train"].labels[~held].unique(), sets["train"].labels.unique()):
            raise DataError(f"{tables['train'].where}: a class has a single sound, and none is left to train on once "
                            f"a tenth is held out for the test; give more, or a test part")  # fmt: skip
        parts = [sets["train"].take(part.nonzero()[:, 0]) for part in (~held, held)]
        sets |= {"train": parts[0], "test": parts[1]}
    return AudioSplits(sets["train"], sets.get("validation"), sets["test"], names, s.name, True, tables["train"].where)


def with_values(table: Table, name: str, on_error: str, role: str) -> list[int]:
    """Rows that have something in a column. Raises: DataError for one that has not, unless on_error is "skip"."""
    if name not in table.columns:
        raise DataError(f"{table.where} has no column {name!r} for the {role}, it has {', '.join(table.columns)}")
    values = table.columns[name]
    empty = [i for i, v in enumerate(values) if v is None or (isinstance(v, str) and not v.strip())]
    if empty and on_error == "raise":
        raise DataError(f"{table.place(empty[0])}: no {role} in {name!r} (on_error=skip leaves such rows out)")
    if empty:
        announce(f"{len(empty)} rows without a {role} were skipped, the first is {table.place(empty[0])}")
    if len(empty) == len(values):
        raise DataError(f"{table.where}: no row has a {role}")
    gone = set(empty)
    return [i for i in range(len(values)) if i not in gone]


def read_audio(
    table: Table, s: AudioSourceSettings, rows: list[int], *, sampling_rate: int
) -> tuple[AudioClips, list[int]]:
    """The sounds of some rows of a table, and the rows of those that could be read."""
    sources, names = sources_of(table, column(table, s.audio, "audio", AUDIO_NAMES))
    heard = decode_audio([sources[i] for i in rows], lambda i: names[rows[i]], sampling_rate=sampling_rate, resample=s.resample,
                          on_error=s.on_error)  # fmt: skip
    if heard.broken:
        more = " ..." * (len(heard.broken) > 3)
        announce(f"{len(heard.broken)} broken sounds were skipped: {' '.join(heard.broken[:3])}{more}")
    return heard.clips, [rows[i] for i in heard.kept]


def hold_out_speaker(tables: dict[str, Table], s: AudioSourceSettings) -> dict[str, Table]:
    """With `s.held_out_speaker`: one speaker's rows of all tables are the test, the others' rows of `train` the training.

    Raises: DataError for an unknown speaker, or a table that does not say who speaks.
    """
    if not s.held_out_speaker:
        return tables
    for table in tables.values():
        column(table, s.speaker, "speaker", ())
    said = {split: [str(v) for v in t.columns[s.speaker]] for split, t in tables.items()}
    known = sorted({name for names in said.values() for name in names})
    if s.held_out_speaker not in known:
        raise DataError(f"held_out_speaker={s.held_out_speaker}: nobody is called so in {s.speaker!r}; there are "
                        f"{', '.join(known[:20])}{did_you_mean(s.held_out_speaker, known)}")  # fmt: skip
    if len(set(said["train"])) < 2:
        raise DataError(f"held_out_speaker={s.held_out_speaker}: nobody else is left to train on")
    train = _rows(tables["train"], [i for i, who in enumerate(said["train"]) if who != s.held_out_speaker])
    held = [
        _rows(t, [i for i, who in enumerate(said[split]) if who == s.held_out_speaker]) for split, t in tables.items()
    ]
    names = [name for name in train.columns if all(name in t.columns for t in held)]
    joined = {name: [value for t in held for value in t.columns[name]] for name in names}
    return {"train": train, "test": Table(joined, f"{train.where}, {s.held_out_speaker}", names=train.names)}


def _rows(table: Table, rows: list[int]) -> Table:
    lines = None if table.lines is None else [table.lines[i] for i in rows]
    return replace(table, columns={name: [v[i] for i in rows] for name, v in table.columns.items()}, lines=lines)
