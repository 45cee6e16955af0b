"""Folders that are written and read as one, and what killed processes leave behind."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kills import run_alone
from written_folders import prepared, put, text_of, texts, whole, write

from zoo.utils import atomic
from zoo.utils.atomic import MARKER, atomic_folder, read_folder, write_atomic
from zoo.utils.errors import LoadError


@pytest.mark.parametrize("existing", [False, True])
def test_everything_is_on_disk_before_it_takes_its_place(
    existing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    if existing:
        prepared(folder)
    synced: list[int] = []
    before: list[set[int]] = []
    fsync, exchange, replace = os.fsync, atomic._exchange, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino) or fsync(descriptor))

    def placing(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: before.append(set(synced)) or call(*args)

    monkeypatch.setattr(atomic, "_exchange", placing(exchange))
    monkeypatch.setattr(os, "replace", placing(replace))
    write(folder, "after")
    written = {(folder / name).stat().st_ino for name in ("a", "b", "deep", "deep/c", ".")}
    assert len(before) == 1 and written <= before[0], "a file took its place before it was on disk"
    assert synced[-1] == tmp_path.stat().st_ino, "the folder above, which names the new one, was not synced last"


def test_a_file_is_on_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: events.append(os.fstat(fd).st_ino) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda *args: events.append("replace") or replace(*args))
    write_atomic(tmp_path / "file", "text")
    assert events == [(tmp_path / "file").stat().st_ino, "replace", tmp_path.stat().st_ino]


def test_what_killed_processes_leave() -> None:
    run_alone(Path(__file__).with_name("kills_of_writers.py"))


# --- What killed processes leave ------------------------------------------------------------------------------------


def test_temporary_files_of_running_processes_stay(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model") as first:
        (first / "a").write_text("first")
        write(tmp_path / "model", "second")
        assert first.is_dir(), "the temporary folder of a writer at work was removed"
    assert (tmp_path / "model" / "a").read_text() == "first" and os.listdir(tmp_path) == ["model"]


def test_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    code = "import os, sys; from zoo.utils.atomic import *; {}"
    folder = (
        f"with atomic_folder({str(tmp_path / 'model')!r}) as f:\n (f / 'a').write_text('a'); os.kill(os.getpid(), 9)"
    )
    file = f"write_atomic({str(tmp_path / 'file')!r}, lambda part: os.kill(os.getpid(), 9))"
    for work in ("\n" + folder, file):
        assert subprocess.run([sys.executable, "-c", code.format(work)]).returncode == -9
    (tmp_path / ".model.mine.part").mkdir()  # not a name that we give
    (tmp_path / ".other.abcdefgh.part").mkdir()  # of another model
    assert len(os.listdir(tmp_path)) == 4
    write(tmp_path / "model", "new")
    write_atomic(tmp_path / "file", "new")
    assert sorted(os.listdir(tmp_path)) == [".model.mine.part", ".other.abcdefgh.part", "file", "model"]


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its writer still runs cannot be known there."""

    def refused(*_: Any) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    (tmp_path / ".model.abcdefgh.part").mkdir()
    write(tmp_path / "model", "new")
    assert sorted(os.listdir(tmp_path)) == [".model.abcdefgh.part", "model"]


# --- Folders of all kinds -------------------------------------------------------------------------------------------


def test_a_link_to_a_folder_remains_a_link(tmp_path: Path) -> None:
    prepared(tmp_path / "v1")
    (tmp_path / "latest").symlink_to("v1")
    write(tmp_path / "latest", "after")
    assert (tmp_path / "latest").is_symlink() and texts(tmp_path / "v1") == whole("after") | {"notes.txt": "before"}


def test_other_files_links_and_the_mode_of_the_folder_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    prepared(folder)
    (folder / "deep" / "mine").write_text("mine")
    (folder / "link").symlink_to("notes.txt")
    (folder / "empty").mkdir()
    folder.chmod(0o750)
    number = (folder / "notes.txt").stat().st_ino
    write(folder, "after")
    assert texts(folder) == whole("after") | {"deep/mine": "mine", "notes.txt": "before", "link": "before"}
    assert (folder / "link").is_symlink() and (folder / "empty").is_dir()
    assert (folder / "notes.txt").stat().st_ino == number and stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_files_that_a_writer_made_private_can_be_read_by_others(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "model") as staged:
            (staged / "part").mkdir(mode=0o700)
            for name, mode in (("weights", 0o600), ("part/script", 0o700)):
                os.close(os.open(staged / name, os.O_CREAT, mode))
    finally:
        os.umask(mask)
    found = {
        name: stat.S_IMODE((tmp_path / "model" / name).stat().st_mode) for name in ("weights", "part", "part/script")
    }
    assert found == {"weights": 0o640, "part": 0o750, "part/script": 0o740}


def test_a_file_that_arrives_during_the_exchange_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, exchange = tmp_path / "model", atomic._exchange
    prepared(folder)
    monkeypatch.setattr(atomic, "_exchange", lambda *args: (folder / "late").write_text("late") and exchange(*args))
    write(folder, "after")
    assert texts(folder) == whole("after") | {"notes.txt": "before", "late": "late"}


def test_the_current_folder_remains_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    write(Path("."), "after")
    assert os.path.samefile(".", tmp_path / "model") and texts(Path(".")) == whole("after") | {"notes.txt": "before"}


def test_a_folder_whose_parent_is_not_ours_is_written_from_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount point, or a folder in another user's: nothing can be put beside it."""
    prepared(tmp_path / "model")
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "model")
    made = []
    monkeypatch.setattr(atomic.tempfile, "mkdtemp", _recorded(atomic.tempfile.mkdtemp, made))
    write(tmp_path / "model", "after")
    assert texts(tmp_path / "model") == whole("after") | {"notes.txt": "before"}
    assert [Path(path).parent for path in made] == [tmp_path / "model"]


def test_a_folder_that_is_mounted_from_the_same_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bind mount: it does not look like a mount point, but nothing can be renamed or linked into it."""
    folder, replace = tmp_path / "model", os.replace
    prepared(folder)

    def across(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(source: Any, target: Any, **options: Any) -> Any:
            if Path(source).is_relative_to(folder) != Path(target).is_relative_to(folder):
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            return call(source, target, **options)

        return called

    monkeypatch.setattr(os, "replace", across(replace))
    monkeypatch.setattr(os, "link", across(os.link))
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    write(folder, "after")
    assert texts(folder) == whole("after") | {"notes.txt": "before"} and os.listdir(tmp_path) == ["model"]
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file system")))
    with pytest.raises(OSError, match="Read-only"):
        write(folder, "later")
    assert texts(folder) == whole("after") | {"notes.txt": "before"}


def _recorded(call: Callable[..., str], made: list[str]) -> Callable[..., str]:
    def recorded(**options: Any) -> str:
        made.append(call(**options))
        return made[-1]

    return recorded


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(ValueError, match="model is a file: expected the path of a folder"):
        write(tmp_path / "model", "after")
    assert (tmp_path / "model").read_text() == "mine"


# --- Reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exchanged", [True, False])
def test_a_reader_beside_a_writer_sees_one_version(
    exchanged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    if not exchanged:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    write(folder, "0")
    if (writer := os.fork()) == 0:
        for number in range(1, 40):
            write(folder, str(number))
        os._exit(0)
    seen = []
    while not os.waitpid(writer, os.WNOHANG)[0]:

        def read() -> set[str]:
            found = set()
            for name in ("a", "b", "deep/c"):
                found.add((folder / name).read_text())
                time.sleep(0.0005)
            return found

        seen.append(read_folder(folder, read))
    assert seen and all(len(found) == 1 for found in seen)


def test_an_error_of_a_folder_at_rest_is_raised_at_once(tmp_path: Path) -> None:
    calls = []

    def read() -> None:
        calls.append(1)
        raise LoadError("damaged")

    with pytest.raises(LoadError, match="damaged"):
        read_folder(tmp_path, read)
    with pytest.raises(LoadError, match="damaged"):
        read_folder(tmp_path / "nowhere", read)
    assert len(calls) == 2


def test_a_folder_that_does_not_come_to_rest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "PAUSE", 0)
    number = iter(range(100))
    with pytest.raises(LoadError, match="written again during each of 20 attempts"):
        read_folder(tmp_path, lambda: (tmp_path / str(next(number))).touch())
    (tmp_path / MARKER).touch()
    with pytest.raises(LoadError, match="may hold files of two models"):
        read_folder(tmp_path, lambda: None)


def test_a_copy_shares_the_files_of_a_folder(tmp_path: Path) -> None:
    for number, kinds in enumerate(("file file", "file folder", "folder file", "folder folder")):
        source, before = kinds.split()
        place = tmp_path / str(number)
        place.mkdir()
        put(place / "last", "new", source)
        put(place / "best", "old", before)
        atomic.copy_whole(place / "last", place / "best")
        assert text_of(place / "best") == text_of(place / "last") == "new"
        assert sorted(entry.name for entry in place.iterdir()) == ["best", "last"]
        if source == "folder":
            assert (place / "best" / "part").samefile(place / "last" / "part")
