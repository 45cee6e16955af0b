"""Image classification data: CIFAR-10, a folder or parquet files of the user's, or the embedded shapes."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.cards import Card, list_cards, load_card
from zoo.data.decode import DataError, Decoded, decode
from zoo.data.draws import even_rows
from zoo.data.hub import HubError, load_table
from zoo.errors import did_you_mean

MISSING = (
    "Set ZOO_DATA_DIR (or data_dir=) to a folder that holds {files}, "
    "or take data=embedded, the shapes that the program draws itself"
)


@dataclass
class ImageSet(Dataset[dict[str, Tensor]]):
    """images uint8 [N, C, H, W]; labels int64 [N]; classes: the name of each label; broken: images left out."""

    images: Tensor
    labels: Tensor
    classes: list[str]
    broken: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """One image [C, H, W], its label and its number."""
        return {"pixel_values": self.images[i], "labels": self.labels[i], "index": torch.tensor(i)}

    def subset(self, count: int, *, seed: int = 0) -> "ImageSet":
        """`count` images, the classes as evenly as they allow, the same for the same seed; 0 keeps all."""
        if not count or count >= len(self):
            return self
        rows = even_rows(self.labels, count, seed)
        return ImageSet(self.images[rows], self.labels[rows], self.classes, self.broken)


@dataclass
class ImageSets:
    """A training and a test set.

    Attributes:
        name: Of the card, or of the user's folder.
        real: False for images that the program drew; accuracies on them say nothing about any real data set.
        source: Where they came from: a path, a hub repository, or the program.
        mean, std: Of each channel's training pixels, from 0 to 1.
        notice: What the user must be told about the choice of the data, if anything.
    """

    train: ImageSet
    test: ImageSet
    name: str
    real: bool
    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    card: Card | None = None
    notice: str | None = None

    @property
    def classes(self) -> list[str]:
        return self.train.classes


def load_images(
    name: str = "auto",
    data_dir: str | Path | None = None,
    *,
    on_error: str = "stop",
    size: int = 32,
    train_size: int = 0,
    test_size: int = 0,
    seed: int = 0,
) -> ImageSets:
    """Find, read and decode an image set.

    Args:
        name: `cifar10`, from `data_dir`, else ZOO_DATA_DIR, else the hub; `embedded`, drawn by the program; `auto`,
            the first where it can be had and, announced, else the second; or a folder of one's own with a sub-folder
            for each class (inside `train/` and `test/`, or to be split 9 : 1), or with train.parquet and test.parquet.
        data_dir: Folder that holds `cifar10/train.parquet` and `cifar10/test.parquet`.
        on_error: `stop` raises at a broken image, `skip` goes on without it; both name it.
        size: Height and width that the images of one's own folder get.
        train_size, test_size: Use only so many images, the classes evenly; 0 takes all.
        seed: Of the split and of the choice of fewer images.

    Raises:
        DataError: An unknown name, a missing or broken file, a data set that is not to be had; says how to mend it.
    """
    if on_error not in ("stop", "skip"):
        raise DataError(f"on_error={on_error!r}: expected 'stop' or 'skip'")
    sets = _load(name, data_dir, on_error, size, seed)
    sets.train = sets.train.subset(train_size, seed=seed)
    sets.test = sets.test.subset(test_size, seed=seed)
    if broken := sets.train.broken + sets.test.broken:
        announce(f"{len(broken)} broken images were skipped: " + "; ".join(broken[:3]) + (" ..." * (len(broken) > 3)))
    if sets.notice:
        announce(sets.notice)
    return sets


def announce(text: str) -> None:
    """Say something that must not be overlooked, once for all processes of a run."""
    if int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) == 0:
        from rich.console import Console
        from rich.text import Text

        Console(file=sys.stderr, soft_wrap=True).print(Text(f" {text} ", style="bold black on yellow"))


def _load(name: str, data_dir: str | Path | None, on_error: str, size: int, seed: int) -> ImageSets:
    if name == "embedded":
        return _embedded()
    if name in ("auto", "cifar10"):
        try:
            return _from_card(load_card("cifar10"), data_dir, on_error)
        except HubError as error:
            if name != "auto":
                raise HubError(f"{error}. {_how(load_card(name))}") from error
            sets = _embedded()
            sets.notice = f"NOT CIFAR-10 but {len(sets.train):,} shapes drawn by the program: {error}"
            return sets
    if Path(name).expanduser().is_dir():
        from zoo.data.folder import load_folder

        return load_folder(Path(name).expanduser(), on_error=on_error, size=size, seed=seed)
    known = ["auto", *(n for n in list_cards() if load_card(n).task == "image classification")]
    raise DataError(f"data {name!r}: no such folder, and none of {', '.join(known)}{did_you_mean(name, known)}")


def _embedded() -> ImageSets:
    from zoo.data.embedded import CLASSES, TEST, TRAIN, draw_images

    card = load_card("embedded")
    train, test = (ImageSet(*draw_images(n, seed=seed), list(CLASSES)) for seed, n in enumerate((TRAIN, TEST)))
    return ImageSets(train, test, card.name, card.real, "drawn by the program", card.mean, card.std, card)


def _from_card(card: Card, data_dir: str | Path | None, on_error: str) -> ImageSets:
    """A data set with a card: from local parquet files where they are, else from the hub."""
    folder = data_dir or os.environ.get("ZOO_DATA_DIR")
    if folder:
        files = {split: Path(folder).expanduser() / file for split, file in card.files.items()}
        absent = [str(file) for file in files.values() if not file.is_file()]
        if not absent:
            sets = {split: _read_split(card, split, file, on_error) for split, file in files.items()}
            return _with_card(card, sets, str(Path(folder).expanduser() / card.name))
        if data_dir:
            raise DataError(f"data_dir={data_dir}: {absent[0]} does not exist. {_how(card)}")
    sets = {split: _read_split(card, split, None, on_error) for split in card.splits}
    return _with_card(card, sets, f"hub {card.hub}")


def _how(card: Card) -> str:
    return MISSING.format(files=" and ".join(card.files.values()))


def _with_card(card: Card, sets: dict[str, ImageSet], source: str) -> ImageSets:
    return ImageSets(sets["train"], sets["test"], card.name, card.real, source, card.mean, card.std, card)


def _read_split(card: Card, split: str, file: Path | None, on_error: str) -> ImageSet:
    if file is None:
        assert card.hub is not None
        table, where = load_table(card.hub, split), f"{card.hub} {split}"
    else:
        table, where = read_parquet(file), str(file)
    size = (card.image["height"], card.image["width"])
    image, label = card.columns["image"], card.columns["label"]
    if absent := {image, label} - set(table.column_names):
        raise DataError(f"{where}: no column {sorted(absent)[0]!r}, it has {', '.join(table.column_names)}")
    decoded = decode(image_bytes(table, image), lambda i: f"{where}, row {i}", size=size, on_error=on_error)
    return labelled(decoded, table.column(label).to_pylist(), list(card.labels), where)


def labelled(decoded: Decoded, labels: list[Any], classes: list[str], where: str) -> ImageSet:
    """Join images and labels, which count from 0 and know no gaps."""
    tensor = torch.tensor([-1 if label is None else label for label in labels], dtype=torch.int64)[decoded.kept]
    if len(wrong := ((tensor < 0) | (tensor >= len(classes))).nonzero()):
        row = int(decoded.kept[wrong[0, 0]])
        raise DataError(f"{where}, row {row}: label {labels[row]!r}, expected 0 to {len(classes) - 1}")
    return ImageSet(decoded.images, tensor, classes, decoded.broken)


def read_parquet(file: Path) -> Any:
    """A parquet file as a pyarrow Table. Raises DataError, naming the file, when it is damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} is damaged or no parquet file: {str(error).splitlines()[0]}") from None


def image_bytes(table: Any, column: str) -> list[bytes]:
    """The encoded images of a column: plain bytes, or the {bytes, path} that `datasets` writes."""
    chunks = table.column(column).chunks
    if table.schema.field(column).type.num_fields:
        chunks = [chunk.field("bytes") for chunk in chunks]
    return [value for chunk in chunks for value in chunk.to_pylist()]
