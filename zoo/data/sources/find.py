"""Find the tables of a dataset by its name: one with a card, a table, a folder, shards, or a dataset of the Hub."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from zoo.data.base_config import BaseDataSettings
from zoo.data.sources.dataset_cards import Card, card_files, load_card, missing_files_hint, real_cards
from zoo.data.sources.hub import HubError, hub_name, hub_tables
from zoo.data.sources.shards import is_shards, read_shards
from zoo.data.sources.tables import SUFFIXES, VALIDATION_NAMES, Table, read_table, table_suffix
from zoo.utils.errors import DataError, did_you_mean

SPLIT_NAMES = {"train": ("train",), "validation": VALIDATION_NAMES, "test": ("test",)}
S = TypeVar("S", bound=BaseDataSettings)
Read = Callable[..., Table]  # read_table, or a function that calls it


@dataclass(frozen=True)
class Source:
    """The tables of a dataset.

    Attributes:
        tables: Tables by split: `train` and, if there are any, `validation` and `test`.
        name: Name of the dataset: of its card, file or folder, or on the Hub.
        where: Where the tables come from.
        card: Its card, if it has one.
    """

    tables: dict[str, Table]
    name: str
    where: str
    card: Card | None = None

    @property
    def classes(self) -> list[str] | None:
        """The class names of the card; None without a card."""
        return list(self.card.labels) if self.card else None


def find_tables(
    s: S,
    task: str,
    *,
    read: Read = read_table,
    folder: "Callable[[Path, Read], dict[str, Table]] | None" = None,
    is_files: Callable[[str], bool] = lambda name: False,
) -> tuple[Source, S]:
    """(tables of the dataset `s.name`, settings with the columns that its card names).

    The tables of the options `validation` and `test`, if the settings have them, replace those of the dataset.

    Args:
        s: The settings.
        task: Task of the cards that can be named.
        read: Reads a table, with the options of `read_table`.
        folder: Finds the tables of a folder and reads them. Default: `split_tables`.
        is_files: Whether `read` takes a name that is neither one file nor a folder, such as that of two files.

    Raises: DataError for an unknown name, with the closest known one; a file that is missing or malformed.
    """
    read = partial(read, **s.table_format)
    if is_files(s.name) and not Path(s.name).expanduser().exists():
        source = Source({"train": _read(s.name, read)}, s.name, s.name)
    else:
        source = _find(s, real_cards(task), read, folder or split_tables)
    given = {split: getattr(s, split, None) for split in ("validation", "test")}
    more = {split: _read(name, read) for split, name in given.items() if name}
    source = replace(source, tables=source.tables | more)
    columns = source.card.columns if source.card else {}
    found = {key: name for key, name in columns.items() if name in source.tables["train"].columns}
    named: Any = {key: name for key, name in found.items() if getattr(s, key, None) == ""}
    return source, replace(s, **named)


def _find(s: BaseDataSettings, cards: list[str], read: Read,
          folder: Callable[[Path, Read], dict[str, Table]]) -> Source:  # fmt: skip
    path = Path(s.name).expanduser()
    if s.name in cards:
        _check_no_format(s, "its own files")
        return card_tables(load_card(s.name), s.data_dir)
    if path.is_dir():
        if not (tables := folder(path, read)):
            raise DataError(f"{path} has no train table: expected train.csv (or {', '.join(SUFFIXES[1:])}), and "
                            f"optionally validation and test ones; a table with another name is given itself, "
                            f"data={path / 'NAME.csv'}")  # fmt: skip
        return Source(tables, path.resolve().name, str(path))
    if is_shards(s.name) or table_suffix(path) or path.is_file():
        return Source({"train": _read(s.name, read)}, path.name, str(path))
    return hub_source(s, ["synthetic", *cards])


def hub_source(s: BaseDataSettings, known: list[str], expected: str = "folder or table") -> Source:
    """The tables of a dataset of the hub. expected: what else `data=` may be, for messages, beside the known names.

    Raises: HubError if it cannot be read; DataError for what cannot be the name of one.
    """
    problem = (f"data={s.name!r}: expected a {expected} that exists, a hub dataset (name, org/name or "
               f"org/name:config), or one of {', '.join(known)}{did_you_mean(s.name, known)}")  # fmt: skip
    found = hub_name(s.name) or ((s.name, None) if re.fullmatch(r"\w[\w.-]*", s.name) else None)
    if not found:
        raise DataError(problem)
    _check_no_format(s, "files of the hub")
    name = s.name.removeprefix("hf-hub:")
    try:
        return Source(hub_tables(*found), name, f"hub {name}")
    except HubError as error:
        end = "" if problem.endswith("?") else "."
        raise HubError(f"{problem}{end} As a dataset of the Hugging Face Hub: {error}") from error


def _check_no_format(s: BaseDataSettings, files: str) -> None:
    if s.table_format != BaseDataSettings().table_format:
        raise DataError(f"header=, sep= and encoding= are for your own tables, but data={s.name} is read from {files}: "
                        f"omit them")  # fmt: skip


def _read(name: str, read: Read) -> Table:
    return read_shards(name) if is_shards(name) else read(Path(name).expanduser())


def split_tables(
    folder: Path, read: Read = read_table, alone: Sequence[str] = (), suffixes: Sequence[str] = SUFFIXES
) -> dict[str, Table]:
    """The tables of a folder by split, e.g. `train.csv` or `train/metadata.csv`; empty if there are none.

    Args:
        folder: The folder.
        read: Reads a table.
        alone: Names of the table of a folder without a train table, e.g. `captions` for `captions.csv`.
        suffixes: Of the files that are looked for.

    Raises: DataError for two tables of one split, or tables without one to train on.
    """
    found: dict[str, Table] = {}
    for split, names in SPLIT_NAMES.items():
        if file := _only_table(folder, [*names, *(f"{name}/metadata" for name in names)], split, suffixes):
            found[split] = read(file)
    for name in alone:
        if "train" not in found and (file := _only_table(folder, [name], "train", suffixes)):
            found["train"] = read(file)
    if found and "train" not in found:
        raise DataError(f"{folder} has a table for {next(iter(found))} but none for train, e.g. train.csv")
    return {split: found[split] for split in SPLIT_NAMES if split in found}


def _only_table(folder: Path, stems: Sequence[str], split: str, suffixes: Sequence[str]) -> Path | None:
    present = [file for stem in stems for suffix in suffixes if (file := folder / f"{stem}{suffix}").is_file()]
    if len(present) > 1:
        names = " and ".join(str(file.relative_to(folder)) for file in present[:2])
        raise DataError(f"{folder} has {names}: expected one table for {split}")
    return present[0] if present else None


def card_tables(card: Card, data_dir: str | None = None) -> Source:
    """The tables of a dataset with a card, from local files if they exist, else from the Hub; see `card_files`."""
    if files := card_files(card, data_dir):
        tables = {split: read_table(file) for split, file in files.items()}
        return Source(tables, card.name, str(next(iter(files.values())).parent), card)
    try:
        return Source(hub_tables(card.hub or ""), card.name, f"hub {card.hub}", card)
    except HubError as error:
        raise HubError(f"{error}. {missing_files_hint(card)}") from error
