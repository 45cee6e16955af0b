"""Options of the recipes for point clouds. Torch-free, because `--help` reads this file."""

from dataclasses import dataclass, field

from zoo.data.point_cloud_config import LabeledPointSettings, PointCloudDataSettings
from zoo.tasks.config import WeightedClassificationSettings
from zoo.training.config import RunSettings


@dataclass(frozen=True, kw_only=True)
class PointCloudSettings(RunSettings):
    """Settings of the classification of point clouds."""

    data: PointCloudDataSettings = field(default_factory=PointCloudDataSettings)
    task: WeightedClassificationSettings = field(default_factory=WeightedClassificationSettings)


@dataclass(frozen=True, kw_only=True)
class PointSegmentationSettings(RunSettings):
    """Settings of the segmentation of point clouds."""

    data: LabeledPointSettings = field(default_factory=LabeledPointSettings)
    task: WeightedClassificationSettings = field(default_factory=WeightedClassificationSettings)
