"""Load images without labels: generated scenes, the images of any dataset, or a folder of image files."""

from pathlib import Path
from typing import Any

import torch

from zoo.data.image.dataset import ImageDataset, ImageSplits
from zoo.data.image.decode import Decoded, decode
from zoo.data.image.statistics import statistics
from zoo.data.sources.class_folders import validation_as_test
from zoo.data.sources.columns import FILE_NAMES, IMAGE_NAMES, announce_skipped, check_column, encoded_item, find_column
from zoo.data.sources.dataset_cards import list_cards, load_card
from zoo.data.sources.find import SPLIT_NAMES, Read, find_tables, split_tables
from zoo.data.sources.tables import Table, read_table
from zoo.data.splits import with_test
from zoo.data.synthetic.object_scenes import make_object_scenes
from zoo.data.unlabeled_config import UnlabeledImageSettings
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.image_io import SUFFIXES
from zoo.utils.console import announce
from zoo.utils.errors import DataError
from zoo.utils.folders import data_files, describe_files

COLUMNS = (*IMAGE_NAMES, "images", *FILE_NAMES)
GENERATED = ("auto", "synthetic", "scenes", "synthetic_scenes")
SMALLEST_SCENE = 24  # pixels


def load_unlabeled_images(
    settings: UnlabeledImageSettings | None = None, *, processor: ImageProcessor | None = None, seed: int = 0
) -> ImageSplits:
    """Load and decode the images of a dataset, without labels; without a test split, 10 % are held out for testing.

    Args:
        settings: Dataset and options; see `UnlabeledImageSettings`.
        processor: Resizes and crops the images: `model.preprocess`. Default: 32 x 32 pixels.
        seed: Seed of splits and subsets.

    Raises:
        DataError: An unknown name or column, a folder without images, or missing or broken images. The message says
            how to fix it.
    """
    s = settings or UnlabeledImageSettings()
    processor = processor or ImageProcessor(size=(32, 32))
    sets = _scenes(s, processor) if s.name in GENERATED else _from_tables(s, processor, seed)
    announce_skipped([message for part in sets.parts for message in part.broken], "broken images")
    return sets.limited(s.max_train_samples, s.max_test_samples, seed)


def _unlabeled(images: torch.Tensor, broken: list[str] | None = None) -> ImageDataset:
    return ImageDataset(images, torch.zeros(len(images), dtype=torch.int64), ["image"], broken or [])


def _scenes(s: UnlabeledImageSettings, processor: ImageProcessor) -> ImageSplits:
    """Generated scenes at the size of the model; no more than are used, as they take a millisecond each."""
    size = max(SMALLEST_SCENE, *processor.size)
    counts = {"train": s.max_train_samples, "validation": 0, "test": s.max_test_samples}
    parts = [_unlabeled(make_object_scenes(split, n, size=size).images) for split, n in counts.items()]
    if not processor.keeps((size, size), 3):
        for part in parts:
            part.images = torch.stack([processor.pixels(image) for image in part.images])
    train, validation, test = parts
    mean, std = statistics(train.images)
    source = "generated scenes; the test scenes combine colors, shapes and relations in new pairs"
    return ImageSplits(train, test, "scenes", False, source, mean, std, validation=validation)


def _from_tables(s: UnlabeledImageSettings, processor: ImageProcessor, seed: int) -> ImageSplits:
    task = load_card(s.name).task if s.name in list_cards() else "image classification"
    source, _ = find_tables(s, task, folder=_tables_of_folder)
    cards = source.card.columns if source.card else {}
    column = s.image or next((cards[key] for key in ("image", "images") if key in cards), "")
    sets: dict[str, ImageDataset] = {}
    notes: dict[str, None] = {}
    for split, table in source.tables.items():
        decoded = _decode(table, column, processor, s)
        sets[split] = _unlabeled(decoded.images, decoded.broken)
        notes |= dict.fromkeys(filter(None, [decoded.note]))
    problem = f"{source.where} has {len(sets['train'])} images: too few to hold some out for testing"
    sets = with_test(sets, seed, problem)
    mean, std = statistics(sets["train"].images)
    return ImageSplits(sets["train"], sets["test"], source.name, True, source.where, mean, std, source.card,
                       validation=sets.get("validation"), notes=list(notes))  # fmt: skip


def _decode(table: Table, column: str, processor: ImageProcessor, s: UnlabeledImageSettings) -> Decoded:
    """The images of a table, resized by the processor."""
    name = find_column(table, column, "image", COLUMNS)
    check_column(table, name, "image")
    blobs: list[Any] = [encoded_item(cell, Path(table.where).parent)[0] for cell in table.columns[name]]
    place = lambda i: str(blobs[i]) if isinstance(blobs[i], Path) else table.place(i)  # noqa: E731
    return decode(blobs, place, size=processor.size, channels=processor.channels, resize=processor.pixels,
                  on_error=s.on_error, cache=s.cache_decoded)  # fmt: skip


def _tables_of_folder(folder: Path, read: Read = read_table) -> dict[str, Table]:
    """The tables of a folder by split; or its image files, those of train/, val/ and test/ if there is a train/.

    Raises: DataError for a folder without tables and images.
    """
    if tables := split_tables(folder, read):
        return validation_as_test(tables)
    if not (folder / "train").is_dir():
        return {"train": _files(folder)}
    parts = {split: next((folder / name for name in names if (folder / name).is_dir()), None)
             for split, names in SPLIT_NAMES.items()}  # fmt: skip
    return validation_as_test({split: _files(part) for split, part in parts.items() if part})


def _files(folder: Path) -> Table:
    """The image files of a folder and of its sub-folders, in the order of their names."""
    every = data_files(folder)
    files = [file for file in every if file.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"{folder} has no images: expected files of {', '.join(SUFFIXES)}, in sub-folders, too, or a "
                        f"table such as train.parquet (.csv .tsv .jsonl) with a column of images")  # fmt: skip
    if others := [file for file in every if file.suffix.lower() not in SUFFIXES]:
        announce(f"left out, not images by their names: {describe_files(others)}")
    return Table({"file": files}, str(folder))
