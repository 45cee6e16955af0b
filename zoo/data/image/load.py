"""Load image classification datasets: CIFAR-10, your own folder or parquet files, or synthetic shapes."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from zoo.data.config import DataSettings
from zoo.data.image.dataset import ImageDataset, ImageSplits, labeled
from zoo.data.image.decode import Decoded, decode
from zoo.data.image.statistics import statistics
from zoo.data.image.streamed import load_streamed_images
from zoo.data.sources.auto import resolve_auto
from zoo.data.sources.class_folders import class_tables, validation_as_test
from zoo.data.sources.class_names import columns_of, name_labels
from zoo.data.sources.columns import (
    FILE_NAMES,
    LABEL_NAMES,
    announce_skipped,
    check_column,
    drop_unlabeled_splits,
    encoded_item,
    find_column,
)
from zoo.data.sources.dataset_cards import Card, load_card
from zoo.data.sources.find import Read, Source, find_tables, split_tables
from zoo.data.sources.groups import assign_groups
from zoo.data.sources.tables import Table
from zoo.data.splits import TEST_FRACTION, with_test
from zoo.data.streams.folder import find_shards
from zoo.data.synthetic import shapes
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.image_io import SUFFIXES
from zoo.utils.console import announce
from zoo.utils.errors import DataError
from zoo.utils.keyed_random import seed_for

COLUMN_NAMES = {"image": ("image", "img", "pixel_values", *FILE_NAMES), "label": (*LABEL_NAMES, "fine_label")}


def load_images(
    name: str | DataSettings = "auto",
    data_dir: str | Path | None = None,
    *,
    on_error: Literal["raise", "skip"] = "raise",
    size: int = 32,
    processor: ImageProcessor | None = None,
    max_train_samples: int = 0,
    max_test_samples: int = 0,
    seed: int = 0,
) -> ImageSplits:
    """Load and decode a labeled image dataset.

    Args:
        name: `cifar10` (from `data_dir`, ZOO_DATA_DIR or the Hugging Face Hub), `synthetic`, `auto` (CIFAR-10 if it is
            available, else, with a notice, the synthetic dataset), your own folder with one sub-folder per class
            (directly, then split 9:1, or inside `train/`, `test/` and `val/`), with tables such as train.parquet, or of
            shards (.tar, or several .parquet), which are read piece by piece, a table, or `org/name` on the Hugging
            Face Hub. Or the settings of a recipe, which give `data_dir`, `on_error` and the numbers of samples as well.
        data_dir: Folder that contains `cifar10/train.parquet` and `cifar10/test.parquet`.
        on_error: `raise` raises an error that names a broken image, `skip` skips it with a warning.
        size: Height and width of the images of your own folder, which are scaled to cover it and center-cropped.
        processor: Resizes and crops the images of any dataset, instead of `size`: that of a model, `model.preprocess`,
            gives the pixels that `zoo.predict` sees.
        max_train_samples, max_test_samples: Maximum number of images (a seeded, class-balanced subset); 0 uses all.
        seed: Seed of splits and subsets.

    Raises:
        DataError: An unknown name, a missing or broken file, or a dataset that is not available. The message says how
            to fix it.
    """
    if isinstance(name, DataSettings):
        if (data_dir, on_error, size, max_train_samples, max_test_samples) != (None, "raise", 32, 0, 0):
            raise TypeError("load_images(settings, ...) takes only processor= and seed= beside the settings, which "
                            "hold the other options")  # fmt: skip
        s = name
    elif on_error not in ("raise", "skip"):
        raise DataError(f"on_error={on_error!r}: expected 'raise' or 'skip'")
    else:
        s = DataSettings(name=name, data_dir=None if data_dir is None else str(data_dir), size=size, on_error=on_error,
                         max_train_samples=max_train_samples, max_test_samples=max_test_samples)  # fmt: skip
    size = s.size or size
    sets = _load(s, processor or ImageProcessor(size=(size, size)), seed)
    channels, *edges = sets.train.images.shape[1:]
    if processor and sets.card and not processor.keeps((edges[0], edges[1]), channels):  # folders are resized already
        for part in sets.parts:
            part.resize = processor.pixels
    sets = sets.limited(s.max_train_samples, s.max_test_samples, seed)
    announce_skipped([message for part in sets.parts for message in part.broken], "broken images")
    return sets


def _load(s: DataSettings, processor: ImageProcessor, seed: int) -> ImageSplits:
    name = resolve_auto(s.preferred, s.data_dir) if s.name == "auto" else s.name
    if name in ("synthetic", "synthetic_images"):
        return _synthetic()
    if shards := find_shards(replace(s, name=name)):
        return load_streamed_images(shards, s, processor, seed)
    folder = partial(_tables_of_folder, seed=seed, whole_groups=bool(s.group_option))
    source, s = find_tables(replace(s, name=name), "image classification", folder=folder)
    return _from_tables(source, s, processor, seed)


def _synthetic() -> ImageSplits:
    card = load_card("synthetic_images")
    train, test = (
        ImageDataset(*shapes.make_images(n, seed=seed), list(shapes.CLASSES))
        for seed, n in enumerate((shapes.TRAIN, shapes.TEST))
    )
    return ImageSplits(train, test, "synthetic", card.real, "generated images", card.mean, card.std, card)


# --- from tables to datasets ------------------------------------------------------------------------------------------


def _tables_of_folder(folder: Path, read: Read, *, seed: int, whole_groups: bool = False) -> dict[str, Table]:
    """The tables of a folder by split: those that it has, or made from one sub-folder of images per class."""
    if not (folder / "train").is_dir() and (tables := split_tables(folder, read)):
        return validation_as_test(tables)
    tables = class_tables(folder, SUFFIXES, "image")
    if "test" in tables or whole_groups:  # whose test split is held out later
        return tables
    held = _held_out_files(tables["train"], seed)
    rows = {"train": [i for i, out in enumerate(held) if not out], "test": [i for i, out in enumerate(held) if out]}
    return {split: tables["train"].take(own) for split, own in rows.items()}


def _held_out_files(table: Table, seed: int) -> list[bool]:
    """10 % of the files of each class, at least one. Raises: DataError for a class with a single file.

    Not by `with_test`, which would hold out other files than all versions so far.
    """
    labels, held = table.columns["label"], [False] * len(table)
    for number, name in enumerate(sorted(set(labels))):
        members = [i for i, label in enumerate(labels) if label == name]
        if len(members) < 2:
            file = table.columns["file"][members[0]]
            raise DataError(f"{file.parent} has a single image: none is left to hold out for testing; add some")
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed_for(seed, number))).tolist()
        for i in order[: max(1, round(len(members) * TEST_FRACTION))]:
            held[members[i]] = True
    return held


def _from_tables(source: Source, s: DataSettings, processor: ImageProcessor, seed: int) -> ImageSplits:
    """Decode the images of tables; without a test table, 10 % of each class are held out as test split."""
    card = source.card
    image = find_column(source.tables["train"], s.image, "image", COLUMN_NAMES["image"])
    label = find_column(source.tables["train"], s.label, "label", COLUMN_NAMES["label"], [image])
    tables, notice = drop_unlabeled_splits(source.tables, [label])
    if notice:
        announce(notice)
    named = name_labels(tables, columns_of(tables, label), s)
    classes = named.names or source.classes
    sets: dict[str, ImageDataset] = {}
    rows: dict[str, list[int]] = {}
    cached: dict[str, None] = {}
    for split, table in named.tables.items():
        check_column(table, image, "image")
        check_column(table, label, "label")
        classes = classes or _class_names(table, label)  # those of the training table, which comes first
        decoded = _decode(table, image, card, processor, s)
        cached |= dict.fromkeys(filter(None, [decoded.note]))
        numbers = table.columns[label] if card else _numbers(table, label, classes)
        sets[split] = labeled(decoded, numbers, classes, table.where)
        rows[split] = decoded.kept.tolist()
    notes = [*named.notes, *assign_groups(sets, named.tables, rows, s, source.where), *cached]
    problem = f"{source.where}: each class has a single image: none is left to hold out for testing; add some"
    sets = with_test(sets, seed, problem, sets["train"].classes)
    mean, std = (card.mean, card.std) if card else statistics(sets["train"].images)
    return ImageSplits(sets["train"], sets["test"], source.name, True, source.where, mean, std, card,
                       validation=sets.get("validation"), notes=notes)  # fmt: skip


def _decode(table: Table, column: str, card: Card | None, processor: ImageProcessor, s: DataSettings) -> Decoded:
    """The images of a table: of the size that the card names, else resized by the processor."""
    folder = Path(table.where).parent
    blobs: list[Any] = [encoded_item(cell, folder)[0] for cell in table.columns[column]]
    place = lambda i: str(blobs[i]) if isinstance(blobs[i], Path) else table.place(i)  # noqa: E731
    options: Any = {"on_error": s.on_error, "cache": s.cache_decoded}
    if card:
        return decode(blobs, place, size=(card.image["height"], card.image["width"]), **options)
    return decode(blobs, place, size=processor.size, channels=processor.channels, resize=processor.pixels, **options)


def _class_names(table: Table, column: str) -> list[str]:
    """The class names that `datasets` has stored in the file, else the sorted values."""
    values = {value for value in table.columns[column] if value is not None}
    return list(table.names.get(column) or map(str, sorted(values)))


def _numbers(table: Table, column: str, classes: list[str]) -> list[Any]:
    """The class of each row as a number; None without one. Raises: DataError for other classes than those of train."""
    stored, values = table.names.get(column), table.columns[column]
    if (own := _class_names(table, column)) != classes and (stored or set(own) - set(classes)):
        raise DataError(f"{table.where}: the classes of train and test differ: {classes} and {own}")
    number = {name: i for i, name in enumerate(classes)}
    return values if stored else [None if value is None else number[str(value)] for value in values]
