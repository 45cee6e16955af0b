"""Load point clouds whose points have classes: your own files (PLY, NPZ, NPY, XYZ), or synthetic objects of parts."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from zoo.data.point_cloud.dataset import LabeledPoints, PointCloudSplits
from zoo.data.point_cloud.load import COLUMN_NAMES, NOUN, first_columns, listed_files, read_clouds
from zoo.data.point_cloud_config import SYNTHETIC_PARTS, LabeledPointSettings
from zoo.data.sources.class_folders import validation_as_test
from zoo.data.sources.class_names import read_names
from zoo.data.sources.columns import find_column
from zoo.data.sources.find import SPLIT_NAMES, Read, Source, find_tables, split_tables
from zoo.data.sources.groups import assign_groups
from zoo.data.sources.tables import Table
from zoo.data.splits import with_test
from zoo.data.synthetic import point_parts as synthetic
from zoo.models.load_report import listed
from zoo.preprocessing.point_cloud import PointCloudProcessor
from zoo.preprocessing.point_cloud_io import SUFFIXES, read
from zoo.utils.errors import DataError
from zoo.utils.folders import data_files

TASK = "point cloud segmentation"
MOST_CLASSES = 1000


def load_labeled_points(
    settings: LabeledPointSettings | None = None, *, processor: PointCloudProcessor | None = None, seed: int = 0
) -> PointCloudSplits[LabeledPoints]:
    """Load a dataset of point clouds whose points have classes.

    Args:
        settings: Dataset and options; see `LabeledPointSettings`.
        processor: Processor of the model, `model.preprocess`, which chooses the features that are read. Default: those
            of the settings, and of NPY files all columns but the last.
        seed: Seed of splits and subsets.

    Raises:
        DataError: An unknown name; a missing, broken or empty file, or one with another number of columns than the
            first; classes that are missing, no whole numbers, or not among those of training. The message says how to
            fix it.
    """
    s = settings or LabeledPointSettings()
    if s.name in SYNTHETIC_PARTS:
        sets = _synthetic()
    else:
        source, s = find_tables(s, TASK, folder=_tables_of_folder)
        sets = _from_tables(source, s, processor, seed)
    return sets.limited(s.max_train_samples, s.max_test_samples, seed)


def _synthetic() -> PointCloudSplits[LabeledPoints]:
    made = (
        synthetic.make_point_parts(n, seed=seed, rotated=seed > 0)
        for seed, n in enumerate((synthetic.TRAIN, synthetic.VALIDATION, synthetic.TEST))
    )
    train, validation, test = (
        LabeledPoints([torch.cat([xyz, own[:, None].to(xyz)], 1) for xyz, own in zip(*pair)]) for pair in made
    )
    return PointCloudSplits(train, test, "synthetic", False, "generated point clouds", validation=validation,
                            classes=list(synthetic.CLASSES))  # fmt: skip


def _tables_of_folder(folder: Path, read: Read) -> dict[str, Table]:
    """The tables of a folder by split: those that it has, or made from the files in it or in train/, val/ and test/."""
    parts = {
        split: next((folder / name for name in names if (folder / name).is_dir()), None)
        for split, names in SPLIT_NAMES.items()
    }
    if parts["train"] is None:
        return validation_as_test(split_tables(folder, read)) or {"train": _files_of(folder)}
    return validation_as_test({split: _files_of(part) for split, part in parts.items() if part is not None})


def _files_of(folder: Path) -> Table:
    files = [file for file in data_files(folder) if file.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(
            f"{folder} has no {NOUN}s: expected files that end with {', '.join(SUFFIXES)}, in the folder or in train/, "
            "val/ and test/, or a table such as train.csv with a column of files"
        )
    return Table({"file": files}, str(folder))


def _from_tables(
    source: Source, s: LabeledPointSettings, processor: PointCloudProcessor | None, seed: int
) -> PointCloudSplits[LabeledPoints]:
    """Read the clouds of tables; without a test table, 10 % of them are held out as test split."""
    column = find_column(source.tables["train"], s.points, "points", COLUMN_NAMES)
    files = {split: listed_files(table, column) for split, table in source.tables.items()}
    if processor is None:
        columns = first_columns(files["train"], tuple(s.features), s.point_label)
        processor = PointCloudProcessor(in_features=max(3, columns - 1), features=tuple(s.features))

    def load(file: Path) -> Tensor:
        values = torch.from_numpy(read(file, processor.features, s.point_label))
        return torch.cat([processor.load(values[:, :-1], str(file)), _checked(values[:, -1:], file)], 1)

    clouds: dict[str, list[Tensor]] = {}
    rows: dict[str, list[int]] = {}
    broken: dict[str, list[str]] = {}
    for split, own in files.items():
        clouds[split], rows[split], broken[split] = read_clouds(load, own, list(range(len(own))), s.on_error)
    names, known = _classes(clouds["train"], s)
    for split, own in files.items():
        for row, cloud in zip(rows[split], clouds[split]):
            _number_classes(cloud, known, own[row][0])
    sets = {split: LabeledPoints(clouds[split], broken[split]) for split in clouds}
    notes = assign_groups(sets, source.tables, rows, s, source.where)
    problem = f"{source.where} has a single point cloud: none is left to hold out for testing; add some"
    sets = with_test(sets, seed, problem)
    return PointCloudSplits(sets["train"], sets["test"], source.name, True, source.where,
                            validation=sets.get("validation"), classes=names, notes=notes)  # fmt: skip


def _checked(labels: Tensor, file: Path) -> Tensor:
    """Labels [N, 1] as they are, -1 for negative ones. Raises ValueError for numbers that are no classes."""
    wrong = labels[(labels != labels.round()) | labels.isinf()]
    if len(wrong):
        raise ValueError(f"{file}: the label {wrong[0].item():g} is not a whole number: point_label= names the classes "
                         f"of the points, of an NPY file the last column has them")  # fmt: skip
    return labels.clamp(min=-1)


def _classes(clouds: Sequence[Tensor], s: LabeledPointSettings) -> tuple[list[str], Tensor]:
    """(names of the classes, the numbers that the files of training have for them, in ascending order)."""
    found = torch.cat([cloud[:, -1] for cloud in clouds]).unique().long()
    found, names = found[found >= 0], read_names(s.class_names)
    if len(found) < 2:
        raise DataError(f"the points of training have {len(found)} different classes, expected at least 2")
    if len(found) > MOST_CLASSES:
        raise DataError(f"the points of training have {len(found):,} different classes: does point_label="
                        f"{s.point_label} name the right property?")  # fmt: skip
    if names is None:
        return [str(n) for n in found.tolist()], found
    if (last := int(found[-1])) >= len(names):
        raise DataError(f"class_names= has {len(names)} names, and the points of training have the class {last}: give "
                        f"a name for each of 0 to {last}")  # fmt: skip
    return names, torch.arange(len(names))


def _number_classes(cloud: Tensor, known: Tensor, file: Path | None) -> None:
    """Number the classes in the last column of a cloud [N, 3 + F + 1] by their place among the known ones, in place."""
    own = cloud[:, -1].long()
    numbers = torch.searchsorted(known, own).clamp(max=len(known) - 1)
    if len(strange := own[(own >= 0) & (known[numbers] != own)]):
        raise DataError(f"{file}: the class {int(strange[0])} is not among those of training "
                        f"({listed([str(n) for n in known.tolist()])})")  # fmt: skip
    cloud[:, -1] = torch.where(own >= 0, numbers, -1).to(cloud.dtype)
