"""Load labeled point clouds: your own folders and tables of files, or synthetic shapes."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from zoo.data.point_cloud.dataset import PointCloudDataset, PointCloudSplits
from zoo.data.point_cloud_config import SYNTHETIC, PointCloudDataSettings
from zoo.data.sources.class_folders import class_tables, validation_as_test
from zoo.data.sources.class_names import columns_of, name_labels
from zoo.data.sources.columns import (
    FILE_NAMES,
    LABEL_NAMES,
    announce_skipped,
    drop_unlabeled_splits,
    encoded_item,
    find_column,
    with_values,
)
from zoo.data.sources.decode_all import decode_all
from zoo.data.sources.find import Read, Source, find_tables, split_tables
from zoo.data.sources.fingerprint import note_files
from zoo.data.sources.groups import assign_groups
from zoo.data.sources.labels import encode_labels
from zoo.data.sources.tables import Table
from zoo.data.splits import with_test
from zoo.data.synthetic import point_clouds as synthetic
from zoo.preprocessing.point_cloud import PointCloudProcessor
from zoo.preprocessing.point_cloud_io import SUFFIXES, read
from zoo.utils.console import announce

TASK = "point cloud classification"
NOUN = "point cloud"
COLUMN_NAMES = ("points", "point_cloud", "cloud", *FILE_NAMES)


def load_point_clouds(
    settings: PointCloudDataSettings | None = None, *, processor: PointCloudProcessor | None = None, seed: int = 0
) -> PointCloudSplits[PointCloudDataset]:
    """Load a dataset of labeled point clouds.

    Args:
        settings: Dataset and options; see `PointCloudDataSettings`.
        processor: Processor of the model, `model.preprocess`, which chooses the features that are read. Default: those
            of the settings, and all columns of arrays.
        seed: Seed of splits and subsets.

    Raises:
        DataError: An unknown name or column; a missing, broken or empty file, or one with another number of columns
            than the first; labels that are missing or all of one class. The message says how to fix it.
    """
    s = settings or PointCloudDataSettings()
    if s.name in SYNTHETIC:
        sets = _synthetic()
    else:
        source, s = find_tables(s, TASK, folder=_tables_of_folder)
        sets = _from_tables(source, s, processor, seed)
    return sets.limited(s.max_train_samples, s.max_test_samples, seed)


def _synthetic() -> PointCloudSplits[PointCloudDataset]:
    train, validation, test = (
        PointCloudDataset(*synthetic.make_point_clouds(n, seed=seed, rotated=seed > 0))
        for seed, n in enumerate((synthetic.TRAIN, synthetic.VALIDATION, synthetic.TEST))
    )
    return PointCloudSplits(train, test, "synthetic", False, "generated point clouds", validation=validation,
                            classes=list(synthetic.CLASSES))  # fmt: skip


def _tables_of_folder(folder: Path, read: Read) -> dict[str, Table]:
    """The tables of a folder by split: those that it has, or made from one sub-folder of files per class."""
    if not (folder / "train").is_dir() and (tables := split_tables(folder, read)):
        return validation_as_test(tables)
    return class_tables(folder, SUFFIXES, NOUN)


def _from_tables(
    source: Source, s: PointCloudDataSettings, processor: PointCloudProcessor | None, seed: int
) -> PointCloudSplits[PointCloudDataset]:
    """Read the clouds of tables; without a test table, 10 % of each class are held out as test split."""
    column = find_column(source.tables["train"], s.points, "points", COLUMN_NAMES)
    label = find_column(source.tables["train"], s.label, "label", LABEL_NAMES)
    tables, notice = drop_unlabeled_splits(source.tables, [label])
    if notice:
        announce(notice)
    named = name_labels(tables, columns_of(tables, label), s)
    files = {split: listed_files(table, column) for split, table in named.tables.items()}
    if processor is None:
        features = tuple(s.features)
        processor = PointCloudProcessor(in_features=first_columns(files["train"], features), features=features)
    clouds: dict[str, list[Tensor]] = {}
    rows: dict[str, list[int]] = {}
    broken: dict[str, list[str]] = {}
    for split, table in named.tables.items():
        labeled = with_values(table, label, s.on_error, "label")
        clouds[split], rows[split], broken[split] = read_clouds(processor.load, files[split], labeled, s.on_error)
    classes = named.names or source.classes
    _, names, labels = encode_labels(named.tables, [label], rows, "single_label_classification", classes)
    sets = {split: PointCloudDataset(clouds[split], labels[split], broken[split]) for split in clouds}
    notes = [*named.notes, *assign_groups(sets, named.tables, rows, s, source.where)]
    problem = f"{source.where}: each class has a single point cloud: none is left to hold out for testing; add some"
    sets = with_test(sets, seed, problem, names)
    return PointCloudSplits(sets["train"], sets["test"], source.name, True, source.where,
                            validation=sets.get("validation"), classes=names, notes=notes)  # fmt: skip


Files = list[tuple[Path | None, str]]  # of each row: the file, or the problem with it


def listed_files(table: Table, column: str) -> Files:
    """The files of a column of a table."""
    found: Files = []
    for row, value in enumerate(table.columns[column]):
        file, problem = encoded_item(value, Path(table.where).parent)
        if problem or not isinstance(file, Path):
            found.append((None, f"{table.place(row)}: {problem or 'expected the name of a file'}"))
        else:
            found.append((file, ""))
    return found


def first_columns(files: Files, features: tuple[str, ...], label: str = "") -> int:
    """The number of columns of the first file that can be read, see `point_cloud_io.read`."""
    for file, _ in files:
        try:
            if file is not None:
                return int(read(file, features, label).shape[1])
        except (ValueError, OSError):  # the error that names the file comes when all are read
            continue
    return 3 + bool(label)


def read_clouds(
    load: Callable[[Path], Tensor], files: Files, rows: list[int], on_error: str
) -> tuple[list[Tensor], list[int], list[str]]:
    """(clouds, their rows, messages of broken files) of the given rows of a table."""
    note_files([files[row][0] for row in rows])
    found: list[Tensor | None] = [None] * len(rows)

    def read_one(i: int) -> str:
        file, problem = files[rows[i]]
        if file is None:
            return problem
        try:
            found[i] = load(file)
        except (ValueError, OSError) as error:
            return str(error)
        return ""

    broken = list(decode_all(len(rows), read_one, NOUN, on_error).values())
    announce_skipped(broken, "broken point clouds")
    return [c for c in found if c is not None], [row for row, c in zip(rows, found) if c is not None], broken
