"""Data modules of labeled point clouds, and of point clouds with labeled points."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.data.datamodule import KeyedDataModule
from zoo.data.point_cloud.augment import LabeledPointsAugment, PointCloudAugment
from zoo.data.point_cloud.dataset import PointCloudSplits
from zoo.data.point_cloud_config import PointCloudAugmentSettings
from zoo.preprocessing.point_cloud import PointCloudProcessor

DISTANCES, BINS = 16, 32
MOST_POINTS = 256  # of a cloud whose pairs are counted
NEAREST = (8, 16, 32)  # points of a neighborhood


class PointCloudDataModule(KeyedDataModule):
    """Data module of labeled point clouds; see `PointCloudDataset` for its batches.

    Args:
        splits: Dataset splits from `load_point_clouds`.
        preprocess: Processor of the model, `model.preprocess`.
        batch_size: Clouds per optimizer step, summed over all devices and accumulation steps.
        augment: Augmentation of the training clouds.
        options: Options of `KeyedDataModule`.

    Attributes:
        augment: Turns a raw batch into a batch of the model; the task applies it, `data.augment(batch, seed=..., ...)`.
    """

    features = "histograms of distances"
    augmentation: ClassVar[type[PointCloudAugment]] = PointCloudAugment

    def __init__(self, splits: PointCloudSplits[Any], preprocess: PointCloudProcessor, batch_size: int = 32, *,
                 augment: PointCloudAugmentSettings | None = None, **options: Any) -> None:  # fmt: skip
        super().__init__(splits, batch_size, **options)
        self.augment = self.augmentation(augment or PointCloudAugmentSettings(), preprocess)

    def simple_features(self, stage: str, rows: Tensor) -> Tensor:
        """Statistics that no rotation, shift or size changes, float32 [n, F]; see `distance_statistics`."""
        clouds = self.part(stage).clouds
        return torch.stack([distance_statistics(clouds[i]) for i in rows.tolist()])

    def first_cloud(self) -> Tensor:
        """The first cloud of the test set as it was loaded, float32 [N, 3 + F]."""
        cloud: Tensor = self.splits.test.clouds[0]
        return cloud


class LabeledPointsDataModule(PointCloudDataModule):
    """Data module of point clouds whose points have classes; see `LabeledPoints` for its batches."""

    features = "shapes of neighborhoods, histograms of distances"
    augmentation = LabeledPointsAugment

    def simple_features(self, stage: str, rows: Tensor) -> Tensor:
        """Statistics of points that no rotation, shift or size changes, float32 [n, F]: `neighborhood_statistics` of
        each, and `distance_statistics` of its cloud. rows: of the points that have a class, in ascending order."""
        part = self.part(stage)
        owners, counts = part.places[rows, 0].unique_consecutive(return_counts=True)
        points = part.places[rows, 1].split(counts.tolist())
        found = []
        for owner, own in zip(owners.tolist(), points):
            cloud = part.clouds[owner]
            whole = distance_statistics(cloud).expand(len(own), -1)
            found.append(torch.cat([neighborhood_statistics(cloud, own), whole], 1))
        return torch.cat(found)

    def first_cloud(self) -> Tensor:
        """The first cloud of the test set as it was loaded, without classes, float32 [N, 3 + F]."""
        return super().first_cloud()[:, :-1]


def neighborhood_statistics(cloud: Tensor, points: Tensor) -> Tensor:
    """What the 8, 16 and 32 nearest points of some points are like: a line, a surface, an edge or none of them.

    Of each neighborhood the standard deviations along its principal axes (Weinmann et al. 2015) and the distance of its
    mean from the point; beside them the distance of the point from the center of the cloud; all relative to the
    greatest distance from the center. cloud: [N, 3 + F], points: int64 [n] -> float32 [n, 13].
    """
    xyz = cloud[:, :3] - cloud[:, :3].mean(0)
    radius = xyz.norm(dim=1)
    xyz = xyz / radius.max().clamp(min=torch.finfo(xyz.dtype).tiny)
    nearest = torch.cdist(xyz[points], xyz).topk(min(NEAREST[-1], len(xyz)), largest=False).indices
    found = [xyz[points].norm(dim=1, keepdim=True)]
    for count in NEAREST:
        own = xyz[nearest[:, :count]]  # n K 3
        mean = own.mean(1, keepdim=True)
        covariance = (own - mean).mT @ (own - mean) / own.shape[1]
        found += [
            torch.linalg.eigvalsh(covariance).clamp(min=0).sqrt(),
            (mean[:, 0] - xyz[points]).norm(dim=1)[:, None],
        ]
    return torch.cat(found, 1)


def distance_statistics(cloud: Tensor) -> Tensor:
    """Quantiles of the distances from the center, and the fractions of all pairs of points in 32 bins of distances.

    Both are relative to the greatest distance from the center. cloud: [N, 3 + F] -> float32 [48].
    """
    # Of numpy, and distances from products: thousands of small clouds cost a fifth of the CPU time of torch.pdist.
    xyz = cloud[:, :3].numpy()
    xyz = xyz - xyz.mean(0)
    distances = np.sort(np.linalg.norm(xyz, axis=1))
    size = max(float(distances[-1]), float(np.finfo(np.float32).tiny))
    some = xyz[np.linspace(0, len(xyz) - 1, min(len(xyz), MOST_POINTS)).astype(int)] / np.float32(size)
    squares = (some * some).sum(1)
    between = np.sqrt(np.maximum(squares[:, None] + squares - 2 * (some @ some.T), 0)) * (BINS / 2)
    np.fill_diagonal(between, 0)
    counts = np.bincount(np.minimum(between, BINS - 1).astype(np.int32).ravel(), minlength=BINS)
    counts[0] -= len(some)  # of points with themselves
    quantiles = np.interp(np.linspace(0, len(xyz) - 1, DISTANCES), np.arange(len(xyz)), distances / size)
    statistics = np.concatenate([quantiles, counts / max(len(some) * (len(some) - 1), 1)])
    return torch.from_numpy(statistics.astype(np.float32))
