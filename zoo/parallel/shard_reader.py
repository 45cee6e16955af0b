"""Reading the tensors of a checkpoint whose files each hold the part of one process."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo.utils.errors import LoadError
from zoo.utils.safetensors_file import DTYPES

OFFSETS = "DCP_SHARDING_INFO"  # the key of the metadata of a file under which DCP looks for the place of each tensor
SHAPES, COUNT = "shapes", "files"  # keys of the shapes of whole tensors, and of the number of files of the folder
_TYPES = {name: dtype for dtype, name in DTYPES.items()}


def file_name(number: int) -> str:
    """The name of a file of a folder, from 1, as of DCP's `HuggingFaceStorageWriter`."""
    return f"shard-{number:05}-model-00001-of-00001.safetensors"


class ShardReader:
    """The tensors of a folder that `zoo.parallel.checkpoint.ShardSaver` has written; no process group is needed.

    shapes: of the whole tensors, by name.
    Raises: LoadError for a damaged file, and for one that is missing.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._parts: dict[str, list[tuple[Path, tuple[slice, ...]]]] = {}
        self._types: dict[str, torch.dtype] = {}
        self._open: dict[Path, Any] = {}
        self._count = 0
        for file in sorted(folder.glob("*.safetensors")):
            try:
                self._index(file)
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                raise LoadError(f"{file} is truncated or not a part of a checkpoint: {error}") from None

        missing = [name for n in range(1, self._count + 1) if not (folder / (name := file_name(n))).exists()]
        if missing:
            raise LoadError(
                f"{folder} holds the parts of {self._count} processes, and {', '.join(missing)} is missing: copy all "
                "files of the folder"
            )

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def read(self, name: str, part: tuple[slice, ...] | None = None) -> Tensor:
        """A part of a tensor, or all of it. Raises LoadError for a tensor that the files do not have whole."""
        if name not in self.shapes:
            raise LoadError(f"{self.folder} has no tensor {name!r}")
        part = tuple(slice(0, size) for size in self.shapes[name]) if part is None else part
        result = torch.empty([place.stop - place.start for place in part], dtype=self._types[name])
        found = 0
        for file, place in self._parts[name]:
            both = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(part, place, strict=True)]
            if all(common.start < common.stop for common in both):
                own = tuple(slice(c.start - b.start, c.stop - b.start) for c, b in zip(both, place, strict=True))
                target = result[tuple(slice(c.start - a.start, c.stop - a.start) for c, a in zip(both, part))]
                found += target.copy_(self._open[file].get_tensor(name)[own]).numel()
        if found != result.numel():
            raise LoadError(f"{self.folder} has {found} of {result.numel()} values of {name!r}: a file is missing")
        return result

    def _index(self, file: Path) -> None:
        self._open[file] = opened = safe_open(file, framework="pt")
        metadata = opened.metadata() or {}
        places, shapes = json.loads(metadata[OFFSETS]), json.loads(metadata.get(SHAPES, "{}"))
        self._count = max(self._count, int(metadata.get(COUNT, 0)))
        for name in opened.keys():  # noqa: SIM118  (not a dict)
            described = opened.get_slice(name)
            shape, offsets = described.get_shape(), places[name]["saved_offsets"]
            place = tuple(slice(at, at + size) for at, size in zip(offsets, shape, strict=True))
            self._parts.setdefault(name, []).append((file, place))
            self._types[name] = _TYPES[described.get_dtype()]
            if name in shapes:
                self.shapes[name] = tuple(shapes[name])
            else:  # DCP's own writer: found by the places of all parts
                before = self.shapes.get(name, (0,) * len(shape))
                self.shapes[name] = tuple(max(size, p.stop) for size, p in zip(before, place, strict=True))
