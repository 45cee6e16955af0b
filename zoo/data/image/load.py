"""Load image classification datasets: CIFAR-10, your own folder or parquet files, or synthetic shapes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.data.config import DataSettings
from zoo.data.image.dataset import ImageDataset, ImageSplits, labeled
from zoo.data.image.decode import decode, identity
from zoo.data.image.folder import load_folder, statistics
from zoo.data.sources.auto import resolve_auto
from zoo.data.sources.columns import FILE_NAMES, LABEL_NAMES, announce_skipped, encoded_item
from zoo.data.sources.dataset_cards import load_card
from zoo.data.sources.find import Source, find_tables, split_tables
from zoo.data.sources.tables import Table
from zoo.data.splits import with_test
from zoo.data.synthetic import shapes
from zoo.preprocessing.image import ImageProcessor
from zoo.utils.console import announce
from zoo.utils.errors import DataError

COLUMN_NAMES = {"image": ("image", "img", "pixel_values", *FILE_NAMES), "label": (*LABEL_NAMES, "fine_label")}


def load_images(
    name: str | DataSettings = "auto",
    data_dir: str | Path | None = None,
    *,
    on_error: str = "raise",
    size: int = 32,
    processor: ImageProcessor | None = None,
    max_train_samples: int = 0,
    max_test_samples: int = 0,
    seed: int = 0,
) -> ImageSplits:
    """Load and decode a labeled image dataset.

    Args:
        name: `cifar10` (from `data_dir`, ZOO_DATA_DIR or the Hugging Face Hub), `synthetic`, `auto` (CIFAR-10 if it is
            available, else, with a notice, the synthetic dataset), or your own folder with one sub-folder per class
            (directly, then split 9:1, or inside `train/` and `test/`), or with train.parquet and test.parquet. Or
            the settings of a recipe, which give `data_dir`, `on_error` and the numbers of samples as well.
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
        name, data_dir, on_error, size = s.name, s.data_dir, s.on_error, s.size or size
        max_train_samples, max_test_samples = s.max_train_samples, s.max_test_samples
    if on_error not in ("raise", "skip"):
        raise DataError(f"on_error={on_error!r}: expected 'raise' or 'skip'")
    sets = _load(name, data_dir, on_error, processor or ImageProcessor(size=(size, size)), seed)
    channels, *edges = sets.train.images.shape[1:]
    if processor and sets.card and not processor.keeps((edges[0], edges[1]), channels):  # folders are resized already
        for part in sets.parts:
            part.resize = processor.pixels
    sets = sets.limited(max_train_samples, max_test_samples, seed)
    announce_skipped([message for part in sets.parts for message in part.broken], "broken images")
    if sets.notice:
        announce(sets.notice)
    return sets


def _load(name: str, data_dir: str | Path | None, on_error: str, processor: ImageProcessor, seed: int) -> ImageSplits:
    settings = DataSettings(name=name, data_dir=None if data_dir is None else str(data_dir))
    if name == "auto":
        name = resolve_auto(settings.preferred, settings.data_dir)
    if name in ("synthetic", "synthetic_images"):
        return _synthetic()
    source, _ = find_tables(replace(settings, name=name), "image classification", folder=_tables_of_folder)
    if not source.tables:
        return load_folder(Path(source.where), processor, on_error=on_error, seed=seed)
    return _from_tables(source, processor, on_error, seed)


def _tables_of_folder(folder: Path) -> dict[str, Table]:
    """The tables of a folder by split; empty for a folder with one sub-folder of images per class."""
    tables = {} if (folder / "train").is_dir() else split_tables(folder)
    if "test" not in tables and "validation" in tables:
        tables["test"] = tables.pop("validation")
    return tables


def _synthetic() -> ImageSplits:
    card = load_card("synthetic_images")
    train, test = (
        ImageDataset(*shapes.make_images(n, seed=seed), list(shapes.CLASSES))
        for seed, n in enumerate((shapes.TRAIN, shapes.TEST))
    )
    return ImageSplits(train, test, "synthetic", card.real, "generated images", card.mean, card.std, card)


# --- from tables to datasets ------------------------------------------------------------------------------------------


def _from_tables(source: Source, processor: ImageProcessor, on_error: str, seed: int) -> ImageSplits:
    """Decode the images of tables; without a test table, 10 % of each class are held out as test split."""
    card = source.card
    sets = {split: _read(table, source, processor, on_error) for split, table in source.tables.items()}
    train = sets["train"].classes
    if other := next((part.classes for part in sets.values() if part.classes != train), None):
        raise DataError(f"{source.where}: the classes of train and test differ: {train} and {other}")
    problem = f"{source.where}: each class has a single image: none is left to hold out for testing; add some"
    sets = with_test(sets, seed, problem, train)
    mean, std = (card.mean, card.std) if card else statistics(sets["train"].images)
    return ImageSplits(sets["train"], sets["test"], source.name, True, source.where, mean, std, card,
                       validation=sets.get("validation"))  # fmt: skip


def _read(table: Table, source: Source, processor: ImageProcessor, on_error: str) -> ImageDataset:
    """The images of a table: of the size that the card names, else resized by the processor."""
    card, file = source.card, Path(table.where)
    images, labels = ([card.columns[key]] if card else names for key, names in COLUMN_NAMES.items())
    cells, values = table.columns[_column(table, images)], table.columns[label := _column(table, labels)]
    blobs: list[Any] = [encoded_item(cell, file.parent)[0] for cell in cells]
    if card:
        options: dict[str, Any] = {"size": (card.image["height"], card.image["width"])}
    else:
        files = [file] if file.is_file() else []
        key = identity([*files, *(blob for blob in blobs if isinstance(blob, Path))]) if files else ""
        options = {"size": processor.size, "channels": processor.channels, "resize": processor.pixels, "cache_key": key}
    decoded = decode(blobs, table.place, on_error=on_error, **options)
    classes = source.classes
    if classes is None:
        classes, values = _classes(table, label)
    return labeled(decoded, values, classes, table.where)


def _column(table: Table, names: Sequence[str]) -> str:
    for name in names:
        if name in table.columns:
            return name
    raise DataError(f"{table.where}: no column {names[0]!r}, expected a column {' or '.join(names)}, it has "
                    f"{', '.join(table.columns)}")  # fmt: skip


def _classes(table: Table, column: str) -> tuple[list[str], list[Any]]:
    """(class names, labels as indices); the names are those stored by `datasets`, else the sorted values."""
    values = table.columns[column]
    if names := table.names.get(column):
        return list(names), values
    distinct = sorted({value for value in values if value is not None})
    number = {value: i for i, value in enumerate(distinct)}
    return [str(value) for value in distinct], [number.get(value) for value in values]
