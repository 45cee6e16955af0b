"""List the files of a folder of data, so that nothing is left out without a word."""

import os
from collections.abc import Sequence
from pathlib import Path

from zoo.utils.errors import DataError

_NOT_DATA = ("__MACOSX", "@eaDir")  # metadata of macOS archives and of network drives


def data_files(folder: Path) -> list[Path]:
    """All files in a folder and below it, sorted by path; hidden files and metadata of systems are left out.

    Linked folders are followed, except links to a folder that holds them. Raises: DataError for an unreadable folder.
    """
    found: list[Path] = []
    _add_files(folder, (folder.resolve(),), found)
    return sorted(found)


def _add_files(folder: Path, above: tuple[Path, ...], found: list[Path]) -> None:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror}") from None
    for entry in entries:
        path = folder / entry.name
        if not _is_data(entry.name):
            continue
        if not entry.is_dir():
            found.append(path)
        elif (real := path.resolve()) not in above:
            _add_files(path, (*above, real), found)


def sub_folders(folder: Path) -> list[str]:
    """The sorted names of the folders in a folder; hidden folders and metadata of systems are left out."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and _is_data(entry.name))


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name not in _NOT_DATA


def describe_files(files: Sequence[Path]) -> str:
    """A count of files with their suffixes: `3 files (.csv, .txt), the first is data/a.csv`."""
    suffixes = ", ".join(sorted({file.suffix.lower() or "no suffix" for file in files}))
    return f"{len(files)} file{'s' * (len(files) != 1)} ({suffixes}), the first is {files[0]}"
