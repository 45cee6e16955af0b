"""Files that are written tensor by tensor are those of the safetensors library, byte for byte."""

import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.utils.safetensors_file import DTYPES, Spec, file_order, index, split_files, write_tensors

TENSORS: dict[str, Tensor] = {
    "b": torch.randn(3, 5), "a": torch.randn(7).bfloat16(), "é": torch.tensor(2.0), "empty": torch.zeros(0, 4),
    **{f"x{n}": torch.arange(6).reshape(2, 3).to(dtype) for n, dtype in enumerate(DTYPES)},
}  # fmt: skip


def specs(tensors: dict[str, Tensor]) -> dict[str, Spec]:
    return {name: Spec(x.dtype, tuple(x.shape)) for name, x in tensors.items()}


@pytest.mark.parametrize("metadata", [{"format": "pt"}, {}])
def test_the_bytes_of_the_library(tmp_path: Path, metadata: dict[str, str]) -> None:
    save_file(TENSORS, tmp_path / "theirs", metadata or None)
    described = specs(TENSORS)
    given = ((name, TENSORS[name]) for name in file_order(described))
    size, checksum = write_tensors(tmp_path / "ours", described, given, metadata)
    written = (tmp_path / "ours").read_bytes()
    assert written == (tmp_path / "theirs").read_bytes()
    assert (size, checksum) == (len(written), zlib.crc32(written))


def test_tensors_that_are_not_as_described(tmp_path: Path) -> None:
    described = {"a": Spec(torch.float32, (2,)), "b": Spec(torch.float32, (2,))}
    for given, message in (
        ([("b", torch.zeros(2))], "expected the tensor 'a'"),
        ([("a", torch.zeros(3))], "got 'a' of \\[3\\]"),
        ([("a", torch.zeros(2))], "'b' was described and has no values"),
    ):
        with pytest.raises(ValueError, match=message):
            write_tensors(tmp_path / "file", described, given, {})
    with pytest.raises(ValueError, match="complex128, which safetensors files do not hold"):
        write_tensors(tmp_path / "file", {"z": Spec(torch.complex128, ())}, [], {})


def test_files_of_a_limited_size() -> None:
    described = {name: Spec(torch.float32, (n,)) for name, n in {"a": 2, "b": 1, "c": 9, "d": 1}.items()}
    assert split_files(described, 10**6) == {"model.safetensors": ["a", "b", "c", "d"]}
    files = split_files(described, 12)
    assert files == {
        "model-00001-of-00003.safetensors": ["a", "b"],
        "model-00002-of-00003.safetensors": ["c"],
        "model-00003-of-00003.safetensors": ["d"],
    }
    assert index(described, files)["metadata"] == {"total_size": 52}


def test_every_type_is_read_again(tmp_path: Path) -> None:
    described = specs(TENSORS)
    write_tensors(tmp_path / "x", described, ((n, TENSORS[n]) for n in file_order(described)), {"format": "pt"})
    assert {name: x.dtype for name, x in load_file(tmp_path / "x").items()} == {n: x.dtype for n, x in TENSORS.items()}
