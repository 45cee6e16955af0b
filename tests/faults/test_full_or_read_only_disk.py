"""A full or read-only disk under the run folder is one line with the path, and the last checkpoint remains whole."""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import assert_same, checkpoint, in_child, status, tiny_run

from zoo.training import run_dir
from zoo.training.checkpoint_files import AtomicCheckpointIO, damage
from zoo.training.run_dir import DiskError

EIGHT = ("steps=8", "checkpoint_every=2")


def one_line(train: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a recipe that ends with status 2."""
    assert status(train) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


def fails(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


def test_torch_hides_the_reason_and_a_checkpoint_does_not(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(OSError, match="No space left"):
        from zoo.training import checkpoint_files

        patched = pytest.MonkeyPatch()
        patched.setattr(checkpoint_files, "write_atomic", lambda path, write: write(Path("/dev/full")))
        try:
            AtomicCheckpointIO().save_checkpoint({"a": torch.zeros(100000)}, tmp_path / "x.ckpt")
        finally:
            patched.undo()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_the_disk_fills_while_a_checkpoint_is_written(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save, calls = torch.save, []

    def full(value: Any, file: Any, *args: Any) -> None:
        calls.append(file)
        if len(calls) == 2:
            file.write(b"half")
            raise OSError(number, os.strerror(number))
        save(value, file, *args)

    monkeypatch.setattr(torch, "save", full)
    line = one_line(lambda: tiny_run(tmp_path / "run", *EIGHT), capsys)
    monkeypatch.undo()
    assert str(tmp_path / "run") in line and os.strerror(number) in line
    assert "free some space" in line if number != errno.EROFS else "run_dir=" in line
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert checkpoint(tmp_path / "run", "last.ckpt")["global_step"] == 2 and not damage(last)
    tiny_run(tmp_path / "run", *EIGHT)
    tiny_run(tmp_path / "whole", *EIGHT)
    assert_same(tmp_path / "whole", tmp_path / "run")


def test_the_disk_fills_while_the_best_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(source: Path, target: Path) -> None:
        raise fails(errno.ENOSPC, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    assert "checkpoints" in one_line(lambda: tiny_run(tmp_path / "run", *EIGHT), capsys)
    assert checkpoint(tmp_path / "run", "last.ckpt")["global_step"] == 2


@pytest.mark.parametrize("name", ["config.yaml", "data.sha256", "metrics.json"])
def test_the_disk_is_full_when_a_small_file_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = run_dir.write_atomic

    def full(path: Path, content: Any) -> None:
        if path.name == name:
            raise fails(errno.ENOSPC, path)
        write(path, content)

    monkeypatch.setattr(run_dir, "write_atomic", full)
    line = one_line(lambda: tiny_run(tmp_path / "run", "steps=2"), capsys)
    assert f"run/{name} cannot be written: No space left on device" in line


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_on_a_read_only_disk(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise fails(number, self)

    monkeypatch.setattr(Path, "mkdir", refuse)
    line = one_line(lambda: tiny_run(tmp_path / "run", "steps=2"), capsys)
    assert f"{tmp_path / 'run'}" in line and os.strerror(number) in line and "run_dir=" in line


def test_other_errors_keep_their_type(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), run_dir.named_disk_errors(tmp_path):
        (tmp_path / "missing").read_bytes()
    with pytest.raises(PermissionError), run_dir.named_disk_errors(tmp_path):
        raise fails(errno.EACCES, Path("/elsewhere/data.csv"))
    with pytest.raises(DiskError, match="elsewhere"), run_dir.named_disk_errors(tmp_path):
        raise fails(errno.ENOSPC, Path("/elsewhere/cache"))


NEW_USER, NEW_MOUNTS = 0x10000000, 0x20000  # CLONE_NEWUSER and CLONE_NEWNS of unshare(2)
NOT_ALLOWED = 3


def run_on_small_disk(folder: Path, errors: Path) -> None:
    """For a forked process: mounts a disk of 300 kB at a folder, as `unshare -rm` lets users, and runs there."""
    user, group, libc = os.getuid(), os.getgid(), ctypes.CDLL(None)
    if libc.unshare(NEW_USER | NEW_MOUNTS):
        os._exit(NOT_ALLOWED)
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path("/proc/self", name).write_text(text)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", folder], check=True)
    except (OSError, subprocess.CalledProcessError):
        os._exit(NOT_ALLOWED)
    with errors.open("w") as sys.stderr:
        code = status(lambda: tiny_run(folder / "run", "steps=40", "checkpoint_every=2", "log_every=1"))
    os._exit(code)


def test_a_real_disk_of_300_kb(tmp_path: Path) -> None:
    """On a file system of its own, where the user may mount one."""
    (tmp_path / "disk").mkdir()
    code = in_child(run_on_small_disk, tmp_path / "disk", tmp_path / "errors.txt")
    if code == NOT_ALLOWED:
        pytest.skip("needs a user namespace that can mount a file system")
    lines = (tmp_path / "errors.txt").read_text().splitlines()
    assert code == 2, lines
    assert lines[-1].startswith("error: ") and "No space left on device" in lines[-1]
    assert not any("Traceback" in line for line in lines)
