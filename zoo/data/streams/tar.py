"""Records in tar files (WebDataset shards), read by their places in the file."""

import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.sources.fingerprint import note_digest
from zoo.data.streams.records import Records, Role, hash_text, read_at
from zoo.data.streams.tar_index import TarIndex, tar_index
from zoo.utils.errors import DataError, did_you_mean
from zoo.utils.keyed_random import hash_keys
from zoo.utils.recent import Recent

_OPEN = 64  # files that are open at a time


class TarRecords(Records):
    """Samples of tar files.

    Args:
        files: The files.
        folder: Their names in keys and messages are relative to it.
        roles: The parts of a sample that are read.

    Raises: DataError for a damaged file, and for a sample without a part that is needed.
    """

    def __init__(self, files: Sequence[Path], folder: Path, roles: Sequence[Role]) -> None:
        self.files, self.folder, self.where = list(files), folder, str(folder)
        self.indexes = [tar_index(file) for file in self.files]
        self.starts = [0, *accumulate(map(len, self.indexes))]
        for file, index in zip(self.files, self.indexes):
            note_digest(f"{self._name(file)}, its index", index.digest)
        names = [hash_text(self._name(file)) for file in self.files]
        self.hashes = torch.cat([hash_keys(name, index.hashes) for name, index in zip(names, self.indexes)])
        self.places = {role.name: self._places(role) for role in roles}
        self.roles = {role.name: role for role in roles}
        self._descriptors = Recent(_open, _OPEN, os.close)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()

    def _places(self, role: Role) -> Tensor:
        """(offset, size, whether it is in the JSON member) of the part of each sample, int64 [N, 3]."""
        parts = [self._places_in(index, role) for index in self.indexes]
        places = torch.cat(parts)
        if role.needed and len(without := (places[:, 1] < 0).nonzero()):
            row = int(without[0, 0])
            shard = self._shard(row)
            has = ", ".join(self.indexes[shard].members)
            given = role.column if role.column in role.endings else ""
            expected = role.column or ", ".join(role.endings)
            near = did_you_mean(given, self.indexes[shard].members) if given else ""
            raise DataError(f"{self.place(row)} has no {role.name}: expected a member {expected} (the file has {has})"
                            f"{near}; add it, or name another with {role.name}=")  # fmt: skip
        return places

    def _places_in(self, index: TarIndex, role: Role) -> Tensor:
        places = torch.full((len(index), 3), -1)
        own = role.column.lower().removeprefix(".")
        if own:
            names = [own] if own in index.members else []
        else:
            names = [name for name in role.endings if name in index.members]
            names += [n for n in index.members if n.rpartition(".")[2] in role.endings and n not in names]
        if "json" in index.members and own != "json":
            names.append("json")
        for name in names:
            column = index.members.index(name)
            empty = places[:, 1] < 0
            places[empty, 0] = index.offsets[empty, column]
            places[empty, 1] = index.sizes[empty, column]
            places[empty, 2] = int(name == "json")
        return places

    def _shard(self, row: int) -> int:
        return bisect_right(self.starts, row) - 1

    def read(self, rows: Sequence[int], role: str) -> list[Any]:
        """See Records: bytes; from the JSON member, the value of the key."""
        places = self.places[role][torch.as_tensor(rows, dtype=torch.int64)]
        found: list[Any] = []
        for row, (offset, size, in_json) in zip(rows, places.tolist()):
            if size < 0:
                found.append(None)
                continue
            file = self.files[self._shard(row)]
            content = read_at(self._descriptors(file), size, offset)
            if len(content) < size:
                raise DataError(f"{self.place(row)}: {file} has become shorter while it was read; start again")
            found.append(self._from_json(content, row, role) if in_json else content)
        return found

    def _from_json(self, content: bytes, row: int, role: str) -> Any:
        names = [self.roles[role].column] if self.roles[role].column else self.roles[role].columns
        try:
            values = json.loads(content)
        except ValueError as error:
            raise DataError(f"{self.place(row, 'json')} is not valid JSON: {error}") from None
        name = next((name for name in names if isinstance(values, dict) and name in values), None)
        if name is None and self.roles[role].needed:
            has = ", ".join(values) if isinstance(values, dict) else type(values).__name__
            raise DataError(f"{self.place(row, 'json')} has no {role}: expected a key {' or '.join(names[:4])} (it has "
                            f"{has}); name it with {role}=")  # fmt: skip
        return None if name is None else values[name]

    def labels(self, role: str) -> list[Any]:
        """See Records; those of members `cls` are in the index."""
        if self.roles[role].column in ("", "cls") and all("cls" in index.members for index in self.indexes):
            classes = torch.cat([index.classes for index in self.indexes])
            if not (classes < 0).any():
                return classes.tolist()
        return self.read(range(len(self)), role)

    def place(self, row: int, role: str = "") -> str:
        """See Records."""
        shard = self._shard(row)
        key = self.indexes[shard].key(row - self.starts[shard])
        return f"{self.files[shard]}, sample {key}" + (f", {role}" if role else "")


def _open(file: Path) -> int:
    return os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
