"""Dataset cards: what is known about a data set before it is opened. Torch-free."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from zoo.utils.errors import did_you_mean

_PACKAGE = Path(__file__).parents[1]
# An installed wheel carries the cards inside the package; a checkout keeps them in its top-level `data/`.
_FOLDERS = (_PACKAGE / "cards", _PACKAGE.parent.parent / "data")


@dataclass(frozen=True, kw_only=True)
class Card:
    """One data set: `real` is False for what the program draws itself; mean and std are of pixels from 0 to 1; held_out
    says what the test has and the training has not, where that is the point."""

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
    """Names of the data sets that have a card."""
    return sorted({path.stem for folder in _FOLDERS for path in folder.glob("*.yaml")})


def load_card(name: str) -> Card:
    """Read the card of a data set. Raises ValueError for an unknown name and for a card with wrong keys."""
    for folder in _FOLDERS:
        if (path := folder / f"{name}.yaml").is_file():
            return _read(path)
    raise ValueError(f"no data set {name!r}: known are {', '.join(list_cards())}{did_you_mean(name, list_cards())}")


def _read(path: Path) -> Card:
    given: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(given, dict):
        raise ValueError(f"{path}: expected a mapping of keys to values")
    known = [each.name for each in fields(Card)]
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"{path}: unknown key {unknown[0]!r}{did_you_mean(str(unknown[0]), known)}")
    lists = {key: tuple(given[key]) for key in ("labels", "mean", "std") if key in given}
    try:
        return Card(**given | lists)
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from None
