"""Data options of point clouds. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass, field
from typing import Literal

from zoo.data.base_config import GroupSettings, LabelSettings

SYNTHETIC = ("auto", "synthetic", "synthetic_point_clouds")  # names of the generated shapes
SYNTHETIC_PARTS = ("auto", "synthetic", "synthetic_point_parts")  # of the generated objects of several parts


@dataclass(frozen=True, kw_only=True)
class PointCloudAugmentSettings:
    """Augmentation of training point clouds, sampled independently for each cloud.

    Attributes:
        rotation: Random rotations: `none`, `z` (about the upright axis) or `so3` (uniform over all rotations).
        jitter: Standard deviation of noise on the coordinates, as a fraction of the greatest distance from the center.
        scale: Greatest change of the size along each of the x, y and z axes before the rotation, as a fraction. It
            changes proportions; the size as a whole has no effect on what the model sees.
        drop: Greatest fraction of the points that is left out.
    """

    rotation: Literal["none", "z", "so3"] = "so3"
    jitter: float = 0.01
    scale: float = 0.0
    drop: float = 0.2

    def __post_init__(self) -> None:
        if self.rotation not in ("none", "z", "so3"):
            raise ValueError(f"rotation={self.rotation!r}: expected 'none', 'z' or 'so3'")
        if self.jitter < 0:
            raise ValueError(f"jitter={self.jitter}: expected a standard deviation of at least 0")
        for name in ("scale", "drop"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a fraction of at least 0 and less than 1")


@dataclass(frozen=True, kw_only=True)
class PointSettings(GroupSettings):
    """Options of all point clouds.

    Attributes:
        points: Column of the files in a table.
        features: What the model sees of each point beside x, y and z: names of properties of PLY files or of arrays of
            NPZ files, e.g. `[red, green, blue]`. NPY files have it in their further columns. Rotations leave it as it
            is, so that normals need `augment.rotation=none`. Default: that of `model.source`, or nothing.
        num_points: Most points of a cloud; of larger ones this many are sampled, far from each other. Default: that of
            `model.source`, or no limit.
        augment: Augmentation of the training clouds.
    """

    points: str = ""
    features: list[str] = field(default_factory=list)
    num_points: int | None = None
    augment: PointCloudAugmentSettings = field(default_factory=PointCloudAugmentSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_points is not None:
            self._at_least(1, "num_points")
        if self.features and (self.name == "auto" or self.name.startswith("synthetic")):
            raise ValueError(f"features={self.features}: synthetic points have coordinates alone; omit it")


@dataclass(frozen=True, kw_only=True)
class PointCloudDataSettings(PointSettings, LabelSettings):
    """Labeled point clouds for classification.

    Attributes:
        name: Dataset: `synthetic` (ten generated shapes; also `auto`), a folder with one sub-folder of .ply, .npy,
            .npz, .xyz, .pts or .off files per class (directly, or inside `train/`, `val/` and `test/`), or a table
            (.csv .tsv .jsonl .json .parquet) with a column of such files.
        data_dir: Folder of the files of a dataset with a card; there is none for point clouds.
        label: Column of the labels in a table.
    """

    label: str = ""


@dataclass(frozen=True, kw_only=True)
class LabeledPointSettings(PointSettings):
    """Point clouds whose points have classes, for segmentation.

    Attributes:
        name: Dataset: `synthetic` (generated objects of several parts; also `auto`), a folder of .ply, .npy or .npz
            files (directly, or inside `train/`, `val/` and `test/`), or a table (.csv .tsv .jsonl .json .parquet) with
            a column of such files.
        data_dir: Folder of the files of a dataset with a card; there is none for point clouds.
        point_label: Property of PLY files, or array [N] of NPZ files, with the class of each point, a whole number; a
            negative one stands for a point without a class. NPY files have it in their last column.
        class_names: Names of the classes 0, 1, ...: a list, or a file with a name a line. The saved model predicts
            them. Default: the numbers.
    """

    point_label: str = "label"
    class_names: list[str] | str = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.point_label in ("", *self.features, "x", "y", "z", "points"):
            raise ValueError(f"point_label={self.point_label!r}: expected the name of a property or array of classes, "
                             f"which is none of the features")  # fmt: skip
        if self.class_names and (self.name == "auto" or self.name.startswith("synthetic")):
            raise ValueError("class_names= is for your own data: the classes of synthetic data have names; omit it")
