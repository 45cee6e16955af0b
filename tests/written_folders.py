"""Folders of a few files, written as one, as the tests of zoo/utils/atomic.py read them."""

from pathlib import Path

from zoo.utils.atomic import atomic_folder

OWNS = ("a", "b", "old")


def write(folder: Path, text: str) -> None:
    with atomic_folder(folder, OWNS) as staged:
        for name in ("a", "b", "deep/c"):
            (staged / name).parent.mkdir(exist_ok=True)
            (staged / name).write_text(text)


def texts(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): file.read_text() for file in sorted(folder.rglob("*")) if file.is_file()
    }


def whole(text: str) -> dict[str, str]:
    return dict.fromkeys(("a", "b", "deep/c"), text)


def prepared(folder: Path) -> None:
    folder.mkdir()
    for name in ("old", "notes.txt"):
        (folder / name).write_text("before")
    write(folder, "before")
    assert texts(folder) == whole("before") | {"notes.txt": "before"}


def put(path: Path, text: str, kind: str) -> Path:
    if kind == "file":
        path.write_text(text)
    else:
        path.mkdir()
        (path / "part").write_text(text)
    return path


def text_of(path: Path) -> str:
    return (path / "part" if path.is_dir() else path).read_text()
