"""Token files: the tokens of all documents in one file that is mapped into memory, made once for each tokenizer."""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.data.config import StreamSettings
from zoo.data.sources.fingerprint import note_digest
from zoo.data.streams.records import hash_text
from zoo.data.text.documents import Document, TextFiles
from zoo.preprocessing.text import TextProcessor, encode_batch
from zoo.utils.atomic import write_atomic
from zoo.utils.cache import cache_folder, make_room, note_use, state_of
from zoo.utils.console import announce
from zoo.utils.errors import DataError

if TYPE_CHECKING:
    import numpy as np

LIMIT = 500 * 10**9  # bytes of all token files
_VERSION = "1"
_BATCH = 256  # documents that are tokenized at a time,
_CHARACTERS = 4_000_000  # or of so many characters
_SMALL = 1 << 16  # vocabulary of which two bytes hold each id


@dataclass(frozen=True, eq=False)
class TokenFile:
    """The tokens of documents, one after another; each ends with the end token of the tokenizer, if it has one.

    Attributes:
        file: The file, uint16 or uint32.
        width: Bytes of a token: 2 or 4.
        ends: End of each document, in tokens, int64 [D].
        hashes: 64 random bits of each document, int64 [D], a function of its key.
    """

    file: Path
    width: int
    ends: Tensor
    hashes: Tensor

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def tokens(self) -> "np.ndarray[Any, Any]":
        """All tokens, mapped into memory."""
        import numpy as np

        return np.memmap(self.file, dtype=np.uint16 if self.width == 2 else np.uint32, mode="r")


def token_file(source: TextFiles, split: str, preprocess: TextProcessor, s: StreamSettings) -> TokenFile:
    """The token file of a split of a source, from the user's cache if neither the files nor the tokenizer changed.

    Other processes that need it wait for the one that makes it.

    Raises: DataError for damaged files, or a disk without room.
    """
    files = source.files[split]
    key = _key(source, files, preprocess, s)
    try:
        path = cache_folder("tokens") / key
    except RuntimeError:
        raise DataError("token files are kept in the user's cache, and this user has no home: set XDG_CACHE_HOME") \
            from None  # fmt: skip
    if (found := _read(path)) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_suffix(".lock")):
            if (found := _read(path)) is None:
                _make(path, source, files, preprocess, s)
                found = _read(path)
    if found is None:
        raise DataError(f"the token file {path} was written and cannot be read: is the disk damaged?")
    note_digest(f"{split} texts in {source.folder.name}", found[1])
    return found[0]


def _key(source: TextFiles, files: Sequence[Path], preprocess: TextProcessor, s: StreamSettings) -> str:
    digest = hashlib.blake2b(f"{_VERSION}|{s.text}|{s.encoding}|{preprocess.id('eos')}".encode(), digest_size=16)
    digest.update(preprocess.tokenizer.encode("utf-8", "surrogateescape"))
    for file in files:
        name = str(file.relative_to(source.folder))
        digest.update(state_of(file) + f"|{name}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _read(path: Path) -> tuple[TokenFile, str] | None:
    """(the stored file, digest of its sources); None if there is none, or if it is damaged."""
    from safetensors import SafetensorError, safe_open

    data = path.with_suffix(".bin")
    try:
        with safe_open(path.with_suffix(".index"), "pt") as stored:
            metadata = stored.metadata() or {}
            ends, hashes, width = stored.get_tensor("ends"), stored.get_tensor("hashes"), int(metadata["width"])
            if data.stat().st_size != width * int(ends[-1]):
                return None
            found = TokenFile(data, width, ends, hashes), metadata["digest"]
    except (OSError, SafetensorError, KeyError, ValueError, IndexError):
        return None
    note_use(data, path.with_suffix(".index"))
    return found


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Context of one process at a time, on systems with file locks."""
    try:
        import fcntl
    except ImportError:  # Windows: each process makes the file, with the same result
        yield
        return
    with open(file, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# --- made from texts --------------------------------------------------------------------------------------------------


def _make(path: Path, source: TextFiles, files: Sequence[Path], preprocess: TextProcessor, s: StreamSettings) -> None:
    from safetensors.torch import save_file

    size = sum(file.stat().st_size for file in files)
    announce(f"{len(files):,} text files of {source.folder} are tokenized once, to {path.parent}")
    if problem := make_room(path.parent, size, LIMIT):
        raise DataError(f"the tokens of {source.folder} cannot be kept in {path.parent}: {problem}; set XDG_CACHE_HOME "
                        f"to a folder on another disk")  # fmt: skip
    width = 2 if preprocess.vocab_size <= _SMALL else 4
    ends, hashes = array("q"), array("q")

    def write(part: Path) -> None:
        with open(part, "wb") as handle:
            for documents in _batches(source, files, s):
                _append(handle, documents, preprocess, width, ends)
                hashes.extend(hash_text(document.key) for document in documents)

    write_atomic(path.with_suffix(".bin"), write)
    if not ends:
        path.with_suffix(".bin").unlink()
        raise DataError(f"{source.folder}: no text in {len(files)} files, such as {files[0]}")
    tensors = {"ends": torch.frombuffer(ends, dtype=torch.int64), "hashes": torch.frombuffer(hashes, dtype=torch.int64)}
    metadata = {"width": str(width), "digest": _digest(files, source)}
    write_atomic(path.with_suffix(".index"), lambda part: save_file(tensors, part, metadata))


def _digest(files: Sequence[Path], source: TextFiles) -> str:
    """SHA-256 of the names and the content of the files."""
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
        digest.update(f"{content}  {file.relative_to(source.folder).as_posix()}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _batches(source: TextFiles, files: Sequence[Path], s: StreamSettings) -> Iterator[list[Document]]:
    documents = (document for file in files for document in source.documents(file, s))
    while first := list(islice(documents, 1)):
        batch, characters = first, len(first[0].text)
        while len(batch) < _BATCH and characters < _CHARACTERS and (more := list(islice(documents, 1))):
            batch += more
            characters += len(more[0].text)
        yield batch


def _append(handle: Any, documents: Sequence[Document], preprocess: TextProcessor, width: int,
            ends: "array[int]") -> None:  # fmt: skip
    import numpy as np

    end = preprocess.id("eos")
    texts = [document.text for document in documents]
    for encoded in encode_batch(preprocess.backend, texts, add_special_tokens=False):
        ids = np.array([*encoded.ids, *([] if end is None else [end])], dtype=np.uint16 if width == 2 else np.uint32)
        ids.tofile(handle)
        ends.append((ends[-1] if ends else 0) + len(ids))
