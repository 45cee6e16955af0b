"""Records in files: rows that are read by their numbers, each in its own place, without unpacking."""

import hashlib
import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Role:
    """A part of each record, such as its image.

    Attributes:
        name: The word for it in messages; also that of the option of the column.
        endings: Names of its members in a tar file, without a dot, in lower case.
        columns: Common names of its column in a table.
        column: The name that the user gives: a member, a key of the JSON member, or a column.
        needed: Whether a record without it is an error.
    """

    name: str
    endings: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    column: str = ""
    needed: bool = True


class Records(ABC):
    """Records of one source. They are cheap to pickle: files are opened where they are read.

    Attributes:
        where: The folder, for messages.
        hashes: 64 random bits of each record, int64 [N], a function of its key: they decide what is held out.
        chunk: Neighboring records that are read together; 0 if it does not matter.
        names: Class names, if the files have them.
    """

    where: str
    hashes: Tensor
    chunk: int = 0
    names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.hashes)

    @abstractmethod
    def read(self, rows: Sequence[int], role: str) -> list[Any]:
        """The values of a role in these rows: encoded bytes, a text, or what the column holds; None where absent."""

    @abstractmethod
    def labels(self, role: str) -> list[Any]:
        """The values of a small role in all rows."""

    @abstractmethod
    def place(self, row: int, role: str = "") -> str:
        """Where a record is, for messages."""


class Several(Records):
    """Records of several sources, one after another."""

    def __init__(self, sources: Sequence[Records]) -> None:
        self.sources = list(sources)
        self.where = ", ".join(source.where for source in sources)
        self.hashes = torch.cat([source.hashes for source in sources])
        self.names = next((source.names for source in sources if source.names), ())
        self.starts = [0, *accumulate(map(len, sources))]

    def read(self, rows: Sequence[int], role: str) -> list[Any]:
        """See Records."""
        found: list[Any] = [None] * len(rows)
        owners = [self._owner(row) for row in rows]
        for number in set(owners):
            places = [i for i, owner in enumerate(owners) if owner == number]
            values = self.sources[number].read([rows[i] - self.starts[number] for i in places], role)
            for i, value in zip(places, values):
                found[i] = value
        return found

    def labels(self, role: str) -> list[Any]:
        """See Records."""
        return [value for source in self.sources for value in source.labels(role)]

    def place(self, row: int, role: str = "") -> str:
        """See Records."""
        number = self._owner(row)
        return self.sources[number].place(row - self.starts[number], role)

    def _owner(self, row: int) -> int:
        return bisect_right(self.starts, row) - 1


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Bytes of an open file, read at their place."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    before = os.lseek(descriptor, 0, os.SEEK_CUR)  # Windows
    os.lseek(descriptor, offset, os.SEEK_SET)
    content = os.read(descriptor, size)
    os.lseek(descriptor, before, os.SEEK_SET)
    return content


def hash_text(text: str | bytes) -> int:
    """64 bits of the hash of a text, as a signed number."""
    encoded = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little", signed=True)
