"""The resume journal of `zoo.embed`: vectors on disk, and which items they belong to."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.retrieval.embeddings_file import DTYPES, Item
from zoo.utils.journal import Journal

SECONDS = 2.0  # between two writings of what is done: what a kill costs at most


class EmbeddingJournal(Journal):
    """Finished rows, on disk beside the file they will be written to.

    rows.bin holds the vectors one after the other, journal.jsonl their items. A line is written once its rows are on
    disk, so the journal is right whenever a run is killed.
    """

    def __init__(self, path: Path, plan: dict[str, Any]) -> None:
        super().__init__(path, plan)
        self.rows: dict[Item, int] = {}
        self.broken: dict[Item, str] = {}
        self.width = 0

    @property
    def rows_file(self) -> Path:
        return self.path / "rows.bin"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Open the folder for this process alone, and read what is done."""
        with super().held():
            os.truncate(self.rows_file, self._bytes())  # rows that no line of the journal names
            self._last = time.monotonic()
            with open(self.rows_file, "ab") as self._rows:
                yield

    def reset(self) -> None:
        """Start without finished rows."""
        self.rows, self.broken, self.width = {}, {}, 0
        self.rows_file.write_bytes(b"")

    def restore(self, entries: list[Any]) -> bool:
        """Take over the rows of these lines; False if they are not on disk."""
        for entry in entries:
            self.width = entry.get("width", self.width)
            for item in entry.get("items", ()):
                self.rows[Item(*item)] = len(self.rows)
            for item, reason in entry.get("broken", ()):
                self.broken[Item(*item)] = reason
        return self.rows_file.exists() and self.rows_file.stat().st_size >= self._bytes()

    def _bytes(self) -> int:
        return len(self.rows) * self.width * DTYPES[self.plan["dtype"]].itemsize

    def add(self, items: list[Item], rows: Tensor) -> None:
        """Vectors [n, D] of n items."""
        if not items:
            return
        self.width = rows.shape[1]
        self._rows.write(rows.contiguous().view(torch.uint8).numpy().data)
        for item in items:
            self.rows[item] = len(self.rows)
        self.note_done({"width": self.width, "items": items})

    def note(self, item: Item, reason: str) -> None:
        """An item that is left out."""
        self.broken[item] = reason
        self.note_done({"broken": [[item, reason]]})

    def commit(self, now: bool = False) -> None:
        """Put on disk what was added, every few seconds or now."""
        if not self._lines or not (now or time.monotonic() - self._last > SECONDS):
            return
        self._rows.flush()
        os.fsync(self._rows.fileno())
        self.write()
        self._last = time.monotonic()

    def vectors(self) -> Tensor | None:
        """All rows, mapped into memory."""
        if not self.rows:
            return None
        dtype = DTYPES[self.plan["dtype"]]
        size = len(self.rows) * self.width
        flat = torch.from_file(str(self.rows_file), shared=True, size=size, dtype=dtype)
        return flat.view(len(self.rows), self.width)

    def remove(self) -> None:
        """The work is done."""
        super().remove()
        self.rows_file.unlink(missing_ok=True)
