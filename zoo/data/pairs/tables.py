"""Rows of pairs from tables: encoded items with their captions, before decoding; folders with a caption file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from zoo.data.image.decode import Blob
from zoo.data.sources.columns import FILE_NAMES, IMAGE_NAMES, encoded_item, find_column, find_columns
from zoo.data.sources.find import Read, split_tables
from zoo.data.sources.shards import read_shards
from zoo.data.sources.tables import SUFFIXES, Table, read_table
from zoo.data.splits import Items
from zoo.utils.errors import DataError

NAMES = {
    "images": IMAGE_NAMES,
    "audio": ("audio", "sound", "wav", "flac", "clip"),
    "captions": ("caption", "captions", "text", "sentence", "sentences", "description", "title", "alt_text", "alt"),
}
"""Default column names; columns of file names may also be named as in FILE_NAMES."""
CAPTION_FILES = ("captions", "metadata")


@dataclass(frozen=True)
class Rows(Items):
    """Pairs before decoding: encoded items (bytes or files), their captions, and their positions for messages."""

    noun: ClassVar[str] = "pairs"

    blobs: list[Blob]
    captions: list[tuple[str, ...]]
    places: list[str]

    def __len__(self) -> int:
        return len(self.blobs)

    def contents(self) -> list[Blob]:
        return self.blobs

    def take(self, rows: Tensor) -> "Rows":
        """The pairs of these rows."""
        kept = rows.tolist()
        return Rows(*([column[i] for i in kept] for column in (self.blobs, self.captions, self.places)))


def caption_folder(folder: Path, read: Read = read_table) -> dict[str, Table]:
    """Tables of a folder by split: train, validation and test tables, else captions.csv (or .jsonl, ...), else shards.

    Raises: DataError for a folder without any of them.
    """
    if tables := split_tables(folder, read, alone=CAPTION_FILES):
        return tables
    if shards := sorted(folder.glob("*.tar")):
        parts = {"test": [str(s) for s in shards if "test" in s.name], "train": []}
        parts["train"] = [str(s) for s in shards if str(s) not in parts["test"]]
        return {split: read_shards(files) for split, files in parts.items() if files}
    raise DataError(f"{folder} has no caption table: expected captions.csv (or {', '.join(SUFFIXES[1:])}) with a "
                    f"column `file` and a column `caption`, train.parquet, or WebDataset shards (*.tar)")  # fmt: skip


def pair_rows(table: Table, items: str, captions: str, role: str, skipped: list[str]) -> Rows:
    """The pairs of a table; rows with the same file, or the same bytes, add captions to it.

    Args:
        table: The table.
        items, captions: Columns from the options; empty ones are found by their default names. Several caption columns
            are separated by commas.
        role: `images` or `audio`, the name of the option of the item column.
        skipped: List to which messages of incomplete rows and missing files are appended.
    """
    column = find_column(table, items, role, (*NAMES[role], *FILE_NAMES))
    caption_columns = find_columns(table, captions, "captions", NAMES["captions"])
    base = Path(table.where).parent
    found: dict[Blob, tuple[list[str], str]] = {}
    for row in range(len(table)):
        place, value = table.place(row), table.columns[column][row]
        texts = [text for name in caption_columns for text in _texts(table.columns[name][row])]
        blob, problem = encoded_item(value, base)
        problem = problem or ("" if texts else f"no caption in {', '.join(caption_columns)}")
        if problem or blob is None:
            skipped.append(f"{place}: {problem}")
            continue
        known, _ = found.setdefault(blob, ([], f"{place}: {blob}" if isinstance(blob, Path) else place))
        known.extend(text for text in texts if text not in known)
    return Rows(list(found), [tuple(texts) for texts, _ in found.values()], [place for _, place in found.values()])


def _texts(value: Any) -> Iterator[str]:
    """The captions of a cell, which is a string or a list of strings."""
    for text in value if isinstance(value, list | tuple) else [value]:
        if isinstance(text, str) and text.strip():
            yield text.strip()
