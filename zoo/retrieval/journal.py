"""The resume journal of `zoo.embed`: vectors on disk, and which items they belong to."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.retrieval.embeddings_file import DTYPES, Item
from zoo.utils.files import write_atomic

SECONDS = 2.0  # between two writings of what is done: what a kill costs at most


@dataclass
class EmbeddingJournal:
    """Finished rows, on disk beside the file they will be written to.

    rows.bin holds the vectors one after the other, journal.jsonl their items. A line is written once its rows are on
    disk, so the journal is right whenever a run is killed.
    """

    path: Path
    plan: dict[str, str]
    rows: dict[Item, int] = field(default_factory=dict)
    broken: dict[Item, str] = field(default_factory=dict)
    width: int = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Open the folder for this process alone, and read what is done."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file, where unfinished work is to be kept: move it away")
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "lock", "a") as lock:
            self._lock(lock)
            if not self._read():
                self.rows, self.broken, self.width = {}, {}, 0
                write_atomic(self.path / "journal.jsonl", json.dumps(self.plan) + "\n")
                (self.path / "rows.bin").write_bytes(b"")
            self._cut()
            self._lines: list[str] = []
            self._last = time.monotonic()
            with open(self.path / "rows.bin", "ab") as self._rows, open(self.path / "journal.jsonl", "a") as self._log:
                yield
        if not (self.path / "journal.jsonl").exists():
            for entry in (self.path / "lock", *self.path.glob(".*.part")):
                entry.unlink(missing_ok=True)
            with suppress(OSError):  # files that are not ours remain, and their folder
                self.path.rmdir()

    def _lock(self, lock: Any) -> None:
        try:
            import fcntl
        except ImportError:  # Windows has none: two processes at one file are then the user's affair
            return
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            out = self.path.name[1:].removesuffix(".unfinished")
            raise ValueError(
                f"another process is writing {self.path.with_name(out)}: wait for it, or give another out="
            ) from None

    def _read(self) -> bool:
        """Whether there is work of the same plan; a last line that was cut off is not counted."""
        file = self.path / "journal.jsonl"
        try:
            lines = file.read_text().split("\n")[:-1] if file.exists() else []
            if not lines or json.loads(lines[0]) != self.plan:
                return False
            for line in lines[1:]:
                entry = json.loads(line)
                self.width = entry.get("width", self.width)
                for item in entry.get("items", ()):
                    self.rows[Item(*item)] = len(self.rows)
                for item, reason in entry.get("broken", ()):
                    self.broken[Item(*item)] = reason
            return (self.path / "rows.bin").exists() and (self.path / "rows.bin").stat().st_size >= self._bytes()
        except (ValueError, TypeError, AttributeError):  # damaged: the work is done again
            return False

    def _bytes(self) -> int:
        return len(self.rows) * self.width * DTYPES[self.plan["dtype"]].itemsize

    def _cut(self) -> None:
        """Remove rows that no line of the journal names."""
        os.truncate(self.path / "rows.bin", self._bytes())
        file = self.path / "journal.jsonl"
        text = file.read_bytes()
        os.truncate(file, text.rfind(b"\n") + 1)

    def add(self, items: list[Item], rows: Tensor) -> None:
        """Vectors [n, D] of n items."""
        if not items:
            return
        self.width = rows.shape[1]
        self._rows.write(rows.contiguous().view(torch.uint8).numpy().data)
        for item in items:
            self.rows[item] = len(self.rows)
        self._lines.append(json.dumps({"width": self.width, "items": items}))

    def note(self, item: Item, reason: str) -> None:
        """An item that is left out."""
        self.broken[item] = reason
        self._lines.append(json.dumps({"broken": [[item, reason]]}))

    def commit(self, now: bool = False) -> None:
        """Put on disk what was added, every few seconds or now."""
        if not self._lines or not (now or time.monotonic() - self._last > SECONDS):
            return
        self._rows.flush()
        os.fsync(self._rows.fileno())
        self._log.write("\n".join(self._lines) + "\n")
        self._log.flush()
        self._lines, self._last = [], time.monotonic()

    def vectors(self) -> Tensor | None:
        """All rows, mapped into memory."""
        if not self.rows:
            return None
        dtype = DTYPES[self.plan["dtype"]]
        size = len(self.rows) * self.width
        flat = torch.from_file(str(self.path / "rows.bin"), shared=True, size=size, dtype=dtype)
        return flat.view(len(self.rows), self.width)

    def remove(self) -> None:
        """The work is done."""
        for name in ("journal.jsonl", "rows.bin"):
            (self.path / name).unlink(missing_ok=True)
