"""Fingerprint of a run's data: the SHA-256 of all files that were read, so that a run resumes on the same data only.

Names are relative to the folder of the data and modification times do not count: a copy elsewhere is the same data.
Each byte counts, so an edit of the same size is noticed. Synthetic data has no files, and an empty fingerprint.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Fingerprint = dict[str, str]  # name of a file, or of a split on the Hub -> SHA-256 in hexadecimal digits

_ROWS = 4096  # of a Hub table that are hashed at once
_LISTED = 5  # names of each kind of change in a message


@dataclass
class ReadData:
    """What the loaders have read: the files, and the digests of data that is not in files of the user."""

    files: set[str] = field(default_factory=set)
    digests: Fingerprint = field(default_factory=dict)

    def fingerprint(self, folder: Path) -> Fingerprint:
        """Hash the files. Names are relative to the folder of the data; files outside of it, such as the table of
        `data.test=`, are named `../` and their path in the folder that they have in common.
        """
        base = os.path.abspath(folder)
        outside = {file for file in self.files if not file.startswith(os.path.join(base, ""))}
        other = os.path.commonpath([os.path.dirname(file) for file in outside]) if outside else base
        files = sorted(self.files)
        names = [f"../{os.path.relpath(f, other)}" if f in outside else os.path.relpath(f, base) for f in files]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 4)) as pool:  # hashing releases the GIL
            digests = list(pool.map(_file_digest, files))
        return {Path(name).as_posix(): digest for name, digest in zip(names, digests)} | self.digests


_recorded: ContextVar[ReadData | None] = ContextVar("recorded", default=None)


def record_read_data() -> ReadData:
    """Start to record what the loaders read, in this context; the result fills as they read."""
    recorded = ReadData()
    _recorded.set(recorded)
    return recorded


def note_files(files: Iterable[Any]) -> None:
    """Record the files among the sources of a loader, which may also be bytes; called by whatever opens data files."""
    if (recorded := _recorded.get()) is not None:
        recorded.files.update(os.path.abspath(file) for file in files if isinstance(file, str | Path))


def note_table(name: str, table: Any) -> None:
    """Record the content of a pyarrow Table from the Hub, whose files are in a cache that may change its layout."""
    if _recorded.get() is not None:
        note_digest(name, _table_digest(table))


def note_digest(name: str, digest: str) -> None:
    """Record the SHA-256 of data that is not in a local file."""
    if (recorded := _recorded.get()) is not None:
        recorded.digests[name] = digest


def data_folder(name: str, data_dir: str | None) -> Path:
    """The folder to which the names of a fingerprint are relative, from the options `data.name` and `data.data_dir`."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file() or name.endswith((".tar", "}")):  # a table, a text, or shards
        return path.parent
    return Path(data_dir or os.environ.get("ZOO_DATA_DIR") or ".").expanduser()


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """What changed, for messages: `1 file changed (a.csv); 2 files added (b.csv, c.csv)`; empty if nothing did."""
    changed = [name for name in old if name in new and new[name] != old[name]]
    removed: dict[str, list[str]] = {}  # by digest: a removed file that was added elsewhere was renamed
    for name in sorted(old.keys() - new.keys(), reverse=True):
        removed.setdefault(old[name], []).append(name)
    renamed, added = [], []
    for name in sorted(new.keys() - old.keys()):
        before = removed.get(new[name])
        renamed.append(f"{before.pop()} -> {name}") if before else added.append(name)
    gone = sorted(name for names in removed.values() for name in names)
    kinds = {"changed": changed, "renamed or moved": renamed, "added": added, "removed": gone}
    return "; ".join(_listed(kind, names) for kind, names in kinds.items() if names)


def format_fingerprint(fingerprint: Fingerprint) -> str:
    """Text that `sha256sum --check` reads."""
    lines = []
    for name, digest in sorted(fingerprint.items()):
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n")
        lines.append(f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n")
    return "".join(lines)


def parse_fingerprint(text: str) -> Fingerprint:
    """Inverse of `format_fingerprint`."""
    found = {}
    for line in text.split("\n")[:-1]:
        digest, _, name = line.removeprefix("\\").partition("  ")
        if line.startswith("\\"):
            name = "\\".join(part.replace("\\n", "\n") for part in name.split("\\\\"))
        found[name] = digest
    return found


def _listed(kind: str, names: list[str]) -> str:
    count = f"{len(names):,} file{'s' * (len(names) > 1)}"
    return f"{count} {kind} ({', '.join(names[:_LISTED])}{', ...' * (len(names) > _LISTED)})"


def _file_digest(file: str) -> str:
    try:
        with open(file, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:  # the loader skipped it, with a notice
        return "unreadable"


def _table_digest(table: Any) -> str:
    """SHA-256 of the rows of a pyarrow Table, whatever its chunks are, and of its columns with their class names."""
    stored = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    plain = table.replace_schema_metadata(None)
    digest = hashlib.sha256(json.dumps(stored.get("info", {}).get("features", {}), sort_keys=True).encode())
    digest.update(plain.schema.serialize())
    for start in range(0, len(plain), _ROWS):
        for batch in plain.slice(start, _ROWS).combine_chunks().to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()
