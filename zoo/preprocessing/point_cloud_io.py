"""Readers of point clouds: PLY (ascii and binary, of both byte orders), NPY and NPZ files, the texts XYZ and OFF."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from zoo.utils.array_files import DAMAGED
from zoo.utils.errors import LoadError, did_you_mean

SUFFIXES = (".ply", ".npy", ".npz", ".xyz", ".pts", ".off")
TEXTS = (".xyz", ".pts", ".off")
POINTS = "points"  # the array of an NPZ file
XYZ = ("x", "y", "z")
TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
HEADER_LINES = 10_000


def read(path: str | Path, features: Sequence[str] = (), label: str = "") -> np.ndarray:
    """The points of a file, float32 [N, 3 + F], or [N, 3 + F + 1] with the label of each.

    A PLY file has them in its element "vertex", with the coordinates x, y, z; an NPY file is an array [N, 3 + F]; an
    NPZ file has the array "points", or a single one. An XYZ or PTS file has a point in each line, 3 + F numbers with
    spaces or commas between them; an OFF file, which describes a mesh, has them as its vertices.

    features: names of further properties of a PLY file (nx, ny, nz; red, green, blue; ...), or of further arrays [N] or
    [N, F] of an NPZ file. Those of 8 or 16 bits without a sign, such as colors, are scaled to 0 .. 1.
    label: name of a property or of an array [N], which is not scaled, for the last column; the last one of an NPY file
    is the label anyway.

    Raises LoadError for a file that is damaged or lacks one of them, and for files of other kinds.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise LoadError(f"{path} has an unknown file type: expected a point cloud in {', '.join(SUFFIXES)}")
    if suffix in (".npy", *TEXTS) and features:
        raise LoadError(f"{path} has columns without names, so it has no features {', '.join(features)}: give the "
                        "columns in the array, or use an NPZ or PLY file")  # fmt: skip
    try:
        if suffix == ".ply":
            return read_ply(path, features, label)
        if suffix in TEXTS:
            return read_text(path)
        return read_arrays(path, features, label)
    except (LoadError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except DAMAGED as error:
        raise LoadError(f"{path} cannot be read as a point cloud: {error}") from None


def read_arrays(path: Path, features: Sequence[str], label: str = "") -> np.ndarray:
    """The points of an NPY or NPZ file, see `read`. Pickled objects are refused."""
    loaded: Any = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return as_points(loaded, str(path))
    with loaded as arrays:
        names = list(arrays)
        more = [*features, label] if label else [*features]
        others = [name for name in names if name not in more]
        main = POINTS if POINTS in names else others[0] if len(others) == 1 else None
        if main is None:
            raise LoadError(f"{path} has the arrays {', '.join(names) or 'none'}: expected one with the name 'points'")
        if missing := next((name for name in more if name not in names), None):
            raise LoadError(f"{path} has no array {missing!r}{did_you_mean(missing, names)}: it has {', '.join(names)}")
        points = as_points(arrays[main], f"{path}: {main}")
        columns = [points]
        for name in more:
            values = arrays[name] if name == label else scaled(arrays[name])
            if values.dtype.kind not in "fiu":
                raise LoadError(f"{path}: {name} is of {values.dtype}, expected numbers")
            values = values[:, None] if values.ndim == 1 else values
            if values.ndim != 2 or len(values) != len(points):
                raise LoadError(f"{path}: {name} is {list(arrays[name].shape)}, expected [{len(points)}] or "
                                f"[{len(points)}, F], a row for each point")  # fmt: skip
            columns.append(values)
    return np.concatenate(columns, 1, dtype=np.float32)


def read_text(path: Path) -> np.ndarray:
    """The points of an XYZ, PTS or OFF file, see `read`. Lines that are empty or begin with # are skipped, and so is a
    first line with the number of points."""
    with path.open(encoding="utf-8-sig") as file:
        found = [(number, line.replace(",", " ").split()) for number, line in enumerate(file, 1)]
    lines = [(number, words) for number, words in found if words and not words[0].startswith("#")]
    if path.suffix.lower() == ".off":
        lines = vertices_of_off(path, lines)
    elif len(lines) > 1 and len(lines[0][1]) == 1 and lines[0][1][0].isdecimal():
        lines = lines[1:]
    rows = []
    for number, words in lines:
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            raise LoadError(f"{path}, line {number}: {' '.join(words)!r:.100}, expected numbers") from None
        if len(rows[-1]) != len(rows[0]):
            raise LoadError(f"{path}, line {number}: {len(rows[-1])} numbers, expected {len(rows[0])}, as before")
    return np.array(rows, dtype=np.float32).reshape(len(rows), -1 if rows else len(XYZ))


def vertices_of_off(path: Path, lines: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """The lines of the vertices of an OFF file: after "OFF" and the numbers of vertices, faces and edges."""
    first = lines[0][1][0] if lines else ""
    if not first.startswith("OFF"):
        raise LoadError(f"{path} is not an OFF file: its first line is not 'OFF'")
    # some files of ModelNet have the counts in the first line, even without a space: OFF490 518 0
    counts = [word for word in [first[3:], *lines[0][1][1:]] if word]
    start = 1 if counts else 2
    counts = counts or (lines[1][1] if len(lines) > 1 else [])
    if not counts or not counts[0].isdecimal():
        raise LoadError(f"{path} has no number of vertices after 'OFF'")
    vertices = lines[start : start + int(counts[0])]
    if len(vertices) < int(counts[0]):
        raise LoadError(f"{path} ends after {len(vertices)} of {counts[0]} points: it is damaged")
    return [(number, words[:3]) for number, words in vertices]


def as_points(values: Any, name: str) -> np.ndarray:
    """An array of numbers as a float32 copy [N, F]. Raises LoadError for other arrays."""
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise LoadError(f"{name} is {list(values.shape)} of {values.dtype}, expected numbers [N, 3 + features]")
    return values.astype(np.float32)


def scaled(values: np.ndarray) -> np.ndarray:
    """float32; numbers of 8 or 16 bits without a sign as fractions of their maximum."""
    kind = np.dtype(values.dtype).newbyteorder("=")
    if kind in (np.dtype(np.uint8), np.dtype(np.uint16)):
        return values.astype(np.float32) / np.iinfo(kind).max
    return values.astype(np.float32)


# --- PLY --------------------------------------------------------------------------------------------------------------


@dataclass
class Element:
    """An element of a PLY file: properties (name, type); of lists, the type is (that of the count, of the items)."""

    name: str
    count: int
    properties: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def has_lists(self) -> bool:
        return any(isinstance(kind, tuple) for _, kind in self.properties)

    def dtype(self, order: str) -> np.dtype:
        """Of one row without lists."""
        return np.dtype([(name, order + kind) for name, kind in self.properties])


def read_ply(path: Path, features: Sequence[str] = (), label: str = "") -> np.ndarray:
    """The coordinates and the named properties of the element "vertex" of a PLY file, see `read`."""
    names_read = (*XYZ, *features, *([label] if label else []))
    with path.open("rb") as file:
        order, elements = read_header(file, path)
        vertices = next((element for element in elements if element.name == "vertex"), None)
        if vertices is None:
            raise LoadError(f"{path} has no element 'vertex': expected a PLY file of points")
        names = [name for name, _ in vertices.properties]
        if missing := next((name for name in names_read if name not in names), None):
            raise LoadError(f"{path}: its points have no property {missing!r}{did_you_mean(missing, names)}; they have "
                            f"{', '.join(names)}")  # fmt: skip
        if vertices.has_lists:
            raise LoadError(f"{path}: the element 'vertex' has a property that is a list, which is not supported")
        size = path.stat().st_size
        for element in elements[: elements.index(vertices) + 1]:
            if element.count > size:  # a row takes a byte at least
                raise LoadError(f"{path} has {size} bytes, too few for {element.count} rows of {element.name!r}: it is "
                                "damaged")  # fmt: skip
        for element in elements[: elements.index(vertices)]:
            skip(file, element, order)
        table = rows_of(file, vertices, order, path)
    columns = [scaled(table[name]) if name in features else table[name] for name in names_read]
    return np.stack(columns, 1).astype(np.float32)


def read_header(file: BinaryIO, path: Path) -> tuple[str, list[Element]]:
    """(byte order of numpy, "" for ascii; the elements in the order of the file)."""
    if file.readline(16).strip() != b"ply":
        raise LoadError(f"{path} is not a PLY file: its first line is not 'ply'")
    order, elements = None, list[Element]()
    for _ in range(HEADER_LINES):
        line = file.readline(4096)
        words = line.decode("ascii", "replace").split()
        match words:
            case []:
                if not line:
                    break
            case ["end_header"]:
                if order is None:
                    raise LoadError(f"{path}: its header has no line 'format'")
                return order, elements
            case ["format", kind, *_]:
                if kind not in ORDERS:
                    raise LoadError(f"{path}: unknown format {kind!r}, expected one of {', '.join(ORDERS)}")
                order = ORDERS[kind]
            case ["element", name, count] if count.isdigit():
                elements.append(Element(name, int(count)))
            case ["property", "list", kind, items, name] if elements and kind in TYPES and items in TYPES:
                elements[-1].properties.append((name, (TYPES[kind], TYPES[items])))
            case ["property", kind, name] if elements and kind in TYPES:
                elements[-1].properties.append((name, TYPES[kind]))
            case ["comment" | "obj_info", *_]:
                pass
            case _:
                raise LoadError(f"{path}: its header has the line {' '.join(words)!r:.200}, which is not understood")
    raise LoadError(f"{path}: its header has no line 'end_header'")


def rows_of(file: BinaryIO, element: Element, order: str, path: Path) -> np.ndarray:
    """The table of an element without lists. Raises LoadError for a file that ends before it."""
    if order == "":
        lines = [file.readline().split() for _ in range(element.count)]
        width = len(element.properties)
        wrong = next((i for i, words in enumerate(lines) if len(words) != width), None)
        if wrong is not None:
            raise LoadError(f"{path}: point {wrong} has {len(lines[wrong])} numbers, expected {width}")
        table = np.empty(element.count, element.dtype("="))
        for column, (name, _) in enumerate(element.properties):
            table[name] = [float(words[column]) for words in lines]
        return table
    dtype = element.dtype(order)
    data = file.read(element.count * dtype.itemsize)
    if len(data) < element.count * dtype.itemsize:
        raise LoadError(f"{path} ends after {len(data) // dtype.itemsize} of {element.count} points: it is damaged")
    return np.frombuffer(data, dtype, element.count)


def skip(file: BinaryIO, element: Element, order: str) -> None:
    """Move behind an element that stands before the points."""
    if order == "":
        for _ in range(element.count):
            file.readline()
    elif not element.has_lists:
        file.seek(element.count * element.dtype(order).itemsize, 1)
    else:
        for _ in range(element.count):
            for _, kind in element.properties:
                if isinstance(kind, tuple):
                    size = np.dtype(order + kind[0])
                    count = int(np.frombuffer(file.read(size.itemsize), size, 1)[0])
                    file.seek(count * np.dtype(kind[1]).itemsize, 1)
                else:
                    file.seek(np.dtype(kind).itemsize, 1)
