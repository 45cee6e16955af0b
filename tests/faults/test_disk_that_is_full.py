"""A disk that is full or cannot be written ends in one line that names the path, and what was there stays."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import zoo
from zoo.utils.files import write_atomic


@contextmanager
def full_disk(size: int = 2048) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes, which the system reports as it does a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def model(seed: int = 0) -> zoo.Model:
    return zoo.create_model("bert_tiny", depth=1, width=32, heads=2, vocab_size=99, num_classes=2, seed=seed).eval()


@pytest.mark.parametrize("write", [zoo.save, zoo.export], ids=["save", "export"])
@pytest.mark.parametrize("exists", [True, False], ids=["over a folder", "a new folder"])
def test_a_model(write: Callable[[zoo.Model, Path], Path], exists: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if exists:
        write(model(), folder)
    before = {file.name: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with full_disk(), pytest.raises(OSError, match="nothing there was changed") as caught:
        write(model(1), folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {file.name: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    "content",
    ["x" * 9999, b"x" * 9999, lambda path: torch.save(torch.ones(9999), path)],
    ids=["text", "bytes", "torch"],
)
def test_a_file(content: str | bytes | Callable[[Path], object], tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    file.write_text("before")
    with full_disk(), pytest.raises(OSError, match="nothing there was changed") as caught:
        write_atomic(file, content)
    assert str(file) in str(caught.value)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["before"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_the_right_to_write(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OSError, match="Permission denied"):
        zoo.save(model(), tmp_path / "closed" / "model")
