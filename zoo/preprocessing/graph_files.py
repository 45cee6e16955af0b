"""Files of graphs: NPZ, and folders with nodes.csv and edges.csv. They give the fields of a `Graph`."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.utils.array_files import DAMAGED
from zoo.utils.atomic import write_atomic
from zoo.utils.errors import LoadError

SUFFIXES = (".npz",)
NODES, EDGES = "nodes.csv", "edges.csv"
# Names of arrays, those of torch_geometric among them: {ours: theirs}.
ARRAYS = {
    "node_features": ("node_features", "x"),
    "edge_index": ("edge_index",),
    "edge_features": ("edge_features", "edge_attr", "edge_weight"),
    "labels": ("labels", "y"),
    "names": ("names",),
    "classes": ("classes",),
}
PARTS = {"train": ("train", "train_mask"), "val": ("val", "val_mask"), "test": ("test", "test_mask")}
ID, SOURCE, TARGET, LABEL, PART = "id", "source", "target", "label", "part"
SEPARATORS = ",;\t"


def read(path: str | Path) -> dict[str, Any]:
    """The fields of a `Graph` of a file or folder, see `read_npz` and `read_csv`. Raises LoadError naming it."""
    path = Path(path)
    if path.is_dir():
        return read_csv(path)
    if path.suffix.lower() not in SUFFIXES:
        raise LoadError(f"{path} has an unknown file type: expected a graph in an .npz file, or a folder with "
                        f"{NODES} and {EDGES}")  # fmt: skip
    return read_npz(path)


def read_npz(path: Path) -> dict[str, Any]:
    """The graph of an NPZ file: arrays x [N, F] and edge_index [2, E]; optional edge_attr [E, D] or edge_weight [E],
    y [N] (classes of the nodes, numbers or names), names [N], classes [C] (their names), and train, val, test, also as
    train_mask, ... (numbers of the nodes of each part, or bool [N]). Raises LoadError for other arrays, which would
    have no effect, and for pickled objects."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise LoadError(f"{path} cannot be read as arrays of numbers: {error}") from None
    known = {**ARRAYS, **PARTS}
    given = {ours: [name for name in names if name in arrays] for ours, names in known.items()}
    for name in ("node_features", "edge_index"):
        if not given[name]:
            expected = " or ".join(ARRAYS[name])
            raise LoadError(f"{path} has no array {expected}; it has {', '.join(arrays) or 'none'}")
    for names in given.values():
        if len(names) > 1:
            raise LoadError(f"{path} has the arrays {' and '.join(names)}, which mean the same: keep one of them")
    if others := sorted(arrays.keys() - {name for names in given.values() for name in names}):
        expected = ", ".join(" or ".join(names) for names in known.values())
        raise LoadError(f"{path} has the arrays {', '.join(others)}, which are not read: leave them out; a graph has "
                        f"{expected}")  # fmt: skip
    found: dict[str, Any] = {ours: arrays[names[0]] for ours, names in given.items() if names}
    if "labels" in found and found["labels"].dtype.kind in "US":
        found["labels"], classes = encode_labels(found["labels"].reshape(-1).tolist())
        found.setdefault("classes", classes)
    parts = {name: found.pop(name) for name in PARTS if name in found}
    return {**found, **({"parts": parts} if parts else {})}


def write_npz(path: str | Path, fields: Mapping[str, Any]) -> None:
    """Write the fields of a graph, and the nodes of its parts by their names, as `read_npz` reads them, atomically.

    Raises ValueError for a path with another suffix than .npz, and for parts with other names.
    """
    if others := sorted(fields.keys() - {*ARRAYS, *PARTS}):
        raise ValueError(f"the graph has the parts {', '.join(others)}: a file has {', '.join(PARTS)}")
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected the name of an .npz file")
    written = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in fields.items()}
    np.savez_compressed(written, **arrays)
    write_atomic(path, written.getvalue())


def read_csv(folder: Path) -> dict[str, Any]:
    """The graph of a folder: nodes.csv with the columns id, optional label (a whole number or the name of a class, or
    empty) and part (train, val, test or empty), and every other column a feature; edges.csv with the columns source
    and target (ids of nodes), and every other column a feature. Columns are separated by commas, semicolons or tabs.
    Raises LoadError naming the file and the row."""
    nodes, edges = (_table(folder / name) for name in (NODES, EDGES))
    for file, table, needed in ((NODES, nodes, (ID,)), (EDGES, edges, (SOURCE, TARGET))):
        for name in needed:
            if name not in table:
                raise LoadError(f"{folder / file} has no column {name!r}; it has {', '.join(table) or 'none'}")
    if PART not in nodes and "split" in nodes:
        nodes[PART] = nodes.pop("split")
    ids = nodes[ID]
    number = {name: i for i, name in enumerate(ids)}
    if len(number) != len(ids):
        twice = next(name for i, name in enumerate(ids) if number[name] != i)
        raise LoadError(f"{folder / NODES}: the id {twice!r} is there twice")
    pairs = []
    for row, pair in enumerate(zip(edges[SOURCE], edges[TARGET]), 2):
        for name in pair:
            if name not in number:
                raise LoadError(f"{folder / EDGES}, row {row}: there is no node {name!r} in {NODES}")
        pairs.append([number[name] for name in pair])
    features = _numbers(folder / NODES, nodes, (ID, LABEL, PART))
    if features is None:
        raise LoadError(f"{folder / NODES} has no column of features: expected at least one beside {ID}, {LABEL} and "
                        f"{PART}")  # fmt: skip
    found: dict[str, Any] = {
        "node_features": features,
        "edge_index": np.array(pairs, dtype=np.int64).reshape(-1, 2).T,
        "edge_features": _numbers(folder / EDGES, edges, (SOURCE, TARGET)),
        "names": tuple(ids),
    }
    if LABEL in nodes:
        found["labels"], found["classes"] = encode_labels(nodes[LABEL])
    if PART in nodes:
        for row, text in enumerate(nodes[PART], 2):
            if text and text not in PARTS:
                raise LoadError(f"{folder / NODES}, row {row}: part {text!r}: expected {', '.join(PARTS)}, or nothing")
        found["parts"] = {name: np.array([text == name for text in nodes[PART]]) for name in PARTS}
    return found


def _table(path: Path) -> dict[str, list[str]]:
    """The columns of a CSV file, as texts."""
    import pyarrow as pa
    from pyarrow import csv

    if not path.exists():
        raise LoadError(f"there is no {path}: a graph in CSV is a folder with {NODES} and {EDGES}")
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        parse = csv.ParseOptions(delimiter=max(SEPARATORS, key=header.count))
        names = csv.open_csv(path, parse_options=parse).schema.names
        texts = csv.ConvertOptions(column_types={name: pa.string() for name in names}, strings_can_be_null=False)
        table = csv.read_csv(path, parse_options=parse, convert_options=texts)
        return {name: table[name].to_pylist() for name in names}
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise LoadError(f"{path} cannot be read as CSV: {error}") from None


def _numbers(path: Path, table: dict[str, list[str]], others: tuple[str, ...]) -> np.ndarray | None:
    """The other columns as float32 [rows, columns]; None without any."""
    columns = []
    for name in table:
        if name in others:
            continue
        values = np.empty(len(table[name]), dtype=np.float32)
        for i, text in enumerate(table[name]):
            try:
                values[i] = float(text)
            except ValueError:
                raise LoadError(f"{path}, row {i + 2}: column {name!r} has {text!r}, expected a number") from None
        columns.append(values)
    return np.stack(columns, 1) if columns else None


def encode_labels(values: Sequence[Any]) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """(classes int64 [N], -1 for None and empty texts; their names, sorted, unless all values are whole numbers)."""
    given = {value for value in values if value not in (None, "")}
    if not given:
        return None, None
    if all(isinstance(value, int) or str(value).removeprefix("-").isdecimal() for value in given):
        return np.array([-1 if value in (None, "") else int(value) for value in values]), None
    names = sorted(map(str, given))
    number = {name: i for i, name in enumerate(names)}
    return np.array([-1 if value in (None, "") else number[str(value)] for value in values]), tuple(names)
