"""Files of embeddings: a matrix that is memory-mapped, and for each row what it is of.

safetensors: `embeddings` [N, D], the names as UTF-8 (`names`, with `ends`), `kinds` and `stamps` (size and time of each
file). Parquet (by the ending of the name): columns kind, name, size, time, embedding. What holds for all rows (the
fingerprint of the model, the folder) stands in the metadata of both.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from zoo.preprocessing.modality import MODALITIES, NAMES, file_modality
from zoo.utils.errors import LoadError
from zoo.utils.files import write_atomic

FORMAT = "1"
LIBRARY = "attention-zoo embeddings"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PARQUET = (".parquet", ".pq")
TENSORS = ("embeddings", "names", "ends", "kinds", "stamps")


class Item(NamedTuple):
    """What a row is of. name: a path, relative to the folder if there is one, or a text itself; size in bytes and time
    of change in ns of a file, -1 of a text that was given as it is."""

    kind: str
    name: str
    size: int = -1
    time: int = -1


class Items(Sequence[Item]):
    """The items of a file, each read on access."""

    def __init__(self, names: Tensor, ends: Tensor, kinds: Tensor, stamps: Tensor) -> None:
        self.names, self.ends, self.kinds, self.stamps = names, ends, kinds, stamps

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, i: int) -> Item: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Item]: ...
    def __getitem__(self, i: int | slice) -> Item | Sequence[Item]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        start, end = int(self.ends[i - 1]) if i else 0, int(self.ends[i])
        name = self.names[start:end].numpy().tobytes().decode("utf-8", "surrogateescape")
        return Item(NAMES[int(self.kinds[i])], name, int(self.stamps[i, 0]), int(self.stamps[i, 1]))

    @classmethod
    def of(cls, items: Sequence[Item]) -> "Items":
        parts = [item.name.encode("utf-8", "surrogateescape") for item in items]
        return cls(
            torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.uint8) if any(parts) else torch.empty(0).byte(),
            torch.tensor([len(part) for part in parts], dtype=torch.int64).cumsum(0),
            torch.tensor([NAMES.index(item.kind) for item in items], dtype=torch.uint8),
            torch.tensor([[item.size, item.time] for item in items], dtype=torch.int64).reshape(-1, 2),
        )


@dataclass(frozen=True)
class Embeddings:
    """What `zoo.embed` wrote and `zoo.search` looks through; `Embeddings.open(file)` maps it into memory.

    vectors: [N, D], each row of length 1. items: what each row is of. fingerprint: of the model. folder: what the names
    are relative to. source: where the model was loaded from. broken: "path: reason" of what was left out.
    """

    vectors: Tensor
    items: Sequence[Item]
    fingerprint: str
    folder: Path | None = None
    source: str = ""
    broken: list[str] = field(default_factory=list)
    file: Path | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def width(self) -> int:
        return self.vectors.shape[1]

    def path(self, row: int) -> Path | None:
        """The file that a row is of; None of a text or SMILES string that was given as it is."""
        item = self.items[row]
        if MODALITIES[item.kind].records is not None:
            file, _ = split_name(item.name)
            return None if not file else self.folder / file if self.folder else Path(file)
        if MODALITIES[item.kind].strings and file_modality(item.name, [item.kind]) != item.kind:
            return None
        return self.folder / item.name if self.folder else Path(item.name)

    def check(self, fingerprint: str) -> None:
        """Raise ValueError where the vectors are not of the model with this fingerprint."""
        if fingerprint != self.fingerprint:
            made = f" ({self.source})" if self.source else ""
            raise ValueError(
                f"{self.file or 'the embeddings'} was made by another model{made}: its fingerprint is "
                f"{self.fingerprint[:12]}..., that of the model given {fingerprint[:12]}... Vectors of different "
                "models cannot be compared: use that model, or embed again (weights, config and preprocessing count)"
            )

    @classmethod
    def open(cls, file: str | Path) -> "Embeddings":
        """Map a file into memory. Raises LoadError, naming it, when it is missing, damaged or of something else."""
        file = Path(file)
        if not file.is_file():
            raise LoadError(f"there is no file of embeddings {file}, and no such folder; zoo.embed writes such files")
        return _open_parquet(file) if file.suffix in PARQUET else _open_safetensors(file)

    def save(self, file: str | Path) -> "Embeddings":
        """Write the file in one piece, as safetensors or, where the name ends so, as parquet; returns what is there."""
        file = Path(file)
        write_atomic(file, (self._write_parquet if file.suffix in PARQUET else self._write_safetensors))
        return Embeddings.open(file)

    def metadata(self) -> dict[str, str]:
        folder = "" if self.folder is None else str(self.folder)
        return {
            "library": LIBRARY, "format": FORMAT, "fingerprint": self.fingerprint, "folder": folder,
            "source": self.source, "broken": json.dumps(self.broken),
        }  # fmt: skip

    def _write_safetensors(self, part: Path) -> None:
        from safetensors.torch import save_file

        items = self.items if isinstance(self.items, Items) else Items.of(self.items)
        metadata = {"names": items.names, "ends": items.ends, "kinds": items.kinds, "stamps": items.stamps}
        about = {LIBRARY: json.dumps(self.metadata())}  # one key: safetensors writes several in an order of chance
        save_file({"embeddings": self.vectors.contiguous()} | metadata, part, about)

    def _write_parquet(self, part: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = pa.array(self.vectors.contiguous().view(-1).numpy())
        kind, name, size, time = zip(*self.items)
        columns = {
            "kind": kind, "name": [n.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for n in name],
            "size": pa.array(size, pa.int64()), "time": pa.array(time, pa.int64()),
            "embedding": pa.FixedSizeListArray.from_arrays(rows, self.width),
        }  # fmt: skip
        pq.write_table(pa.table(columns).replace_schema_metadata(self.metadata()), part, compression="none")


def _open_safetensors(file: Path) -> Embeddings:
    from safetensors import SafetensorError, safe_open

    try:
        handle = safe_open(file, "pt")
        found = {name: handle.get_tensor(name) for name in handle.keys() if name in TENSORS}  # noqa: SIM118
        metadata = json.loads((handle.metadata() or {}).get(LIBRARY, "{}"))
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{file} is damaged, or not a file of embeddings: {error}") from None
    if metadata.get("library") != LIBRARY or set(found) != set(TENSORS):
        raise LoadError(f"{file} is not a file of embeddings; zoo.embed writes such files")
    vectors = found.pop("embeddings")
    items = Items(**found)
    if not len(vectors) == len(items) == len(items.kinds) == len(items.stamps):
        raise LoadError(f"{file} is damaged: {len(vectors)} vectors of {len(items)} items")
    return _described(file, vectors, items, metadata)


def _open_parquet(file: Path) -> Embeddings:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file, memory_map=True)
        metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        lists = table.column("embedding").combine_chunks()
        items = [Item(*row) for row in zip(*(table.column(n).to_pylist() for n in ("kind", "name", "size", "time")))]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise LoadError(f"{file} is damaged, or not a file of embeddings: {error}") from None
    if metadata.get("library") != LIBRARY:
        raise LoadError(f"{file} is not a file of embeddings; zoo.embed writes such files")
    values = lists.flatten().to_numpy(zero_copy_only=False)
    values = values if values.flags.writeable else values.copy()
    return _described(file, torch.from_numpy(values).view(len(items), -1), items, metadata)


def _described(file: Path, vectors: Tensor, items: Sequence[Item], metadata: dict[str, Any]) -> Embeddings:
    if metadata.get("format") != FORMAT:
        raise LoadError(f"{file} has format {metadata.get('format')}, this zoo reads {FORMAT}: upgrade attention-zoo")
    folder = Path(metadata["folder"]) if metadata["folder"] else None
    broken = json.loads(metadata["broken"])
    return Embeddings(vectors, items, metadata["fingerprint"], folder, metadata["source"], broken, file)


def split_name(name: str) -> tuple[str, str]:
    """(name of the file, name of the record) of an item; the record is empty for a file, and the file for an item that
    was given as it is."""
    for place, character in enumerate(name):
        if character == "#" and _has_records(name[:place]):
            return name[:place], name[place + 1 :]
    return (name, "") if _has_records(name) else ("", "")


def _has_records(name: str) -> bool:
    kind = file_modality(name)
    return kind is not None and MODALITIES[kind].records is not None
