"""Files that hold several items, such as FASTA: each record is an item of its own, called FILE#RECORD."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from zoo.preprocessing.modality import MODALITIES
from zoo.retrieval.embeddings_file import Item, split_name


def items_of_records(kind: str, name: str, path: Path) -> list[Item]:
    """An item for each record of a file; one without a record for a file that cannot be read, which is reported when it
    is its turn."""
    try:
        stat = path.stat()
        found = _records(kind, str(path), stat.st_size, stat.st_mtime_ns)
    except (OSError, ValueError):
        return [Item(kind, name)]
    return [Item(kind, f"{name}#{record}", stat.st_size, stat.st_mtime_ns) for record in found]


def record_of(item: Item, folder: Path | None) -> Any:
    """The item itself, from its file. Raises ValueError for a file without this record, and as its reader does."""
    file, record = split_name(item.name)
    if not file:
        return item.name
    path = folder / file if folder else Path(file)
    if not path.is_file():
        raise ValueError("there is no such file")
    stat = path.stat()
    found = _records(item.kind, str(path), stat.st_size, stat.st_mtime_ns)
    if record not in found:
        raise ValueError(f"{path} has no record {record!r}")
    return found[record]


@lru_cache(maxsize=8)
def _records(kind: str, path: str, size: int, time: int) -> dict[str, Any]:
    """{name: item} of a file. size, time: of its last change, so that a changed file is read again."""
    read = MODALITIES[kind].records
    assert read is not None
    found: dict[str, Any] = {}
    for name, item in read(Path(path)):
        if name in found:
            raise ValueError(f"{path} has two records called {name!r}: give each a name of its own")
        found[name] = item
    return found
