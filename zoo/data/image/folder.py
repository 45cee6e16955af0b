"""Your own labeled images in folders: one sub-folder per class."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from zoo.data.image.dataset import ImageDataset, ImageSplits, labeled
from zoo.data.image.decode import Blob, Decoded, decode, identity
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.image_io import SUFFIXES
from zoo.utils.errors import DataError
from zoo.utils.folders import data_files, describe_files, sub_folders
from zoo.utils.keyed_random import seed_for

TEST_NAMES = ("test", "val", "valid", "validation")
TEST_FRACTION = 0.1
_LAYOUT = (
    "expected train/ and test/ with one sub-folder of images per class, or one sub-folder of images per class, "
    "or a table such as train.parquet with a column of images and a column of labels"
)


def load_folder(
    folder: Path, processor: ImageProcessor | None = None, *, on_error: str = "raise", seed: int = 0
) -> ImageSplits:
    """Load a folder of images, resized by `processor`; without a test folder, 10 % of each class are held out.

    See `load_images`.
    """
    read = partial(_read, processor=processor or ImageProcessor(size=(32, 32)), on_error=on_error)
    notices: list[str] = []
    if (folder / "train").is_dir():
        classes = _class_names(folder / "train")
        test_folder = _test_folder(folder)
        if unknown := set(sub_folders(test_folder)) - set(classes):
            raise DataError(f"{test_folder / sorted(unknown)[0]}: no such class in {folder / 'train'}")
        if others := sorted(set(sub_folders(folder)) - {"train", test_folder.name}):
            notices.append(f"not used: {', '.join(str(folder / name) for name in others)}")
        listed = [_list(part, classes, notices) for part in (folder / "train", test_folder)]
        _require_every_class(folder / "train", classes, listed[0])
        train, test = (_labeled(files, classes, read) for files in listed)
    else:
        classes = _class_names(folder)
        listed_files = _list(folder, classes, notices)
        _require_every_class(folder, classes, listed_files)
        train, test = (_labeled(files, classes, read) for files in _split(listed_files, seed))
    mean, std = statistics(train.images)
    notice = "; ".join(notices) or None
    return ImageSplits(train, test, folder.resolve().name, True, str(folder), mean, std, notice=notice)


def statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, standard deviation) of each channel of uint8 images [N, C, H, W], for pixels from 0 to 1."""
    mean, std = zip(*(_channel_statistics(channel) for channel in images.movedim(1, 0).flatten(1)))
    return mean, std


def _channel_statistics(channel: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of uint8 values scaled to 0..1, computed from their histogram."""
    counts = torch.bincount(channel, minlength=256).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum() / counts.sum()
    deviation = ((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt()
    return mean.item(), max(deviation.item(), 1 / 255)


def _test_folder(folder: Path) -> Path:
    for name in TEST_NAMES:
        if (part := folder / name).is_dir():
            return part
    raise DataError(f"{folder} has train/ but none of {', '.join(TEST_NAMES)}; {_LAYOUT}")


def _class_names(folder: Path) -> list[str]:
    names = sub_folders(folder)
    if len(names) < 2:
        raise DataError(f"{folder} has {len(names)} class folders, expected at least 2; {_LAYOUT}")
    return names


def _list(folder: Path, classes: list[str], notices: list[str]) -> list[tuple[Path, int]]:
    """(file, class index) of all images. What is left out is described in `notices`."""
    found: list[tuple[Path, int]] = []
    others: list[Path] = []
    for number, name in enumerate(classes):
        files = data_files(folder / name) if (folder / name).is_dir() else []
        images = [file for file in files if file.suffix.lower() in SUFFIXES]
        others += [file for file in files if file.suffix.lower() not in SUFFIXES]
        found += [(file, number) for file in images]
        if not images:
            notices.append(f"no images of class {name} in {folder}")
    if not found:
        raise DataError(f"{folder}: no image in any of its sub-folders ({', '.join(SUFFIXES)})")
    if others:
        notices.append(f"left out, not images by their names: {describe_files(others)}")
    direct = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in SUFFIXES)
    if direct:
        notices.append(f"left out, in no folder of a class: {describe_files(direct)}")
    return found


def _require_every_class(folder: Path, classes: list[str], files: list[tuple[Path, int]]) -> None:
    """Raise DataError for a class without training images."""
    if empty := sorted(set(range(len(classes))) - {number for _, number in files}):
        part = folder / classes[empty[0]]
        others = data_files(part)
        holds = f"it holds {describe_files(others)}" if others else "it is empty"
        raise DataError(
            f"{part} contains no image: {holds}. Images end with {', '.join(SUFFIXES)}; add some, or remove the folder"
        )


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


def _read(
    blobs: Sequence[Blob], where: Callable[[int], str], files: Sequence[Path], processor: ImageProcessor, on_error: str
) -> Decoded:
    return decode(
        blobs,
        where,
        size=processor.size,
        channels=processor.channels,
        resize=processor.pixels,
        on_error=on_error,
        cache_key=identity(files),
    )


def _labeled(files: list[tuple[Path, int]], classes: list[str], read: Callable[..., Decoded]) -> ImageDataset:
    paths = [path for path, _ in files]
    decoded = read(paths, lambda i: str(paths[i]), paths)
    return labeled(decoded, [label for _, label in files], classes, "folder")
