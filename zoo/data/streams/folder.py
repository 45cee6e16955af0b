"""What a folder of data holds: tar shards or parquet files, by split, of one source or of several."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.data.base_config import ShardSettings
from zoo.data.sources.tables import VALIDATION_NAMES
from zoo.data.stream_order import WINDOW
from zoo.data.streams.parquet import ParquetRecords
from zoo.data.streams.records import Records, Role, Several
from zoo.data.streams.rows import StreamRows
from zoo.data.streams.tar import TarRecords
from zoo.utils.errors import DataError, did_you_mean
from zoo.utils.folders import sub_folders

SPLITS = {"train": ("train", "training"), "validation": VALIDATION_NAMES, "test": ("test", "testing")}
SUFFIXES = (".tar", ".parquet")
_TABLES = {name for names in SPLITS.values() for name in names} | {"captions", "metadata"}  # read as a whole


@dataclass(frozen=True)
class Shards:
    """The files of one source.

    Attributes:
        folder: The folder.
        suffix: `.tar` or `.parquet`.
        files: The files of each split, sorted by name.
    """

    folder: Path
    suffix: str
    files: dict[str, list[Path]]

    def open(self, split: str, roles: Sequence[Role], window: int) -> Records:
        """The records of a split."""
        if self.suffix == ".tar":
            return TarRecords(self.files[split], self.folder, roles)
        return ParquetRecords(self.files[split], self.folder, roles, window)


def find_shards(s: ShardSettings) -> list[Shards]:
    """The sources of the dataset `s.name`: one for a folder of shards, those of `s.sources` in it; else none.

    Parquet files that have the name of a split alone, such as `train.parquet`, are tables that are read as a whole.

    Raises: DataError for a source that is missing or holds no shards, and for options of shards without any.
    """
    folder = Path(s.name).expanduser()
    if not s.sources:
        found = shards_in(folder) if folder.is_dir() else None
        if found is None and (given := s.given_for_shards):
            raise DataError(f"{given} is for folders of shards (*.tar) or of several parquet files, which "
                            f"data={s.name} is not: omit it")  # fmt: skip
        return [] if found is None else [found]
    return [_source(folder, name) for name in s.sources]


def _source(folder: Path, name: str) -> Shards:
    path = folder / Path(name).expanduser()
    if not path.is_dir():
        near = did_you_mean(name, sub_folders(folder)) if folder.is_dir() else ""
        raise DataError(f"sources: {path} is not a folder{near}; expected folders in data={folder}, or paths of others")
    if (found := shards_in(path)) is None:
        raise DataError(f"sources: {path} holds no shards: expected *.tar, or several *.parquet files")
    return found


def shards_in(folder: Path) -> Shards | None:
    """The shards of a folder; None if it has none.

    They are in the folder itself or in its sub-folder `data`, with the split in their names (`train-0.tar`), and in
    sub-folders named as the splits. Files without a split in their name are to train on.

    Raises: DataError for files of both kinds, or none to train on.
    """
    for place in (folder, folder / "data"):
        own = {suffix: _files(place, suffix) for suffix in SUFFIXES}
        below = {suffix: _by_sub_folder(place, suffix) for suffix in SUFFIXES}
        kinds = [suffix for suffix in SUFFIXES if own[suffix] or below[suffix]]
        if len(kinds) > 1:
            first = own[".parquet"] or next(iter(below[".parquet"].values()))
            raise DataError(f"{place} holds tar files and parquet files, such as {first[0].name}: put each kind into a "
                            f"folder of its own, and name both with sources=")  # fmt: skip
        for suffix in kinds:
            files = _by_name(own[suffix])
            for split, more in below[suffix].items():
                files[split] = [*files.get(split, []), *more]
            if suffix == ".parquet" and not below[suffix] and {file.stem.lower() for file in own[suffix]} <= _TABLES:
                return None
            if "train" not in files:
                raise DataError(f"{place} has files of {' and '.join(files)} but none to train on, such as "
                                f"train-0{suffix}")  # fmt: skip
            return Shards(folder, suffix, files)
    return None


def _files(folder: Path, suffix: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.glob(f"*{suffix}") if file.is_file() and not file.name.startswith("."))


def _by_sub_folder(folder: Path, suffix: str) -> dict[str, list[Path]]:
    found = {split: [file for name in names for file in _files(folder / name, suffix)]
             for split, names in SPLITS.items()}  # fmt: skip
    return {split: files for split, files in found.items() if files}


def _by_name(files: Sequence[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(split_by_name(file), []).append(file)
    return found


def split_by_name(file: Path) -> str:
    """The split in the name of a file, such as `test-00000.tar`; without one `train`."""
    words = set(re.split(r"[^a-z]+", file.stem.lower()))
    return next((split for split in ("test", "validation") if set(SPLITS[split]) & words), "train")


def open_splits(sources: Sequence[Shards], s: ShardSettings, roles: Sequence[Role]) -> dict[str, StreamRows]:
    """The rows of each split that the sources have: training, and perhaps validation and test.

    A source without the validation or test split of the others is trained on alone.

    Args:
        sources: The sources.
        s: The settings, with the weights of the sources and the number of rows that are shuffled together.
        roles: The parts of a record that are read.

    Raises: DataError for damaged files, records without a part that is needed, and options of data in memory.
    """
    _check_options(s)
    found, window = {}, s.shuffle_window or WINDOW
    for split in SPLITS:
        if opened := [one.open(split, roles, window) for one in sources if split in one.files]:
            records = Several(opened)
            weights = tuple(s.weights) if split == "train" else ()
            found[split] = StreamRows.of(records, window, weights)
    return found


def _check_options(s: Any) -> None:
    """Raise DataError for options that data in shards does not have."""
    wrong = {"group_column=": getattr(s, "group_column", ""), "group_pattern=": getattr(s, "group_pattern", ""),
             "normalize_labels=true": getattr(s, "normalize_labels", False),
             "held_out_speaker=": getattr(s, "held_out_speaker", ""),
             "on_error=skip": getattr(s, "on_error", "") == "skip",
             "on_device=true": getattr(s, "on_device", "") is True}  # fmt: skip
    if given := next((name for name, value in wrong.items() if value), ""):
        raise DataError(f"{given} is for data in memory, but data={s.name} is read piece by piece from shards: omit it")


def describe(sources: Sequence[Shards]) -> str:
    """The sources in words, for the banner."""
    counts = [sum(map(len, one.files.values())) for one in sources]
    return ", ".join(f"{count} {one.suffix} files in {one.folder}" for count, one in zip(counts, sources))
