"""The cache of decoded images: it notices every change, and a file that is damaged or cannot be written is no error."""

import errno
import multiprocessing
import os
import shutil
from importlib import metadata
from pathlib import Path

import PIL
import pytest
import safetensors.torch
import torch

from zoo.data.image import decoded_cache
from zoo.data.image.decoded_cache import cache_file, read_decoded, write_decoded
from zoo.preprocessing.image import ImageProcessor
from zoo.utils import cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def images(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def name(*sources: bytes | Path, settings: object = "") -> Path:
    found = cache_file(sources, settings)
    assert found is not None
    return found


def test_the_name_changes_with_every_byte_and_setting(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    os.utime(file, ns=(1, 1))
    before = name(file)
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))  # of the same size and the same time of modification
    sizes = [ImageProcessor(size=(size, size)).pixels for size in (32, 48)]
    names = [name(b"ab", b"c"), name(b"a", b"bc"), name(b"c", b"ab"), name(b"ab", b"c", settings=1), before, name(file),
             *(name(b"ab", b"c", settings=resize) for resize in sizes)]  # fmt: skip
    assert len(set(names)) == len(names) and name(b"ab", b"c") == names[0] and name(file) == names[5]
    assert name(b"ab", b"c", settings=ImageProcessor(size=(32, 32)).pixels) == names[6]


def test_the_name_changes_with_the_libraries_that_decode_and_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name(b"a")]
    for library in (PIL, torch):
        monkeypatch.setattr(library, "__version__", "0.0.0")
        names.append(name(b"a"))
    assert len(set(names)) == 3


def test_a_replacement_of_pillow_has_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def version_of(distribution: str) -> str:
        if distribution == "pillow":  # as of pillow-simd
            raise metadata.PackageNotFoundError(distribution)
        return "1"

    monkeypatch.setattr(decoded_cache, "version", version_of)
    assert name(b"a")


def test_what_cannot_be_identified_is_not_cached(tmp_path: Path) -> None:
    assert cache_file([b"a"], lambda image: image) is None
    assert cache_file([tmp_path / "absent.png"], "") is None


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_file([b"ab"], "") is None


def test_images_come_back_and_a_flipped_bit_is_noticed() -> None:
    file = name(b"a")
    assert read_decoded(file, (5, 3, 4, 6)) is None
    assert write_decoded(file, images())
    found = read_decoded(file, (5, 3, 4, 6))
    assert found is not None and torch.equal(found, images())
    assert read_decoded(file, (5, 3, 6, 4)) is None
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    for damaged in (bytes(content), bytes(content[:-7]), b""):
        file.write_bytes(damaged)
        assert read_decoded(file, (5, 3, 4, 6)) is None


def test_the_least_recently_used_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [name(bytes([i])) for i in range(4)]
    for i, file in enumerate(files[:3]):
        write_decoded(file, images(i))
        os.utime(file, (i + 1, i + 1))
    assert read_decoded(files[0], (5, 3, 4, 6)) is not None  # used now
    monkeypatch.setattr(decoded_cache, "LIMIT", 3 * files[0].stat().st_size)
    write_decoded(files[3], images(3))
    assert [file.exists() for file in files] == [True, False, True, True]


@pytest.mark.parametrize("problem", ["limit", "full", "unwritable"])
def test_without_room_there_is_a_warning_and_no_file(problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = name(b"a")
    expected = {"limit": "more than the limit", "full": "left", "unwritable": "could not be cached"}
    if problem == "limit":
        monkeypatch.setattr(decoded_cache, "LIMIT", 10)
    elif problem == "full":
        usage = shutil.disk_usage("/")
        monkeypatch.setattr(cache.shutil, "disk_usage", lambda place: usage._replace(free=1000))
    else:
        file.parent.parent.parent.mkdir(parents=True)
        file.parent.parent.write_text("a file where a folder should be")
    with pytest.warns(UserWarning, match=expected[problem]):
        assert not write_decoded(file, images())
    assert not file.exists()


def test_processes_that_write_at_once_leave_one_whole_file() -> None:
    """As two runs that start together: each finds no file, and decodes and writes the same images."""
    file, context = name(b"a"), multiprocessing.get_context("fork")
    start = context.Barrier(4)

    def write() -> None:
        for _ in range(20):
            start.wait(20)
            ok = write_decoded(file, images())
            found = read_decoded(file, (5, 3, 4, 6))  # while others replace the file
            if not ok or found is None or not torch.equal(found, images()):
                os._exit(1)
        os._exit(0)

    processes = [context.Process(target=write) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_disk_that_fills_while_it_is_written_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    file = name(b"a")

    def fill(tensors: dict[str, torch.Tensor], path: str, metadata: dict[str, str]) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(safetensors.torch, "save_file", fill)
    with pytest.warns(UserWarning, match=r"could not be cached .*No space left on device.*decodes them again"):
        assert not write_decoded(file, images())
    assert not file.exists() and [*file.parent.iterdir()] == [] and read_decoded(file, (5, 3, 4, 6)) is None
