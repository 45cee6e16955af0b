"""Find the tables of a dataset by its name: one with a card, a table, a folder, shards, or a dataset of the Hub."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from zoo.data.config import BaseDataSettings
from zoo.data.sources.dataset_cards import Card, card_files, load_card, missing_files_hint, real_cards
from zoo.data.sources.hub import HubError, hub_name, hub_tables
from zoo.data.sources.shards import is_shards, read_shards
from zoo.data.sources.tables import SUFFIXES, VALIDATION_NAMES, Table, read_table
from zoo.utils.errors import DataError, did_you_mean

SPLIT_NAMES = {"train": ("train",), "validation": VALIDATION_NAMES, "test": ("test",)}
S = TypeVar("S", bound=BaseDataSettings)


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
    read: Callable[[Path], Table] = read_table,
    folder: "Callable[[Path], dict[str, Table]] | None" = None,
) -> tuple[Source, S]:
    """(tables of the dataset `s.name`, settings with the columns that its card names).

    The tables of the options `validation` and `test`, if the settings have them, replace those of the dataset.

    Args:
        s: The settings.
        task: Task of the cards that can be named.
        read: Reads a table.
        folder: Finds the tables of a folder. Default: `split_tables`.

    Raises: DataError for an unknown name, with the closest known one; a file that is missing or malformed.
    """
    source = _find(s, real_cards(task), read, folder or (lambda path: split_tables(path, read)))
    given = {split: getattr(s, split, None) for split in ("validation", "test")}
    more = {split: _read(name, read) for split, name in given.items() if name}
    source = replace(source, tables=source.tables | more)
    columns = source.card.columns if source.card else {}
    found = {key: name for key, name in columns.items() if name in source.tables["train"].columns}
    named: Any = {key: name for key, name in found.items() if getattr(s, key, None) == ""}
    return source, replace(s, **named)


def _find(s: BaseDataSettings, cards: list[str], read: Callable[[Path], Table],
          folder: Callable[[Path], dict[str, Table]]) -> Source:  # fmt: skip
    path = Path(s.name).expanduser()
    if s.name in cards:
        return card_tables(load_card(s.name), s.data_dir)
    if path.is_dir():
        return Source(folder(path), path.resolve().name, str(path))
    if is_shards(s.name) or path.suffix.lower() in SUFFIXES:
        return Source({"train": _read(s.name, read)}, path.name, str(path))
    if (found := hub_name(s.name)) and not path.exists():
        name = s.name.removeprefix("hf-hub:")
        return Source(hub_tables(*found), name, f"hub {name}")
    known = ["synthetic", *cards]
    raise DataError(f"data={s.name!r}: expected a folder or table that exists, a hub dataset (org/name or "
                    f"org/name:config), or one of {', '.join(known)}{did_you_mean(s.name, known)}")  # fmt: skip


def _read(name: str, read: Callable[[Path], Table]) -> Table:
    return read_shards(name) if is_shards(name) else read(Path(name).expanduser())


def split_tables(
    folder: Path, read: Callable[[Path], Table] = read_table, alone: Sequence[str] = ()
) -> dict[str, Table]:
    """The tables of a folder by split, e.g. `train.csv` or `train/metadata.csv`; empty if there are none.

    Args:
        folder: The folder.
        read: Reads a table.
        alone: Names of the table of a folder without a train table, e.g. `captions` for `captions.csv`.

    Raises: DataError for two tables of one split, or tables without one to train on.
    """
    found: dict[str, Table] = {}
    for split, names in SPLIT_NAMES.items():
        if file := _only_table(folder, [*names, *(f"{name}/metadata" for name in names)], split):
            found[split] = read(file)
    for name in alone:
        if "train" not in found and (file := _only_table(folder, [name], "train")):
            found["train"] = read(file)
    if found and "train" not in found:
        raise DataError(f"{folder} has a table for {next(iter(found))} but none for train, e.g. train.csv")
    return {split: found[split] for split in SPLIT_NAMES if split in found}


def _only_table(folder: Path, stems: Sequence[str], split: str) -> Path | None:
    present = [file for stem in stems for suffix in SUFFIXES if (file := folder / f"{stem}{suffix}").is_file()]
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
