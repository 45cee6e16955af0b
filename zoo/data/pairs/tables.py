"""Tables of pairs from parquet, CSV, TSV and JSON files, folders with a caption file, WebDataset shards and the Hub."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from zoo.data.image.decode import Blob
from zoo.data.sources.fingerprint import note_digest, note_files
from zoo.data.sources.hub import hub_tables
from zoo.data.sources.tables import SUFFIXES, Table, read_table
from zoo.data.splits import Items
from zoo.data.text.load import _folder_tables
from zoo.preprocessing import image_io
from zoo.utils.errors import DataError, did_you_mean

NAMES = {
    "images": ("image", "img", "picture", "photo", "pixel_values", "jpg", "png"),
    "audio": ("audio", "sound", "wav", "flac", "clip"),
    "captions": ("caption", "captions", "text", "sentence", "sentences", "description", "title", "alt_text", "alt"),
}
"""Default column names; columns of file names may also be named as in FILES."""
FILES = ("file", "file_name", "filename", "path", "file_path", "filepath")
ENDINGS = {"images": tuple(suffix[1:] for suffix in image_io.SUFFIXES),
           "audio": ("wav", "flac", "ogg", "mp3", "opus")}  # fmt: skip
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

    def take(self, rows: Tensor) -> "Rows":
        """The pairs of these rows."""
        kept = rows.tolist()
        return Rows(*([column[i] for i in kept] for column in (self.blobs, self.captions, self.places)))


def find_tables(name: str, test: str | None = None) -> dict[str, Table]:
    """Tables by split of a file, a folder, shards or a Hub dataset. Raises: DataError."""
    path = Path(name).expanduser()
    if name.endswith((".tar", "}")):
        tables = {"train": read_shards(name)}
    elif path.is_dir():
        tables = folder_tables(path)
    elif path.suffix.lower() in SUFFIXES:
        tables = {"train": read_table(path)}
    else:
        tables = hub_tables(name.removeprefix("hf-hub:"))
    if test:
        tables["test"] = read_shards(test) if test.endswith((".tar", "}")) else read_table(Path(test).expanduser())
    return tables


def folder_tables(folder: Path) -> dict[str, Table]:
    """Tables of a folder: train, validation and test tables, else captions.csv (or .jsonl, ...), else shards."""
    if any((folder / f"train{suffix}").is_file() for suffix in SUFFIXES):
        return _folder_tables(folder)
    for stem in CAPTION_FILES:
        for suffix in SUFFIXES:
            if (file := folder / f"{stem}{suffix}").is_file():
                return {"train": read_table(file)}
    if shards := sorted(folder.glob("*.tar")):
        parts = {"test": [str(s) for s in shards if "test" in s.name], "train": []}
        parts["train"] = [str(s) for s in shards if str(s) not in parts["test"]]
        return {split: read_shards(files) for split, files in parts.items() if files}
    raise DataError(f"{folder} has no caption table: expected captions.csv (or {', '.join(SUFFIXES[1:])}) with a "
                    f"column `file` and a column `caption`, train.parquet, or WebDataset shards (*.tar)")  # fmt: skip


def read_shards(urls: str | list[str]) -> Table:
    """Read WebDataset shards as a table with columns `image`, `audio`, `caption` and the keys of JSON files.

    Raises: DataError when webdataset is not installed, or a shard is missing or damaged.
    """
    try:
        import webdataset
    except ImportError:
        raise DataError("reading shards (.tar) needs webdataset, which is not installed: "
                        "pip install 'attention-zoo[shards]', or pip install webdataset") from None  # fmt: skip
    rows = []
    digests: dict[str, Any] = {}
    try:
        for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
            rows.append(_shard_row(sample))
            _update_digest(digests.setdefault(sample["__url__"], hashlib.sha256()), sample)
    except (OSError, ValueError) as error:
        raise DataError(f"shards {urls}: {error}") from None
    for url, digest in digests.items():
        file = Path(url.removeprefix("file:")).expanduser()
        note_files([file]) if file.is_file() else note_digest(url, digest.hexdigest())
    where = urls if isinstance(urls, str) else f"{urls[0]} ..."
    if not rows:
        raise DataError(f"shards {where} contain no samples")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table({name: [row.get(name) for row in rows] for name in names}, where)


def _update_digest(digest: Any, sample: dict[str, Any]) -> None:
    """Add a sample to the digest of its shard, which may be a stream that cannot be read again."""
    for name in sorted(name for name in sample if not name.startswith("__")):
        digest.update(f"{sample['__key__']}.{name} {len(sample[name])}\n".encode())
        digest.update(sample[name])


def _shard_row(sample: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for ending, value in sample.items():
        kind = ending.rpartition(".")[2].lower()
        if ending.startswith("__"):
            continue
        if kind == "json":
            row |= {key: inner for key, inner in json.loads(value).items() if key not in row}
        elif kind in ENDINGS["images"]:
            row["image"] = value
        elif kind in ENDINGS["audio"]:
            row["audio"] = value
        elif kind in ("txt", "caption", "text"):
            row["caption"] = value.decode("utf-8").strip()
    return row


# --- rows -------------------------------------------------------------------------------------------------------------


def pair_rows(table: Table, items: str, captions: str, role: str, skipped: list[str]) -> Rows:
    """The pairs of a table; rows with the same file add captions to it.

    Args:
        table: The table.
        items, captions: Columns from the options; empty ones are found by their default names. Several caption columns
            are separated by commas.
        role: `images` or `audio`, the name of the option of the item column.
        skipped: List to which messages of incomplete rows and missing files are appended.
    """
    column = _column(table, items, role, (*NAMES[role], *FILES))
    caption_columns = [_column(table, name.strip(), "captions", NAMES["captions"]) for name in captions.split(",")]
    base = Path(table.where).parent
    found: dict[Any, tuple[Blob, list[str], str]] = {}
    for row in range(len(table)):
        place, value = table.place(row), table.columns[column][row]
        texts = [text for name in caption_columns for text in _texts(table.columns[name][row])]
        blob, problem = _blob(value, base)
        problem = problem or ("" if texts else f"no caption in {', '.join(caption_columns)}")
        if problem or blob is None:
            skipped.append(f"{place}: {problem}")
            continue
        key = blob if isinstance(blob, Path) else row
        known = found.setdefault(key, (blob, [], f"{place}: {blob}" if isinstance(blob, Path) else place))
        known[1].extend(text for text in texts if text not in known[1])
    blobs, lists, places = zip(*found.values()) if found else ((), (), ())
    return Rows(list(blobs), [tuple(texts) for texts in lists], list(places))


def _column(table: Table, requested: str, role: str, defaults: tuple[str, ...]) -> str:
    """The requested column, or the first default that exists."""
    columns = ", ".join(table.columns)
    if requested:
        if requested not in table.columns:
            raise DataError(f"{role}={requested}: {table.where} has no column {requested!r}"
                            f"{did_you_mean(requested, table.columns)} (it has {columns})")  # fmt: skip
        return requested
    for name in defaults:
        if name in table.columns:
            return name
    raise DataError(f"{table.where} has the columns {columns}: name the {role} column, e.g. {role}="
                    f"{next(iter(table.columns))}")  # fmt: skip


def _texts(value: Any) -> Iterator[str]:
    """The captions of a cell, which is a string or a list of strings."""
    for text in value if isinstance(value, list | tuple) else [value]:
        if isinstance(text, str) and text.strip():
            yield text.strip()


def _blob(value: Any, base: Path) -> tuple[Blob | None, str]:
    """(blob, problem) of a cell: bytes, {bytes, path} or a file name relative to the table."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value, "" if value else "contains no bytes"
    if not isinstance(value, str) or not value:
        return None, "no file name" if value in (None, "") else f"expected a file, got {type(value).__name__}"
    file = base / Path(value).expanduser()
    return (file, "") if file.is_file() else (None, f"{file} does not exist")
