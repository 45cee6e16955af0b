"""Folders with one sub-folder of files per class, as tables of files and labels."""

from collections.abc import Sequence
from pathlib import Path

from zoo.data.sources.find import SPLIT_NAMES
from zoo.data.sources.tables import Table
from zoo.utils.console import announce
from zoo.utils.errors import DataError
from zoo.utils.folders import data_files, describe_files, sub_folders


def class_tables(folder: Path, suffixes: Sequence[str], noun: str) -> dict[str, Table]:
    """Tables with the columns `file` and `label` by split, of a folder with one sub-folder per class.

    The sub-folders are in the folder itself, or in `train/`, `test/` and `val/`; without `test/`, `val/` is for
    testing. What is left out is announced.

    Args:
        folder: The folder.
        suffixes: Suffixes of the files.
        noun: What a file is, for messages: `image` or `audio file`.

    Raises: DataError for another layout, a class without files to train on, or one that only the test folder has.
    """
    if not (folder / "train").is_dir():
        classes = _classes(folder, noun)
        return {"train": _table(folder, classes, suffixes, noun, complete=True)}
    classes, found = _classes(folder / "train", noun), {}
    for split, names in SPLIT_NAMES.items():
        if part := next((folder / name for name in names if (folder / name).is_dir()), None):
            if unknown := sorted(set(sub_folders(part)) - set(classes)):
                raise DataError(f"{part / unknown[0]}: no such class in {folder / 'train'}")
            found[split] = _table(part, classes, suffixes, noun, complete=split == "train")
    used = {Path(table.where).name for table in found.values()}
    if others := sorted(set(sub_folders(folder)) - used):
        announce(f"not used: {', '.join(str(folder / name) for name in others)}")
    return validation_as_test(found)


def validation_as_test(tables: dict[str, Table]) -> dict[str, Table]:
    """The tables, of which that of validation is for testing if there is no other."""
    names = {"validation": "test"} if "test" not in tables else {}
    return {names.get(split, split): table for split, table in tables.items()}


def _classes(folder: Path, noun: str) -> list[str]:
    names = sub_folders(folder)
    if len(names) < 2:
        raise DataError(
            f"{folder} has {len(names)} class folders, expected at least 2; expected train/ and test/ with one "
            f"sub-folder of {noun}s per class, or one sub-folder of {noun}s per class, or a table such as "
            f"train.parquet (.csv .tsv .jsonl) with a column of {noun}s"
        )
    return names


def _table(folder: Path, classes: list[str], suffixes: Sequence[str], noun: str, *, complete: bool) -> Table:
    """The files of all classes. complete: a class without files is an error."""
    files: list[Path] = []
    labels: list[str] = []
    others: list[Path] = []
    empty: list[str] = []
    for name in classes:
        below = data_files(folder / name) if (folder / name).is_dir() else []
        own = [file for file in below if file.suffix.lower() in suffixes]
        others += [file for file in below if file.suffix.lower() not in suffixes]
        files, labels = files + own, labels + [name] * len(own)
        empty += [] if own else [name]
    if not files:
        raise DataError(f"{folder}: no {noun} in any of its sub-folders ({', '.join(suffixes)})")
    if empty and complete:
        part = folder / empty[0]
        holds = f"it holds {describe_files(data_files(part))}" if data_files(part) else "it is empty"
        raise DataError(f"{part} contains no {noun}: {holds}. {noun.capitalize()}s end with {', '.join(suffixes)}; add "
                        f"some, or remove the folder")  # fmt: skip
    if empty:
        announce(f"no {noun}s of class {', '.join(empty)} in {folder}")
    if others:
        announce(f"left out, not {noun}s by their names: {describe_files(others)}")
    direct = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in suffixes)
    if direct:
        announce(f"left out, in no folder of a class: {describe_files(direct)}")
    return Table({"file": files, "label": labels}, str(folder))
