"""Your own labeled images: one sub-folder per class, or parquet files."""

import json
from pathlib import Path
from typing import Any

import torch

from zoo.data.image.dataset import ImageDataset, ImageSplits, labeled
from zoo.data.image.decode import decode, identity
from zoo.data.sources.tables import image_bytes, read_parquet
from zoo.utils.errors import DataError
from zoo.utils.keyed_random import seed_for

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
TEST_NAMES = ("test", "val", "valid", "validation")
TEST_FRACTION = 0.1
_LAYOUT = (
    "expected train/ and test/ with one sub-folder of images per class, or one sub-folder of images per class, "
    "or train.parquet and test.parquet"
)


def load_folder(folder: Path, *, on_error: str = "raise", size: int = 32, seed: int = 0) -> ImageSplits:
    """Load a folder of images; without a test folder, 10 % of each class are held out. See `load_images`."""
    if (folder / "train.parquet").is_file():
        files = (folder / "train.parquet", _test_part(folder, ".parquet"))
        train, test = (_read_table(file, on_error, size) for file in files)
        if train.classes != test.classes:
            raise DataError(f"{folder}: the classes of train and test differ: {train.classes} and {test.classes}")
    elif (folder / "train").is_dir():
        classes = _class_names(folder / "train")
        test_folder = _test_part(folder, "")
        if unknown := set(_sub_folders(test_folder)) - set(classes):
            raise DataError(f"{test_folder / sorted(unknown)[0]}: no such class in {folder / 'train'}")
        train, test = (_read(_list(part, classes), classes, on_error, size) for part in (folder / "train", test_folder))
    else:
        classes = _class_names(folder)
        train_files, test_files = _split(_list(folder, classes), seed)
        train, test = (_read(files, classes, on_error, size) for files in (train_files, test_files))
    pixels = train.images.movedim(1, 0).flatten(1)  # [C, N*H*W]
    mean, std = zip(*(_statistics(channel) for channel in pixels))
    return ImageSplits(train, test, folder.resolve().name, True, str(folder), mean, std)


def _statistics(channel: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of uint8 values scaled to 0..1, computed from their histogram."""
    counts = torch.bincount(channel, minlength=256).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum() / counts.sum()
    deviation = ((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt()
    return mean.item(), max(deviation.item(), 1 / 255)


def _test_part(folder: Path, suffix: str) -> Path:
    for name in TEST_NAMES:
        if (part := folder / f"{name}{suffix}").exists():
            return part
    names = ", ".join(name + suffix for name in TEST_NAMES)
    raise DataError(f"{folder} has train{suffix} but none of {names}; {_LAYOUT}")


def _sub_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _class_names(folder: Path) -> list[str]:
    names = _sub_folders(folder)
    if len(names) < 2:
        raise DataError(f"{folder} has {len(names)} class folders, expected at least 2; {_LAYOUT}")
    return names


def _list(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """(file, class index) of all images."""
    found = []
    for number, name in enumerate(classes):
        part = folder / name
        files = sorted(file for file in part.rglob("*") if file.suffix.lower() in SUFFIXES) if part.is_dir() else []
        found += [(file, number) for file in files]
    if not found:
        raise DataError(f"{folder}: no image in any of its sub-folders ({', '.join(sorted(SUFFIXES))})")
    return found


def _split(files: list[tuple[Path, int]], seed: int) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Hold out 10 % of each class, at least one image. Raises: DataError for a class with a single image."""
    train, test = [], []
    for number in sorted({label for _, label in files}):
        members = [(file, label) for file, label in files if label == number]
        if len(members) < 2:
            raise DataError(
                f"{members[0][0].parent} has a single image: none is left to hold out for testing; {_LAYOUT}"
            )
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed_for(seed, number))).tolist()
        count = max(1, round(len(members) * TEST_FRACTION))
        test += [members[i] for i in sorted(order[:count])]
        train += [members[i] for i in sorted(order[count:])]
    return train, test


def _read(files: list[tuple[Path, int]], classes: list[str], on_error: str, size: int) -> ImageDataset:
    paths = [path for path, _ in files]
    decoded = decode(
        paths, lambda i: str(paths[i]), size=(size, size), resize=True, on_error=on_error, cache_key=identity(paths)
    )
    return labeled(decoded, [label for _, label in files], classes, "folder")


def _read_table(file: Path, on_error: str, size: int) -> ImageDataset:
    table = read_parquet(file)
    image = _column(file, table, ("image", "img", "pixel_values"))
    label = _column(file, table, ("label", "labels", "fine_label"))
    values = table.column(label).to_pylist()
    classes, numbers = _classes(table, label, values)
    blobs = image_bytes(table, image)
    decoded = decode(
        blobs,
        lambda i: f"{file}, row {i}",
        size=(size, size),
        resize=True,
        on_error=on_error,
        cache_key=identity([file]),
    )
    return labeled(decoded, numbers, classes, str(file))


def _column(file: Path, table: Any, names: tuple[str, ...]) -> str:
    for name in names:
        if name in table.column_names:
            return name
    raise DataError(f"{file}: expected a column {' or '.join(names)}, it has {', '.join(table.column_names)}")


def _classes(table: Any, column: str, values: list[Any]) -> tuple[list[str], list[Any]]:
    """(class names, labels as indices); the names are those stored by `datasets`, else the sorted values."""
    stored = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    names = stored.get("info", {}).get("features", {}).get(column, {}).get("names")
    if names:
        return list(names), values
    distinct = sorted({value for value in values if value is not None})
    number = {value: i for i, value in enumerate(distinct)}
    return [str(value) for value in distinct], [number.get(value) for value in values]
