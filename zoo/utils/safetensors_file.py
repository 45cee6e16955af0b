"""Write a safetensors file tensor by tensor, so that only one of them need be in memory.

`safetensors.torch.save_file` takes all tensors at once. The bytes of the file are the same.
Format: https://huggingface.co/docs/safetensors/index#format
"""

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

# In the order of the library: it sorts tensors by type, the last one first, then by name.
DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}
_ORDER = {dtype: place for place, dtype in enumerate(DTYPES)}


@dataclass(frozen=True)
class Spec:
    """Type and shape of a tensor in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def file_order(specs: Mapping[str, Spec]) -> list[str]:
    """The names in the order in which the tensors are in a file."""
    return sorted(specs, key=lambda name: (-_ORDER[specs[name].dtype], name.encode()))


def header(specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> bytes:
    """The first bytes of a file. Raises ValueError for a type of tensors that such files do not have."""
    if odd := next((name for name, spec in specs.items() if spec.dtype not in DTYPES), None):
        raise ValueError(f"the tensor {odd!r} is {specs[odd].dtype}, which safetensors files do not hold")
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in file_order(specs):
        spec = specs[name]
        begin, end = end, end + spec.nbytes
        entries[name] = {"dtype": DTYPES[spec.dtype], "shape": list(spec.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_tensors(
    file: Path, specs: Mapping[str, Spec], tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str]
) -> tuple[int, int]:
    """Write a file; returns its size in bytes and its CRC-32.

    tensors: (name, values) in `file_order(specs)`, on any device. Raises ValueError for another order, type or shape.
    """
    start = header(specs, metadata)
    with open(file, "wb") as stream:
        checksum = _write(stream, start, 0)
        names = iter(file_order(specs))
        for name, tensor in tensors:
            expected = next(names, None)
            if name != expected or (tensor.dtype, tuple(tensor.shape)) != (specs[name].dtype, specs[name].shape):
                raise ValueError(f"expected the tensor {expected!r} as described, got {name!r} of {list(tensor.shape)}")
            checksum = _write(stream, _bytes(tensor), checksum)
        if (missing := next(names, None)) is not None:
            raise ValueError(f"the tensor {missing!r} was described and has no values")
        return len(start) + sum(spec.nbytes for spec in specs.values()), checksum


def split_files(specs: Mapping[str, Spec], limit: int) -> dict[str, list[str]]:
    """{name of a file: names of its tensors}, each file of at most `limit` bytes, or of one larger tensor.

    One file is `model.safetensors`; several are `model-00001-of-00003.safetensors` and so on, filled in the order of
    `specs`, as in folders of transformers.
    """
    groups: list[list[str]] = [[]]
    size = 0
    for name, spec in specs.items():
        if groups[-1] and size + spec.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += spec.nbytes
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{n:05}-of-{len(groups):05}.safetensors": group for n, group in enumerate(groups, 1)}


def index(specs: Mapping[str, Spec], files: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """The contents of `model.safetensors.index.json`."""
    weight_map = {name: file for file, names in files.items() for name in names}
    size = sum(spec.nbytes for spec in specs.values())
    return {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}


def _bytes(tensor: Tensor) -> memoryview:
    values: Any = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(values.view(torch.uint8).numpy()) if values.numel() else memoryview(b"")


def _write(stream: BinaryIO, data: bytes | memoryview, checksum: int) -> int:
    stream.write(data)
    return zlib.crc32(data, checksum)
