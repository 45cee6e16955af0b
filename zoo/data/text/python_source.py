"""Python source files as text for language modeling: those of the standard library that runs this process.

The files are read and never imported or executed. Tests and generated files are left out: they are long, repetitive
and say little about how people write code.
"""

import hashlib
import platform
import re
import sysconfig
import tokenize
from collections.abc import Sequence
from pathlib import Path

from zoo.data.splits import Splits
from zoo.data.text.corpus import Corpus
from zoo.utils.console import announce
from zoo.utils.errors import DataError
from zoo.utils.folders import describe_files

# Installed packages, tests, build configuration and text that is stored as Python.
_OTHER_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "pydoc_data",
                  "_bundled"}  # fmt: skip
_OTHER_FILES = re.compile(r"test_.*|.*_test|conftest|_sysconfigdata.*|__phello__.*")
_GENERATED = re.compile(
    r"auto-?generated|(?:is|was|file|codec \S+) generated (?:by|from|with)|do not edit", re.IGNORECASE
)
_ENTRY = re.compile(r"""\s+[('"\[{\\\d]|\s*[\])}]""")  # a line of a table: a literal, or a closing bracket
_LARGEST_TABLE = 0.6  # of the lines that are not blank


def python_files(folder: str | Path | None = None) -> list[Path]:
    """Python files below a folder, without tests, installed packages and build configuration, sorted by their paths.

    Args:
        folder: Default: the standard library of this Python, as `sysconfig` says.

    Raises: DataError if the folder does not exist or has no such file, e.g. a standard library inside an archive.
    """
    root = _root(folder)
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of Python files")
    files = [file for file in root.rglob("*.py") if file.is_file() and _is_source(file.relative_to(root))]
    if not files:
        raise DataError(f"{root} has no Python file (.py) that is not a test or an installed package")
    return sorted(files, key=lambda file: file.relative_to(root).as_posix())


def load_python_source(folder: str | Path | None = None, *, val_fraction: float = 0.1) -> Splits[Corpus]:
    """Python source, split by file: each file is a text, and belongs as a whole to training or to validation and test.

    A file is held out by the hash of its path below the folder, so that the same files are held out on every machine,
    also in another version of Python. Files that are generated, by what they say or because they are tables, are left
    out, and so are blank files.

    Args:
        folder: Default: the standard library of this Python.
        val_fraction: Fraction of the files to hold out for validation and test, above 0 and below 1; at least one.

    Raises: DataError for another fraction, a folder without Python files, or a single file.
    """
    if not 0 < val_fraction < 1:
        raise DataError(f"val_fraction={val_fraction}: expected a fraction of the files above 0 and below 1, e.g. 0.1")
    root = _root(folder)
    texts: dict[str, str] = {}
    unreadable: list[Path] = []
    for file in python_files(root):
        try:
            with tokenize.open(file) as lines:  # in the encoding that the file declares
                text = lines.read()
        except (SyntaxError, UnicodeDecodeError, OSError):
            unreadable.append(file)
            continue
        if text.strip() and not is_generated(text):
            texts[file.relative_to(root).as_posix()] = text
    if unreadable:
        announce(f"left out, not readable as Python text: {describe_files(unreadable)}")
    if len(texts) < 2:
        raise DataError(f"{root} has {len(texts)} Python files with text, expected at least two: one is held out")
    held = _held_out(list(texts), val_fraction)
    name = "python_source" if folder is None else str(folder)
    origin = f"the standard library of Python {platform.python_version()}" if folder is None else str(root)
    source = f"{len(texts)} Python files of {origin}"
    train, test = (
        Corpus([text for path, text in texts.items() if (path in held) is is_held], name, True, source)
        for is_held in (False, True)
    )
    return Splits(train, test, name, True, source, validation=test, test_name="files that training lacks")


def standard_library() -> Path:
    """Folder of the standard library of this Python."""
    return Path(sysconfig.get_paths()["stdlib"])


def _root(folder: str | Path | None) -> Path:
    return standard_library() if folder is None else Path(folder).expanduser()


def is_generated(text: str) -> bool:
    """Whether a Python file is generated: its first lines say so, or most of its lines are entries of tables."""
    lines = [line for line in text.splitlines() if line.strip()]
    if any(_GENERATED.search(line) for line in lines[:10]):
        return True
    return sum(bool(_ENTRY.match(line)) for line in lines) > _LARGEST_TABLE * len(lines)


def _is_source(path: Path) -> bool:
    other = any(part in _OTHER_FOLDERS or part.startswith(("config-", ".")) for part in path.parts[:-1])
    return not other and not _OTHER_FILES.fullmatch(path.stem)


def _held_out(paths: Sequence[str], fraction: float) -> set[str]:
    """The paths whose hash, from 0 to 1, is below the fraction; at least one and not all."""
    place = {path: int(hashlib.blake2b(path.encode(), digest_size=6).hexdigest(), 16) / 2**48 for path in paths}
    first, *_, last = sorted(paths, key=lambda path: place[path])
    return {path for path in paths if place[path] < fraction or path == first} - {last}
