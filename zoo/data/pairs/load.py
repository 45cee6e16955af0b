"""Pairs of a picture, or a sound, and what is said of it: sets, splits, where they are found."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.config import PairDataSettings
from zoo.data.pairs.dataset import Decoder, PairDataset, PairSplits, T
from zoo.data.pairs.images import decode_images
from zoo.data.pairs.tables import find_tables, pair_rows
from zoo.data.sources.dataset_cards import Card, list_cards, load_card
from zoo.data.sources.hub import HubError, hub_tables
from zoo.data.sources.tables import SUFFIXES, read_table
from zoo.data.splits import held_rows
from zoo.data.synthetic import scenes
from zoo.utils.console import announce
from zoo.utils.errors import DataError, did_you_mean

TEST_SHARE = 0.1


def load_pairs(settings: PairDataSettings | None = None, *, size: tuple[int, int] = (32, 32),
               fit: Callable[[Tensor], Tensor] | None = None, seed: int = 0) -> PairSplits[Tensor]:  # fmt: skip
    """Find, read and decode pictures with captions; see `PairDataSettings` for where from.

    Args:
        size: (height, width) of the pictures.
        fit: uint8 [3, h, w] -> [3, *size]; without it pictures are scaled to cover `size` and cut to it.
        seed: Of splits and smaller choices.

    Raises:
        DataError: An unknown name or column, a missing table, missing or broken pictures (listed), captions that are
            missing; says how to mend it.
    """
    s = settings or PairDataSettings()
    if s.name in ("auto", "synthetic", "synthetic_image_text"):
        return finish(synthetic_pairs(size), s, seed)
    return finish(_read(s, "images", lambda rows, skipped: decode_images(rows, size, fit, skipped), seed), s, seed)


def synthetic_pairs(size: tuple[int, int]) -> PairSplits[Tensor]:
    """The scenes that the program draws."""
    if size[0] != size[1] or size[0] < 24:
        raise DataError(f"synthetic images are squares of at least 24 pixels, the model takes {size[0]} x {size[1]}: "
                        f"give image.image_size=32")  # fmt: skip
    train, validation, test = (
        PairDataset(*scenes.make_pairs(split, size=size[0])) for split in ("train", "validation", "test")
    )
    train.family = scenes.FAMILY
    source = "scenes made by the program; the test scenes combine what training never did"
    return PairSplits(train, validation, test, "synthetic", False, source)


def finish(sets: PairSplits[T], s: Any, seed: int) -> PairSplits[T]:
    """Smaller choices, and what has to be said."""
    if sets.skipped:
        some = "; ".join(sets.skipped[:3]) + (" ..." * (len(sets.skipped) > 3))
        announce(f"{len(sets.skipped)} pairs were skipped: {some}")
    if sets.notice:
        announce(sets.notice)
    return replace(
        sets,
        train=sets.train.subset(s.max_train_samples, seed=seed),
        test=sets.test.subset(s.max_test_samples, seed=seed),
    )


def pair_cards(task: str) -> list[str]:
    """Names of the real data sets of a task that have a card."""
    return [name for name in list_cards() if (card := load_card(name)).task == task and card.real]


# --- tables -> sets ---------------------------------------------------------------------------------------------------


def _read(s: PairDataSettings, role: str, decode: Decoder[T], seed: int) -> PairSplits[T]:
    known: list[str] = pair_cards("image-text pairs")
    if s.name in known:
        return from_card(load_card(s.name), s, role, decode, seed)
    path = Path(s.name).expanduser()
    shards = s.name.endswith((".tar", "}"))
    if path.is_dir() or path.suffix.lower() in SUFFIXES or shards or s.name.count("/") == 1:
        return from_tables(find_tables(s.name, s.test), s, role, decode, seed, name=path.name or s.name, source=s.name)
    names = ["synthetic", *known]
    raise DataError(f"data {s.name!r}: no such table, shards or folder, no hub data set (org/name), and none of "
                    f"{', '.join(names)}{did_you_mean(s.name, names)}")  # fmt: skip


def from_card(card: Card, s: PairDataSettings, role: str, decode: Decoder[T], seed: int) -> PairSplits[T]:
    """A data set with a card: from local files where they are, else from the hub."""
    folder = s.data_dir or os.environ.get("ZOO_DATA_DIR")
    files = {split: Path(folder).expanduser() / file for split, file in card.files.items()} if folder else {}
    absent = [str(file) for file in files.values() if not file.is_file()]
    how = f"Set ZOO_DATA_DIR (or data_dir=) to a folder that holds {' and '.join(card.files.values())}"
    if s.data_dir and absent:
        raise DataError(f"data_dir={s.data_dir}: {absent[0]} does not exist. {how}")
    if files and not absent:
        tables = {split: read_table(file) for split, file in files.items()}
        source = str(next(iter(files.values())).parent)
    elif card.hub:
        try:
            tables, source = hub_tables(card.hub), f"hub {card.hub}"
        except HubError as error:
            raise HubError(f"{error}. {how}") from error
    else:
        raise HubError(f"{card.title} is on no hub. {how}")
    named: Any = {key: card.columns[key] for key in (role, "captions") if key in card.columns and not getattr(s, key)}
    return from_tables(tables, replace(s, **named), role, decode, seed, name=card.name, source=source)


def from_tables(tables: dict[str, Any], s: Any, role: str, decode: Decoder[T], seed: int, *, name: str,
                source: str) -> PairSplits[T]:  # fmt: skip
    """The splits of a data set, decoded; without a test part, a tenth of the training becomes it."""
    skipped: list[str] = []
    rows = {split: pair_rows(table, getattr(s, role), s.captions, role, skipped) for split, table in tables.items()}
    if "test" not in rows:
        held = held_rows(torch.zeros(len(rows["train"]), dtype=torch.int64), TEST_SHARE, seed)
        if held.all():
            why = f" ({len(skipped)} cannot be used, the first: {skipped[0]})" if skipped else ""
            raise DataError(f"{source} has {len(held)} pairs{why}: too few to hold some out for the test")
        rows |= {"test": rows["train"].take(held), "train": rows["train"].take(~held)}
    sets = {split: decode(each, skipped) for split, each in rows.items()}
    if skipped and s.on_error == "raise":
        listed = "\n  ".join(skipped[:20]) + (f"\n  and {len(skipped) - 20} more" * (len(skipped) > 20))
        raise DataError(f"{len(skipped)} of the pairs cannot be used; mend or remove them, or pass on_error=skip to go "
                        f"on without them:\n  {listed}")  # fmt: skip
    for split, each in sets.items():
        if not len(each):
            raise DataError(f"{source}: no pair of {split} can be used; the first: {skipped[0]}")
    return PairSplits(sets["train"], sets.get("validation"), sets["test"], name, True, source, skipped=skipped)
