"""The user's cache: files that are made again when they are missing."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

SPARE = 2 * 10**9  # bytes of the disk that a cache leaves free


def cache_folder(kind: str) -> Path:
    """The folder of one kind of files: `$XDG_CACHE_HOME/attention-zoo/KIND`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attention-zoo" / kind


def state_of(file: Path) -> bytes:
    """The path, size, and times of modification and change of a file, which no edit leaves as they are.

    Raises OSError for a file that is missing.
    """
    stat = file.stat()
    text = f"{os.path.abspath(file)}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
    return text.encode("utf-8", "surrogateescape")


def note_use(*files: Path) -> None:
    """Set the times of modification of files of a cache to now, the time of their last use for `make_room`."""
    for file in files:
        with suppress(OSError):  # a cache that may only be read
            os.utime(file)


def make_room(folder: Path, size: int, limit: int) -> str:
    """Remove the least recently used files of a cache, so that one of `size` bytes fits; returns why it cannot.

    limit: of all files in the folder, in bytes. Files count as used at their modification time, see `note_use`.
    """
    if size > limit:
        return f"they take {size / 1e9:.1f} GB, more than the limit of {limit / 1e9:.0f} GB"
    files = []
    with suppress(OSError):
        files = sorted(((entry.stat(), entry.path) for entry in os.scandir(folder) if entry.is_file()),
                       key=lambda file: file[0].st_mtime_ns)  # fmt: skip
    excess = sum(stat.st_size for stat, _ in files) + size - limit
    for stat, path in files:
        if excess <= 0:
            break
        with suppress(OSError):  # another process has removed it
            os.remove(path)
        excess -= stat.st_size
    present = next((place for place in (folder, *folder.parents) if place.is_dir()), folder)
    with suppress(OSError):
        if shutil.disk_usage(present).free < size + SPARE:
            return f"the disk of {present} has less than {(size + SPARE) / 1e9:.1f} GB left"
    return ""
