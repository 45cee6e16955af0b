"""Load image classification datasets: CIFAR-10, your own folder or parquet files, or synthetic shapes."""

import os
from pathlib import Path

from zoo.data.config import DataSettings
from zoo.data.image.dataset import ImageDataset, ImageSplits, labeled
from zoo.data.image.decode import decode
from zoo.data.image.folder import load_folder
from zoo.data.sources.dataset_cards import Card, list_cards, load_card
from zoo.data.sources.hub import HubError, load_table
from zoo.data.sources.tables import image_bytes, read_parquet
from zoo.data.synthetic import shapes
from zoo.preprocessing.image import ImageProcessor
from zoo.utils.console import announce
from zoo.utils.errors import DataError, did_you_mean

MISSING = "Set ZOO_DATA_DIR (or data_dir=) to a folder that contains {files}, or use data=synthetic, generated shapes"


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
        sets.train.resize = sets.test.resize = processor.pixels
    sets = sets.limited(max_train_samples, max_test_samples, seed)
    if broken := sets.train.broken + sets.test.broken:
        announce(f"skipped {len(broken)} broken images: " + "; ".join(broken[:3]) + (" ..." * (len(broken) > 3)))
    if sets.notice:
        announce(sets.notice)
    return sets


def _load(name: str, data_dir: str | Path | None, on_error: str, processor: ImageProcessor, seed: int) -> ImageSplits:
    if name in ("synthetic", "synthetic_images"):
        return _synthetic()
    if name in ("auto", "cifar10"):
        try:
            return _from_card(load_card("cifar10"), data_dir, on_error)
        except HubError as error:
            if name != "auto":
                raise HubError(f"{error}. {_download_hint(load_card(name))}") from error
            sets = _synthetic()
            sets.notice = f"using {len(sets.train):,} synthetic images instead of CIFAR-10: {error}"
            return sets
    if Path(name).expanduser().is_dir():
        return load_folder(Path(name).expanduser(), processor, on_error=on_error, seed=seed)
    known = ["auto", "synthetic", *(n for n in list_cards() if load_card(n).task == "image classification")]
    raise DataError(
        f"data={name!r}: expected a folder that exists, or one of {', '.join(known)}{did_you_mean(name, known)}"
    )


def _synthetic() -> ImageSplits:
    card = load_card("synthetic_images")
    train, test = (
        ImageDataset(*shapes.make_images(n, seed=seed), list(shapes.CLASSES))
        for seed, n in enumerate((shapes.TRAIN, shapes.TEST))
    )
    return ImageSplits(train, test, "synthetic", card.real, "generated images", card.mean, card.std, card)


def _from_card(card: Card, data_dir: str | Path | None, on_error: str) -> ImageSplits:
    """A dataset with a card, from local parquet files if they exist, else from the Hub."""
    folder = data_dir or os.environ.get("ZOO_DATA_DIR")
    if folder:
        files = {split: Path(folder).expanduser() / file for split, file in card.files.items()}
        absent = [str(file) for file in files.values() if not file.is_file()]
        if not absent:
            sets = {split: _read_split(card, split, file, on_error) for split, file in files.items()}
            return _with_card(card, sets, str(Path(folder).expanduser() / card.name))
        if data_dir:
            raise DataError(f"data_dir={data_dir}: {absent[0]} does not exist. {_download_hint(card)}")
    sets = {split: _read_split(card, split, None, on_error) for split in card.splits}
    return _with_card(card, sets, f"hub {card.hub}")


def _download_hint(card: Card) -> str:
    return MISSING.format(files=" and ".join(card.files.values()))


def _with_card(card: Card, sets: dict[str, ImageDataset], source: str) -> ImageSplits:
    return ImageSplits(sets["train"], sets["test"], card.name, card.real, source, card.mean, card.std, card)


def _read_split(card: Card, split: str, file: Path | None, on_error: str) -> ImageDataset:
    if file is None:
        assert card.hub is not None
        table, where = load_table(card.hub, split), f"{card.hub} {split}"
    else:
        table, where = read_parquet(file), str(file)
    size = (card.image["height"], card.image["width"])
    image, label = card.columns["image"], card.columns["label"]
    if absent := {image, label} - set(table.column_names):
        raise DataError(f"{where}: no column {sorted(absent)[0]!r}, the columns are {', '.join(table.column_names)}")
    decoded = decode(image_bytes(table, image), lambda i: f"{where}, row {i}", size=size, on_error=on_error)
    return labeled(decoded, table.column(label).to_pylist(), list(card.labels), where)
