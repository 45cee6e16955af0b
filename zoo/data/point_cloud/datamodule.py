"""Data module of labeled point clouds."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data.datamodule import KeyedDataModule
from zoo.data.point_cloud.augment import PointCloudAugment
from zoo.data.point_cloud.dataset import PointCloudSplits
from zoo.data.point_cloud_config import PointCloudAugmentSettings
from zoo.preprocessing.point_cloud import PointCloudProcessor

DISTANCES, BINS = 16, 32
MOST_POINTS = 256  # of a cloud whose pairs are counted


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

    def __init__(self, splits: PointCloudSplits, preprocess: PointCloudProcessor, batch_size: int = 32, *,
                 augment: PointCloudAugmentSettings | None = None, **options: Any) -> None:  # fmt: skip
        super().__init__(splits, batch_size, **options)
        self.augment = PointCloudAugment(augment or PointCloudAugmentSettings(), preprocess)

    def simple_features(self, stage: str, rows: Tensor) -> Tensor:
        """Statistics that no rotation, shift or size changes, float32 [n, F]; see `distance_statistics`."""
        clouds = self.part(stage).clouds
        return torch.stack([distance_statistics(clouds[i]) for i in rows.tolist()])

    def first_cloud(self) -> Tensor:
        """The first cloud of the test set as it was loaded, float32 [N, 3 + F]."""
        cloud: Tensor = self.splits.test.clouds[0]
        return cloud


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
