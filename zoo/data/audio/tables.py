"""Where sounds come from: folders, tables, the hub; and what is in their files, decoded into one tensor."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.config import AudioSourceSettings
from zoo.data.sources.dataset_cards import Card
from zoo.data.sources.tables import SUFFIXES, VALIDATION_NAMES, Table, read_table
from zoo.preprocessing.audio_io import AudioError, info, name_of, read
from zoo.utils.errors import DataError, did_you_mean

SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64")
AUDIO_NAMES = ("audio", "file_name", "file", "path", "filename", "wav", "sound")
SHORTEST = 0.025  # seconds: a frame of kaldi's filter banks, and a token of wav2vec 2.0
_CHUNK = 64
_LAYOUT = (
    "expected one sub-folder of sounds per class (or train/ and test/ with such sub-folders), or train.parquet "
    "(.csv .tsv .jsonl) with a column of sounds"
)


@dataclass
class AudioClips:
    """Decoded sounds, one behind the other.

    Attributes:
        samples: float32, of all of them.
        lengths: int64 [N].
        sampling_rate: Samples per second.
    """

    samples: Tensor
    lengths: Tensor
    sampling_rate: int
    starts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.starts = self.lengths.cumsum(0) - self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Tensor:
        """One sound [S]."""
        return self.samples[int(self.starts[i]) : int(self.starts[i] + self.lengths[i])]

    def take(self, rows: Tensor) -> "AudioClips":
        """The sounds of these rows."""
        return AudioClips.of([self[i] for i in rows.tolist()], self.sampling_rate)

    @classmethod
    def of(cls, waves: Sequence[Tensor], sampling_rate: int) -> "AudioClips":
        """Sounds [S] of any lengths."""
        return cls(
            torch.cat(list(waves)) if waves else torch.empty(0), torch.tensor([len(w) for w in waves]), sampling_rate
        )


@dataclass
class DecodedAudio:
    """Clips; kept: which rows of the table they are; broken: "where: why" of all others."""

    clips: AudioClips
    kept: list[int]
    broken: list[str]


def decode_audio(
    sources: Sequence[Any], where: Callable[[int], str], *, sampling_rate: int, resample: bool, on_error: str
) -> DecodedAudio:
    """Decode sounds of one rate, in threads.

    Args:
        sources: Paths, or the bytes of files.
        where: Names the i-th one in messages.
        sampling_rate: Of the result; 0 takes that of the first one that can be read.
        resample: Convert those of another rate; without it they are an error, also with on_error="skip".

    Raises:
        DataError: Another rate; a broken file with on_error="raise"; nothing left with "skip".
    """
    waves: list[Tensor | None] = [None] * len(sources)
    broken: dict[int, str] = {}
    sampling_rate = sampling_rate or _first_rate(sources)

    def work(start: int) -> None:
        for i in range(start, min(start + _CHUNK, len(sources))):
            if sources[i] is None:
                broken[i] = f"{where(i)}: holds neither bytes nor a path."
                continue
            try:
                have = info(sources[i]).sampling_rate
                if have != sampling_rate and not resample:
                    raise _OtherRate(f"{where(i)} has {have} samples per second, others have, or data.sampling_rate says, "
                                     f"{sampling_rate}: resample=true converts them (data.sampling_rate= says to what)")  # fmt: skip
                wave = read(sources[i], sampling_rate=sampling_rate, resample=resample)[0]
                if len(wave) < int(SHORTEST * sampling_rate):
                    raise AudioError(f"{name_of(sources[i])} has {len(wave)} samples, at least {SHORTEST * 1000:g} ms "
                                     f"({int(SHORTEST * sampling_rate)} samples) make a frame")  # fmt: skip
                waves[i] = wave
            except _OtherRate:
                raise
            except ValueError as error:
                broken[i] = _said(error, where(i), sources[i])

    with ThreadPoolExecutor(min(8, os.cpu_count() or 4)) as pool:
        for _ in pool.map(work, range(0, len(sources), _CHUNK)):
            if broken and on_error == "raise":
                pool.shutdown(cancel_futures=True)
                break
    messages = [broken[i] for i in sorted(broken)]
    if messages and on_error == "raise":
        raise DataError(f"broken sound {messages[0]} Mend or remove it, or pass on_error=skip to go on without it")
    kept = [i for i, wave in enumerate(waves) if wave is not None]
    if not kept:
        raise DataError(f"no sound can be read; the first is {messages[0] if messages else 'missing'}")
    return DecodedAudio(AudioClips.of([w for w in waves if w is not None], sampling_rate), kept, messages)


class _OtherRate(DataError):
    """Told apart from a broken file: leaving out half of a data set is nobody's wish."""


def _first_rate(sources: Sequence[Any]) -> int:
    for source in sources:
        try:
            return info(source).sampling_rate
        except ValueError:
            continue
    return 0


def _said(error: ValueError, where: str, source: Any) -> str:
    """What is wrong, under the name that the user knows; libsndfile's reasons end with a dot, others get one."""
    text = f"{where}: {error}" if isinstance(source, bytes) else str(error)
    return text if text.endswith(".") else f"{text}."


# --- tables of sounds -------------------------------------------------------------------------------------------------


def find_tables(path: Path) -> dict[str, Table]:
    """The tables of a file or folder by split, `train` among them; files with paths have those made whole.

    Raises: DataError for a folder or file that holds no sounds as they are expected.
    """
    if not path.is_dir():
        return {"train": _whole(read_table(path), path.parent)}
    found: dict[str, Table] = {}
    for split, names in (("train", ("train", "metadata")), ("validation", VALIDATION_NAMES), ("test", ("test",))):
        files = [path / f"{name}{suffix}" for name in names for suffix in SUFFIXES]
        files += [path / name / f"metadata{suffix}" for name in names for suffix in SUFFIXES]
        if there := [file for file in files if file.is_file()]:
            found[split] = _whole(read_table(there[0]), there[0].parent)
    if found and "train" not in found:
        raise DataError(f"{path} has a table for {next(iter(found))} and none for train; {_LAYOUT}")
    return found or _by_class(path)


def _whole(table: Table, folder: Path) -> Table:
    """Paths of sounds made relative to the table that names them."""
    columns = dict(table.columns)
    for name in AUDIO_NAMES:
        if any(isinstance(value, str) for value in columns.get(name, [])):
            columns[name] = [str(folder / v) if isinstance(v, str) and v else v for v in columns[name]]
    return replace(table, columns=columns)


def _by_class(folder: Path) -> dict[str, Table]:
    """A folder with a sub-folder for each class, or with train/ and test/ (or val/) of such."""
    if not (folder / "train").is_dir():
        return {"train": _class_table(folder)}
    found = {"train": _class_table(folder / "train")}
    for split, names in (("validation", VALIDATION_NAMES), ("test", ("test",))):
        for name in names:
            if (folder / name).is_dir():
                found[split] = _class_table(folder / name)
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    return found


def _class_table(folder: Path) -> Table:
    names = sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{folder} has {len(names)} sub-folders of classes; {_LAYOUT}")
    sounds, labels = [], []
    for name in names:
        files = sorted(f for f in (folder / name).rglob("*") if f.suffix.lower() in SOUNDS)
        sounds += [str(file) for file in files]
        labels += [name] * len(files)
    if not sounds:
        raise DataError(f"{folder}: no sound in any of its sub-folders ({', '.join(SOUNDS)})")
    if empty := set(names) - set(labels):
        raise DataError(f"{folder / min(empty)} holds no sound ({', '.join(SOUNDS)}); remove the folder, or fill it")
    return Table({"audio": sounds, "label": labels}, str(folder))


def card_tables(card: Card, s: AudioSourceSettings, instead: str) -> tuple[dict[str, Table], str]:
    """The tables of a data set with a card, and where they are. Raises: DataError that says how to get them."""
    folder = s.data_dir or os.environ.get("ZOO_DATA_DIR")
    files = {split: Path(folder).expanduser() / file for split, file in card.files.items()} if folder else {}
    absent = [str(file) for file in files.values() if not file.is_file()]
    if absent or not files:
        what = f"{absent[0]} does not exist" if absent else "neither data_dir= nor ZOO_DATA_DIR is given"
        raise DataError(
            f"{card.name}: {what}. Set ZOO_DATA_DIR (or data_dir=) to a folder that holds "
            f"{' and '.join(card.files.values())} (from {card.source}), or use data=synthetic, {instead}"
        )
    return {split: read_table(file) for split, file in files.items()}, str(next(iter(files.values())).parent)


def column(table: Table, asked: str, role: str, usual: tuple[str, ...]) -> str:
    """The column of an option, or the one that is called as usual. Raises: DataError naming those there are."""
    has = ", ".join(table.columns)
    if asked and asked not in table.columns:
        raise DataError(f"{role}={asked}: {table.where} has no such column{did_you_mean(asked, table.columns)} "
                        f"(it has {has})")  # fmt: skip
    found = asked or next((name for name in usual if name in table.columns), "")
    if not found:
        raise DataError(f"{table.where} has the columns {has}: say which one holds the {role}, "
                        f"{role}={next(iter(table.columns), 'name')}")  # fmt: skip
    return found


def sources_of(table: Table, name: str) -> tuple[list[Any], list[str]]:
    """(paths, or bytes of files, None where there is neither; how each is called in messages) of a column."""
    sources: list[Any] = []
    names: list[str] = []
    for row, value in enumerate(table.columns[name]):
        path = value.get("path") if isinstance(value, dict) else value
        source = (value.get("bytes") or path) if isinstance(value, dict) else value
        sources.append(source if isinstance(source, bytes | str) and source else None)
        named = isinstance(path, str) and path
        names.append(str(path) if named and source is path else table.place(row) + (f" ({path})" if named else ""))
    return sources, names
