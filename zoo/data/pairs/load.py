"""Load image-text pairs from tables, folders, shards, the Hub, or synthetic scenes."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.config import PairDataSettings
from zoo.data.pairs.dataset import Decoder, PairDataset, PairSplits, T
from zoo.data.pairs.images import Fit, ResizeAndCrop, decode_images
from zoo.data.pairs.tables import find_tables, pair_rows
from zoo.data.sources.dataset_cards import Card, list_cards, load_card
from zoo.data.sources.hub import HubError, hub_tables
from zoo.data.sources.tables import SUFFIXES, read_table
from zoo.data.splits import with_test
from zoo.data.synthetic import scenes
from zoo.preprocessing.image import ImageProcessor
from zoo.utils.console import announce
from zoo.utils.errors import DataError, did_you_mean


def load_pairs(
    settings: PairDataSettings | None = None,
    *,
    processor: ImageProcessor | None = None,
    size: tuple[int, int] = (32, 32),
    fit: Fit | None = None,
    seed: int = 0,
) -> PairSplits[Tensor]:
    """Load and decode a dataset of images with captions.

    Args:
        settings: Dataset and options; see `PairDataSettings`.
        processor: Resizes and crops the images: that of a model, `model.preprocess.image`, gives the pixels that its
            search sees. Instead of `size` and `fit`.
        size: (height, width) of the images.
        fit: Function from a PIL image, or uint8 [3, h, w], to uint8 [3, *size]. Default: scale to cover `size` and
            center-crop, as ImageProcessor does.
        seed: Seed of splits and subsets.

    Raises:
        DataError: An unknown name or column, a missing table, missing captions, or missing or broken images (listed).
            The message says how to fix it.
    """
    s = settings or PairDataSettings()
    if processor:
        size, fit = processor.size, ResizeAndCrop(processor)
    if s.name in ("auto", "synthetic", "synthetic_image_text"):
        return finish(synthetic_pairs(size, fit), s, seed)
    return finish(_read(s, "images", lambda rows, skipped: decode_images(rows, size, fit, skipped), seed), s, seed)


def synthetic_pairs(size: tuple[int, int], fit: Fit | None = None) -> PairSplits[Tensor]:
    """The synthetic dataset of scenes with captions; fit: see `load_pairs`."""
    if size[0] != size[1] or size[0] < 24:
        raise DataError(f"synthetic images are square with at least 24 pixels, but the model takes "
                        f"{size[0]} x {size[1]}: pass image.image_size=32")  # fmt: skip
    train, validation, test = (
        PairDataset(*scenes.make_pairs(split, size=size[0])) for split in ("train", "validation", "test")
    )
    if fit and not (isinstance(fit, ResizeAndCrop) and fit.preprocess.keeps(size, 3)):
        for part in (train, validation, test):
            part.items = torch.stack([fit(image) for image in part.items])
    train.family = scenes.FAMILY
    source = "generated scenes; the test scenes combine colors and shapes in new pairs"
    return PairSplits(train, test, "synthetic", False, source, validation=validation)


def finish(sets: PairSplits[T], s: Any, seed: int) -> PairSplits[T]:
    """Apply max_train_samples and max_test_samples, and print notices."""
    if sets.skipped:
        examples = "; ".join(sets.skipped[:3]) + (" ..." * (len(sets.skipped) > 3))
        announce(f"skipped {len(sets.skipped)} pairs: {examples}")
    if sets.notice:
        announce(sets.notice)
    return sets.limited(s.max_train_samples, s.max_test_samples, seed)


def pair_cards(task: str) -> list[str]:
    """Names of the real datasets of a task that have a card."""
    return [name for name in list_cards() if (card := load_card(name)).task == task and card.real]


# --- from tables to datasets ------------------------------------------------------------------------------------------


def _read(s: PairDataSettings, role: str, decode: Decoder[T], seed: int) -> PairSplits[T]:
    known: list[str] = pair_cards("image-text pairs")
    if s.name in known:
        return from_card(load_card(s.name), s, role, decode, seed)
    path = Path(s.name).expanduser()
    shards = s.name.endswith((".tar", "}"))
    if path.is_dir() or path.suffix.lower() in SUFFIXES or shards or s.name.count("/") == 1:
        return from_tables(find_tables(s.name, s.test), s, role, decode, seed, name=path.name or s.name, source=s.name)
    names = ["synthetic", *known]
    raise DataError(f"data={s.name!r}: expected an existing table, shards or folder, a hub dataset (org/name), or "
                    f"one of {', '.join(names)}{did_you_mean(s.name, names)}")  # fmt: skip


def from_card(card: Card, s: PairDataSettings, role: str, decode: Decoder[T], seed: int) -> PairSplits[T]:
    """A dataset with a card, from local files if they exist, else from the Hub."""
    folder = s.data_dir or os.environ.get("ZOO_DATA_DIR")
    files = {split: Path(folder).expanduser() / file for split, file in card.files.items()} if folder else {}
    absent = [str(file) for file in files.values() if not file.is_file()]
    hint = f"Set ZOO_DATA_DIR (or data_dir=) to a folder that contains {' and '.join(card.files.values())}"
    if s.data_dir and absent:
        raise DataError(f"data_dir={s.data_dir}: {absent[0]} does not exist. {hint}")
    if files and not absent:
        tables = {split: read_table(file) for split, file in files.items()}
        source = str(next(iter(files.values())).parent)
    elif card.hub:
        try:
            tables, source = hub_tables(card.hub), f"hub {card.hub}"
        except HubError as error:
            raise HubError(f"{error}. {hint}") from error
    else:
        raise HubError(f"{card.title} is not on the hub. {hint}")
    named: Any = {key: card.columns[key] for key in (role, "captions") if key in card.columns and not getattr(s, key)}
    return from_tables(tables, replace(s, **named), role, decode, seed, name=card.name, source=source)


def from_tables(tables: dict[str, Any], s: Any, role: str, decode: Decoder[T], seed: int, *, name: str,
                source: str) -> PairSplits[T]:  # fmt: skip
    """Decode the splits of a dataset; without a test table, 10 % of the training pairs are held out for testing."""
    skipped: list[str] = []
    rows = {split: pair_rows(table, getattr(s, role), s.captions, role, skipped) for split, table in tables.items()}
    test_name = (getattr(s, "test", None) or "") if "test" in rows else f"a held-out part of {name}"
    skips = f" ({len(skipped)} cannot be used, the first: {skipped[0]})" if skipped else ""
    problem = f"{source} has {len(rows['train'])} pairs{skips}: too few to hold some out for testing"
    rows = with_test(rows, seed, problem)
    sets = {split: decode(part, skipped) for split, part in rows.items()}
    if skipped and s.on_error == "raise":
        listed = "\n  ".join(skipped[:20]) + (f"\n  and {len(skipped) - 20} more" * (len(skipped) > 20))
        raise DataError(f"{len(skipped)} pairs cannot be used; fix or remove them, or pass on_error=skip to skip "
                        f"them:\n  {listed}")  # fmt: skip
    for split, part in sets.items():
        if not len(part):
            raise DataError(f"{source}: no pair of {split} can be used; the first: {skipped[0]}")
    return PairSplits(sets["train"], sets["test"], name, True, source, validation=sets.get("validation"),
                      skipped=skipped, test_name=test_name)  # fmt: skip
