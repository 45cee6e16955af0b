"""Atomic writing of files and folders, and reading a folder of several files in one version.

After a kill or on a full disk there is the old content or the new one, never a part of either.
"""

import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from zoo.utils.errors import LoadError

T = TypeVar("T")
MARKER = ".being-replaced"  # in a folder whose files are replaced one by one, until all of them are
# The system's call that exchanges two paths in one step: (name, descriptor of the current folder, flag).
EXCHANGE = {"linux": ("renameat2", -100, 2), "darwin": ("renameatx_np", -2, 2)}
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
TORCH_WRITER = re.compile("PytorchStreamWriter|inline_container|iostream")  # in its errors when a file cannot grow
ASIDE = ".old"  # after the name of a folder that is being replaced
READS, PAUSE = 20, 0.05  # attempts to read a folder that is being written, and the seconds between two of them


# --- Files ----------------------------------------------------------------------------------------------------------


def write_atomic(path: str | Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Write a file atomically: after a crash or on a full disk there is the old file or the new one, never a part.

    content: text, bytes, or a function that writes to the path it gets. What a killed writer of the same file left is
    removed.
    """
    path = Path(path)
    with _errors_of_the_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    inside = callable(content)  # safetensors replaces the file of the path that it gets, and the lock would go with it
    with _errors_of_the_disk(path), _temporary(path.parent, path.name, is_folder=inside) as staged:
        temporary = staged / path.name if inside else staged
        _write(temporary, content)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would make a shared folder unreadable to others
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)


def _write(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)


@contextmanager
def _errors_of_the_disk(path: Path) -> Iterator[None]:
    """Context in which a disk that is full or cannot be written is one OSError that names `path`.

    safetensors and torch have errors of their own for it, and that of Python does not say what was written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        number = re.search(r"os error (\d+)", str(error)) if isinstance(error, SafetensorError) else None
        code = int(number[1]) if number else getattr(error, "errno", None)
        if isinstance(error, RuntimeError) and TORCH_WRITER.search(str(error)):
            raise OSError(
                errno.EIO, "cannot be written, the disk may be full; nothing there was changed", str(path)
            ) from None
        if code not in UNWRITABLE:
            raise
        raise OSError(code, f"{os.strerror(code)}; nothing there was changed", str(path)) from None


# --- A file or a folder -----------------------------------------------------------------------------------------------


def replace_whole(new: Path, path: Path) -> None:
    """Put a file or folder, which is on disk, in the place of another one, in one step where the system can do so.

    Elsewhere a folder is moved aside first: `find_whole` finds it if that is interrupted.
    """
    aside = path.with_name(path.name + ASIDE)
    if not path.is_dir() and (new.is_file() or not path.exists()):
        os.replace(new, path)
    elif _exchange(new, path):
        remove(new)
    else:
        remove(aside)
        os.replace(path, aside)
        os.replace(new, path)
    sync(path.parent)
    remove(aside)


def find_whole(path: Path) -> Path | None:
    """A file or folder, or where an interrupted `replace_whole` has moved it; None without one."""
    return next((found for found in (path, path.with_name(path.name + ASIDE)) if found.exists()), None)


def copy_whole(source: Path, path: Path) -> None:
    """Copy a file or a folder of files that are never changed, atomically; files of a folder are linked if possible."""
    if source.is_file() and not path.is_dir():
        write_atomic(path, lambda part: shutil.copyfile(source, part))
        return
    with _temporary(path.parent, path.name, is_folder=True) as staged:
        if source.is_file():
            shutil.copyfile(source, staged / path.name)
        else:
            shutil.copytree(source, staged / path.name, copy_function=_link)
        _sync_all(staged)
        replace_whole(staged / path.name, path)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


# --- Folders --------------------------------------------------------------------------------------------------------


@contextmanager
def atomic_folder(path: str | Path, owns: tuple[str, ...] = ()) -> Iterator[Path]:
    """Context with a temporary folder that replaces `path` in one step once all its files are safely on disk.

    An exception leaves `path` unchanged. Other files in an existing `path` are kept, except those that match a pattern
    of `owns` (files of an earlier save) and were not written again. What a killed writer of `path` left is removed.

    Where a folder cannot be exchanged (a mount point, the current folder, a file system without such a call), its files
    are replaced one by one, and `read_folder` refuses the folder until all of them are.

        with atomic_folder("my-model", owns=("*.safetensors", "config.json")) as folder:
            (folder / "config.json").write_text("{}")
    """
    path = Path(os.path.realpath(path))  # a link to a folder remains a link
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: expected the path of a folder")
    with _errors_of_the_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    inside = path.is_dir() and (os.path.ismount(path) or not os.access(path.parent, os.W_OK))
    for place in (path.parent, path):
        remove_leftovers(place, path.name)
    place = path if inside else path.parent
    with _errors_of_the_disk(path), _temporary(place, path.name, is_folder=True) as staged:
        yield staged
        os.chmod(staged, 0o777 & ~_umask())
        _make_readable(staged)
        _sync_all(staged)
        if not path.exists():
            os.replace(staged, path)
        elif inside or _is_current(path) or not _exchange_folders(staged, path, owns):
            _move_in(staged, path, owns)
        sync(path.parent)


def _is_current(path: Path) -> bool:
    """Whether the current folder is `path` or below it: a shell there would be left in a folder that is gone."""
    with suppress(FileNotFoundError):
        return Path.cwd().is_relative_to(path)
    return False


def _exchange_folders(staged: Path, path: Path, owns: tuple[str, ...]) -> bool:
    """Exchange the two folders, and carry over the other files of `path`. False, with `path` unchanged, if impossible.

    The other files are linked into the staged folder first, so that they are never missing.
    """
    written = {entry.relative_to(staged) for entry in staged.rglob("*") if entry.is_file()}

    def replaced(parent: str, names: list[str]) -> list[str]:
        relative = Path(parent).relative_to(path)
        return [name for name in names if relative / name in written or _is_owned(relative / name, owns)]

    try:
        shutil.copytree(path, staged, symlinks=True, ignore=replaced, copy_function=os.link, dirs_exist_ok=True)
        os.utime(staged)  # copytree copied the time, by which readers notice another version
    except (OSError, shutil.Error):
        return False
    if not _exchange(staged, path):
        return False
    for entry in staged.rglob("*"):  # `staged` is the old folder now: files that arrived in the meantime
        new = path / entry.relative_to(staged)
        if entry.is_file() and not _is_owned(entry.relative_to(staged), owns) and not os.path.lexists(new):
            new.parent.mkdir(parents=True, exist_ok=True)
            os.replace(entry, new)
    return True


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system has no such call."""
    name, current, flag = EXCHANGE.get(sys.platform, ("", 0, 0))
    call = getattr(ctypes.CDLL(None), name, None) if name else None
    return call is not None and call(current, os.fsencode(first), current, os.fsencode(second), flag) == 0


def _move_in(staged: Path, path: Path, owns: tuple[str, ...]) -> None:
    """Replace the files of `path` one by one; the marker remains if that is interrupted."""
    written = {entry.relative_to(staged) for entry in staged.rglob("*") if entry.is_file()}
    marker = path / MARKER
    (staged / MARKER).touch()
    try:
        os.replace(staged / MARKER, marker)
    except OSError as error:
        if error.errno != errno.EXDEV or staged.parent == path:
            raise
        (staged / MARKER).unlink()  # `path` is mounted from elsewhere on the same disk: nothing can be moved into it
        with _temporary(path, path.name, is_folder=True) as inside:
            shutil.copytree(staged, inside, dirs_exist_ok=True)
            _sync_all(inside)
            _move_in(inside, path, owns)
        return
    sync(path)
    for name in written:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged / name, path / name)
    for name in [old.relative_to(path) for old in path.rglob("*") if old != marker and old.is_file()]:
        if name not in written and _is_owned(name, owns):
            (path / name).unlink()
    sync(path)
    marker.unlink()


def _is_owned(name: Path, owns: tuple[str, ...]) -> bool:
    """Whether a file, by its name relative to the folder, is one of an earlier save."""
    text = name.as_posix()
    owned = any(fnmatch(text, glob) and text.count("/") == glob.count("/") for glob in owns)
    return owned or text == MARKER


def read_folder(folder: Path, read: Callable[[], T]) -> T:
    """The result of `read`, which opens several files of a folder, all of them of one version.

    It is called again if the folder was written meanwhile. Raises LoadError if the folder does not come to rest, or if
    its writer was killed while it replaced the files one by one.
    """
    for attempt in range(READS):
        if attempt:
            time.sleep(PAUSE)
        before = _version(folder)
        if before is None and (folder / MARKER).exists():
            continue
        try:
            result = read()
        except (LoadError, OSError):
            if before == _version(folder):
                raise
            continue
        if before == _version(folder):
            return result
    if (folder / MARKER).exists():
        raise LoadError(
            f"{folder} may hold files of two models: they are being replaced one by one ({MARKER}), or the process "
            f"that did so was killed. Wait for it, or save the model again"
        )
    raise LoadError(f"{folder} was written again during each of {READS} attempts to read it: load it when that is done")


def _version(folder: Path) -> tuple[int, int] | None:
    """What differs once a folder has been exchanged or a file in it replaced; None while files are being replaced."""
    try:
        stat = folder.stat()
    except OSError:
        return None
    return None if (folder / MARKER).exists() else (stat.st_ino, stat.st_mtime_ns)


# --- Temporary files and folders ------------------------------------------------------------------------------------


@contextmanager
def _temporary(place: Path, name: str, *, is_folder: bool) -> Iterator[Path]:
    """A new temporary file or folder for `name`, locked while this process uses it; what is left of it is removed."""
    temporary, descriptor = _create(place, name, is_folder)
    try:
        yield temporary
    finally:
        remove(temporary)
        if descriptor is not None:
            os.close(descriptor)


def _create(place: Path, name: str, is_folder: bool) -> tuple[Path, int | None]:
    while True:
        if is_folder:
            temporary = Path(tempfile.mkdtemp(dir=place, prefix=f".{name}.", suffix=".part"))
        else:
            handle, made = tempfile.mkstemp(dir=place, prefix=f".{name}.", suffix=".part")
            os.close(handle)
            temporary = Path(made)
        descriptor = _locked(temporary, wait=True)
        if temporary.exists():  # else another process took it for a leftover before it was locked
            return temporary, descriptor
        if descriptor is not None:
            os.close(descriptor)


def remove_leftovers(place: Path, name: str = "") -> None:
    """Remove the temporary files and folders of killed processes in a folder; those of running processes are locked.

    name: of what they would have become; empty for any.
    """
    pattern = re.compile(rf"\.{re.escape(name) if name else '.+'}\.[a-z0-9_]{{8}}\.part")
    with suppress(OSError):  # no such folder, or not readable: nothing of ours is removed
        for found in [entry.name for entry in os.scandir(place) if pattern.fullmatch(entry.name)]:
            if (descriptor := _locked(place / found, wait=False)) is not None:
                remove(place / found)
                os.close(descriptor)


def _locked(path: Path, *, wait: bool) -> int | None:
    """A descriptor with the lock of a file or folder; None if another process has it, or if there are no locks."""
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return descriptor
    except OSError:
        os.close(descriptor)
        return None


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some network file systems cannot sync folders; a file that cannot be synced is an error
            raise
    finally:
        os.close(descriptor)


def _sync_all(folder: Path) -> None:
    for entry in (*folder.rglob("*"), folder):
        sync(entry)


def _make_readable(folder: Path) -> None:
    """Give files the permissions of new ones: safetensors and onnx write some that their owner alone can read."""
    mask = _umask()
    for entry in (entry for entry in folder.rglob("*") if not entry.is_symlink()):
        new = (0o777 if entry.is_dir() else 0o666) & ~mask
        os.chmod(entry, entry.stat().st_mode & 0o7777 | new)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
