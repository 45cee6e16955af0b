"""Files in memory, as `zoo serve` receives them, for readers that take paths."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

Read = TypeVar("Read")
LARGEST = 2**30  # bytes of the arrays of an NPZ file, which a small file may claim to have
SUFFIXES = {b"ply": ".ply", b"\x93NUMPY": ".npy", b"PK": ".npz", b"OFF": ".off", b"# STOCKHOLM": ".sto", b">": ".a3m"}


def read_bytes(data: bytes, read: Callable[[Path], Read], name: str, other: str = "") -> Read:
    """What `read` makes of a file with these bytes, whose kind is that of its first bytes.

    name: what the file is called in messages, in the place of its path. other: the suffix of files of other kinds.

    Raises ValueError as `read` does, and for an archive whose arrays would not fit into memory.
    """
    suffix = next((found for start, found in SUFFIXES.items() if data.startswith(start)), other)
    if suffix == ".npz" and zipfile.is_zipfile(io.BytesIO(data)):
        size = sum(entry.file_size for entry in zipfile.ZipFile(io.BytesIO(data)).infolist())
        if size > LARGEST:
            raise ValueError(f"{name} has arrays of {size:,} bytes: expected at most {LARGEST:,}")
    with TemporaryDirectory() as folder:
        path = Path(folder, f"file{suffix}")
        path.write_bytes(data)
        try:
            return read(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), name)) from None
