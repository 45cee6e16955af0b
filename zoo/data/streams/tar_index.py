"""Index of a tar file: where each member of each sample is, so that one read fetches it.

It is made once, from the headers, and kept in the user's cache. A sample is the consecutive members with one key, as in
WebDataset: `dir/0001.jpg` and `dir/0001.cls` are the members `jpg` and `cls` of the sample `dir/0001`.
"""

import hashlib
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from zoo.data.streams.records import hash_text, read_at
from zoo.utils.atomic import write_atomic
from zoo.utils.cache import cache_folder, make_room, note_use, state_of
from zoo.utils.errors import DataError

LIMIT = 20 * 10**9  # bytes of all indexes
_VERSION = "1"
_SMALL = 4096  # bytes of a member up to which its content is part of the digest
_INVALID = -2  # of a class that is not a whole number
_BLOCK = 512


@dataclass(frozen=True)
class TarIndex:
    """Where the members of a tar file are.

    Attributes:
        members: Their names, F.
        offsets, sizes: First byte and number of bytes of each member, int64 [N, F]; size -1 where there is none.
        classes: The number in the member `cls`, int64 [N]; -1 where there is none, -2 where it is not a whole number.
        hashes: 64 bits of each key, int64 [N].
        keys: The keys, UTF-8, one after another, uint8.
        key_ends: Their ends, int64 [N].
        digest: SHA-256 of the names, sizes and times of the members, and of the content of the small ones.
    """

    members: list[str]
    offsets: Tensor
    sizes: Tensor
    classes: Tensor
    hashes: Tensor
    keys: Tensor
    key_ends: Tensor
    digest: str

    def __len__(self) -> int:
        return len(self.hashes)

    def key(self, row: int) -> str:
        """The key of a sample."""
        start = int(self.key_ends[row - 1]) if row else 0
        return bytes(self.keys[start : int(self.key_ends[row])].tolist()).decode("utf-8", "replace")


def tar_index(file: Path) -> TarIndex:
    """The index of a tar file, from the cache if the file has not changed.

    Raises: DataError for a file that is damaged, compressed or without samples.
    """
    stored = _stored(file)
    found = None if stored is None else _read(stored)
    if found is None:
        found = _made(file)
        if stored is not None and not make_room(stored.parent, found.offsets.nbytes * 3, LIMIT):
            _write(stored, found)
    return found


def _stored(file: Path) -> Path | None:
    """The file of the cache; None where the user has none."""
    name = hashlib.blake2b(f"{_VERSION}|".encode() + state_of(file), digest_size=16).hexdigest()
    try:
        return cache_folder("shards") / f"{name}.safetensors"
    except RuntimeError:  # neither HOME nor an entry for the user
        return None


def _write(stored: Path, index: TarIndex) -> None:
    from safetensors.torch import save_file

    tensors = {name: value for name, value in vars(index).items() if isinstance(value, Tensor)}
    metadata = {"members": json.dumps(index.members), "digest": index.digest}
    try:
        write_atomic(stored, lambda path: save_file(tensors, path, metadata))
    except OSError:  # a cache that cannot be written: the next start makes the index again
        return


def _read(stored: Path) -> TarIndex | None:
    """The stored index, whose tensors are mapped into memory; None if there is none, or if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(stored, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
        found = TarIndex(json.loads(metadata["members"]), digest=metadata["digest"], **tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    note_use(stored)
    return found


# --- from the headers -------------------------------------------------------------------------------------------------


class _Builder:
    """Collects the members of a tar file, sample by sample."""

    def __init__(self, file: Path, handle: IO[bytes]) -> None:
        self.file, self.handle = file, handle
        self.members: dict[str, int] = {}
        self.samples: list[dict[str, tuple[int, int]]] = []
        self.keys: list[str] = []
        self.classes: list[int] = []
        self.digest = hashlib.sha256()

    def add(self, info: tarfile.TarInfo) -> None:
        folder, _, name = info.name.rpartition("/")
        stem, dot, ending = name.partition(".")
        if not info.isfile() or not dot or not stem:  # folders, and hidden files such as those of macOS
            return
        key, ending = f"{folder}/{stem}" if folder else stem, ending.lower()
        if not self.keys or self.keys[-1] != key:
            self.keys.append(key)
            self.samples.append({})
            self.classes.append(-1)
        if ending in self.samples[-1]:
            raise DataError(f"{self.file}: the sample {key!r} has two members {ending!r}; give each sample a key of "
                            f"its own")  # fmt: skip
        self.members.setdefault(ending, len(self.members))
        self.samples[-1][ending] = (info.offset_data, info.size)
        self.digest.update(f"{info.name} {info.size} {info.mtime}\n".encode("utf-8", "surrogateescape"))
        if info.size <= _SMALL:
            content = self._content(info)
            self.digest.update(content)
            if ending == "cls":
                self.classes[-1] = int(content) if content.strip().isdigit() and info.size < 12 else _INVALID

    def _content(self, info: tarfile.TarInfo) -> bytes:
        return read_at(self.handle.fileno(), info.size, info.offset_data)

    def index(self) -> TarIndex:
        if not self.samples:
            raise DataError(f"{self.file} has no samples: expected members such as 0001.jpg and 0001.cls")
        columns = list(self.members)
        places = torch.tensor([[sample.get(name, (0, -1)) for name in columns] for sample in self.samples])
        encoded = [key.encode("utf-8", "replace") for key in self.keys]
        hashes = [hash_text(key) for key in encoded]
        offsets, sizes = (part.contiguous() for part in places.unbind(-1))
        ends = torch.tensor([len(key) for key in encoded]).cumsum(0)
        keys = torch.frombuffer(bytearray(b"".join(encoded)), dtype=torch.uint8)
        return TarIndex(columns, offsets, sizes, torch.tensor(self.classes), torch.tensor(hashes), keys, ends,
                        self.digest.hexdigest())  # fmt: skip


def _made(file: Path) -> TarIndex:
    try:
        with open(file, "rb") as handle:
            with tarfile.open(fileobj=handle, mode="r:") as tar:
                builder = _Builder(file, handle)
                while (info := tar.next()) is not None:
                    builder.add(info)
                    tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                end: Any = tar.offset
            _check_end(file, handle, end)
    except tarfile.ReadError as error:
        raise DataError(f"{file} is not a tar file that can be read: {error}{_hint(file)}") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
    return builder.index()


def _check_end(file: Path, handle: IO[bytes], end: int) -> None:
    """Raise DataError unless the members end with a block of zeros or the file; tarfile stops silently elsewhere."""
    handle.seek(end)
    block = handle.read(_BLOCK)
    if any(block):
        raise DataError(f"{file} has a damaged header at byte {end:,}: copy or write it again")


def _hint(file: Path) -> str:
    with open(file, "rb") as handle:
        start = handle.read(6)
    packed = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"(\xb5/\xfd": "unzstd"}
    if found := next((tool for magic, tool in packed.items() if start.startswith(magic)), ""):
        return f". It is compressed, and samples of such a file cannot be read one by one: unpack it ({found})"
    return "; copy or write it again"
