"""Dataset cards: metadata of the known datasets. Imports no torch."""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from zoo.utils.errors import DataError, did_you_mean

_PACKAGE = Path(__file__).parents[1]
# An installed wheel carries the cards inside the package; a checkout keeps them in its top-level `data/`.
_FOLDERS = (_PACKAGE / "cards", _PACKAGE.parent.parent / "data")


@dataclass(frozen=True, kw_only=True)
class Card:
    """Metadata of a dataset.

    `real` is False for synthetic data; `mean` and `std` refer to pixel values from 0 to 1; `held_out` describes content
    that only the test split has, if the dataset is about that.
    """

    name: str
    title: str
    task: str
    real: bool
    license: str
    source: str
    hub: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    image: dict[str, int] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    held_out: str = ""


def list_cards() -> list[str]:
    """Names of the datasets that have a card."""
    return sorted({path.stem for folder in _FOLDERS for path in folder.glob("*.yaml")})


def load_card(name: str) -> Card:
    """Read the card of a dataset. Raises ValueError for an unknown name or a card with unknown keys."""
    for folder in _FOLDERS:
        if (path := folder / f"{name}.yaml").is_file():
            return _read(path)
    known = list_cards()
    raise ValueError(f"unknown dataset {name!r}, expected one of {', '.join(known)}{did_you_mean(name, known)}")


def real_cards(task: str) -> list[str]:
    """Names of the real datasets of a task that have a card."""
    return [name for name in list_cards() if (card := load_card(name)).task == task and card.real]


def card_files(card: Card, data_dir: str | None = None) -> dict[str, Path]:
    """Local files by split, below `data_dir` or ZOO_DATA_DIR; empty for a dataset of the Hub that is not there.

    Raises: DataError if a file is missing from `data_dir`, or from anywhere if the Hub does not have the dataset.
    """
    folder = data_dir or os.environ.get("ZOO_DATA_DIR")
    files = {split: Path(folder).expanduser() / file for split, file in card.files.items()} if folder else {}
    absent = [file for file in files.values() if not file.is_file()]
    if (absent or not files) and (data_dir or not card.hub):
        reason = f"{absent[0]} does not exist" if absent else "neither data_dir= nor ZOO_DATA_DIR is set"
        given = f"data_dir={data_dir}" if data_dir else f"data={card.name}"
        raise DataError(f"{given}: {reason}. {missing_files_hint(card)}")
    return {} if absent else files


def missing_files_hint(card: Card) -> str:
    """What to do about missing files."""
    origin = "" if card.hub else f" (from {card.source})"
    return (f"Set ZOO_DATA_DIR (or data_dir=) to a folder that contains {' and '.join(card.files.values())}{origin}, "
            f"or use data=synthetic, which needs no files")  # fmt: skip


def _read(path: Path) -> Card:
    values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of keys to values")
    known = [f.name for f in fields(Card)]
    if unknown := [key for key in values if key not in known]:
        raise ValueError(f"{path}: unknown key {unknown[0]!r}{did_you_mean(str(unknown[0]), known)}")
    lists = {key: tuple(values[key]) for key in ("labels", "mean", "std") if key in values}
    try:
        return Card(**values | lists)
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from None
