"""Records in parquet files, of which only the row groups and columns in use are in memory."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from zoo.data.sources.columns import encoded_item
from zoo.data.sources.fingerprint import note_digest
from zoo.data.sources.tables import class_names_of
from zoo.data.streams.records import Records, Role, hash_text
from zoo.utils.errors import DataError, did_you_mean
from zoo.utils.keyed_random import hash_keys
from zoo.utils.recent import Recent

_OPEN = 16  # files that are open at a time
_TAIL = 8  # bytes at the end of a file: the size of its metadata, and the magic
MEMORY = 2  # row groups of a source in memory, in windows


@dataclass(frozen=True)
class Footer:
    """What the metadata of a parquet file says: rows of each group, names of the columns, class names, a digest."""

    groups: list[int]
    columns: list[str]
    classes: dict[str, list[str]]
    digest: str


def read_footer(file: Path) -> Footer:
    """The metadata of a parquet file. Raises: DataError for a file that is damaged, or no parquet file."""
    from pyarrow import ArrowException

    try:
        opened = _open(file)
        metadata, schema = opened.metadata, opened.schema_arrow
        groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        opened.close()
        with open(file, "rb") as handle:
            handle.seek(-_TAIL, 2)
            size = int.from_bytes(handle.read(4), "little")
            handle.seek(-_TAIL - size, 2)
            digest = hashlib.sha256(handle.read(size)).hexdigest()
    except (ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{file} is not a parquet file that can be read ({reason}): copy or write it again") from None
    return Footer(groups, schema.names, class_names_of(schema), digest)


class ParquetRecords(Records):
    """Rows of parquet files with the same columns.

    Args:
        files: The files.
        folder: Their names in keys and messages are relative to it.
        roles: The parts of a row that are read.
        window: Rows that are shuffled together: so many rows, and as many again, are in memory.

    Raises: DataError for a damaged file, or one without a column that is needed.
    """

    def __init__(self, files: Sequence[Path], folder: Path, roles: Sequence[Role], window: int) -> None:
        self.files, self.folder, self.where = list(files), folder, str(folder)
        footers = [read_footer(file) for file in self.files]
        for file, footer in zip(self.files, footers):
            note_digest(f"{self._name(file)}, its index", footer.digest)
        self.columns = {role.name: self._column(role, footers) for role in roles}
        self.groups = [(number, group) for number, one in enumerate(footers) for group in range(len(one.groups))]
        sizes = [rows for footer in footers for rows in footer.groups]
        self.starts = [0, *accumulate(sizes)]
        self.file_starts = [0, *accumulate(sum(footer.groups) for footer in footers)]
        if not self.file_starts[-1]:
            raise DataError(f"{folder}: {self.files[0].name} has no rows")
        self.chunk = max(sizes)
        self.hashes = torch.cat([
            hash_keys(hash_text(self._name(file)), torch.arange(stop - start))
            for file, start, stop in zip(self.files, self.file_starts, self.file_starts[1:])
        ])  # fmt: skip
        label = self.columns.get("label")
        named = [(file, f.classes[label]) for file, f in zip(self.files, footers) if label and label in f.classes]
        if other := next((file for file, names in named if names != named[0][1]), None):
            raise DataError(f"{other} and {named[0][0].name} have different class names in {label!r}: write them with "
                            f"the same names in the same order")  # fmt: skip
        self.names = named[0][1] if named else ()
        most = MEMORY * max(1, window // self.chunk) + 2
        self._opened, self._tables = Recent(_open, _OPEN, _close), Recent(self._load, most)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()

    def _column(self, role: Role, footers: Sequence[Footer]) -> str | None:
        """The column of a role; None without one that is needed not. It must be that of all files."""
        first = footers[0].columns
        found = role.column or next((name for name in (*role.columns, *role.endings) if name in first), "")
        for file, footer in zip(self.files, footers):
            if (found and found not in footer.columns) or (role.needed and not found):
                near = did_you_mean(found, footer.columns) if found else ""
                missing = f"no column {found!r} for the {role.name}" if found else f"no column for the {role.name}"
                expected = "" if found else f": expected one of {', '.join(role.columns[:5])}"
                raise DataError(f"{file} has {missing}{near}{expected} (it has {', '.join(footer.columns)}); name it "
                                f"with {role.name}=")  # fmt: skip
        return found or None

    def _load(self, group: int) -> Any:
        number, own = self.groups[group]
        columns = sorted({name for name in self.columns.values() if name})
        return self._table(self.files[number], own, columns)

    def _table(self, file: Path, group: int, columns: list[str]) -> Any:
        from pyarrow import ArrowException

        try:
            return self._opened(file).read_row_group(group, columns=columns, use_threads=False)
        except (ArrowException, OSError) as error:
            raise DataError(f"{file}, row group {group} cannot be read ({str(error).splitlines()[0]}): copy or write "
                            f"the file again") from None  # fmt: skip

    def read(self, rows: Sequence[int], role: str) -> list[Any]:
        """See Records: of files, their bytes."""
        column = self.columns[role]
        if column is None:
            return [None] * len(rows)
        found = []
        for row in rows:
            group = bisect_right(self.starts, row) - 1
            value = self._tables(group).column(column)[row - self.starts[group]].as_py()
            found.append(self._content(value, row) if role in ("image", "images", "audio") else value)
        return found

    def _content(self, value: Any, row: int) -> bytes:
        blob, problem = encoded_item(value, self.files[self._file(row)].parent)
        if problem or blob is None:
            raise DataError(f"{self.place(row)}: {problem or 'no bytes'}")
        return blob if isinstance(blob, bytes) else blob.read_bytes()

    def labels(self, role: str) -> list[Any]:
        """See Records; of each file, the column alone is read, group by group."""
        column = self.columns[role]
        assert column is not None
        return [value for number, group in self.groups
                for value in self._table(self.files[number], group, [column]).column(column).to_pylist()]  # fmt: skip

    def _file(self, row: int) -> int:
        return bisect_right(self.file_starts, row) - 1

    def place(self, row: int, role: str = "") -> str:
        """See Records."""
        number = self._file(row)
        return f"{self.files[number]}, row {row - self.file_starts[number]}" + (f", {role}" if role else "")


def _open(file: Path) -> Any:
    from pyarrow.parquet import ParquetFile

    return ParquetFile(file, memory_map=True)


def _close(file: Any) -> None:
    file.close()
