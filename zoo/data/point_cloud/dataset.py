"""Labeled point clouds in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from zoo.data.keyed_batches import Keys
from zoo.data.splits import Items, Splits


@dataclass
class PointCloudDataset(Items, Dataset[dict[str, Any]]):
    """Labeled point clouds.

    Batches: `points` [B, N, 3 + F] with the N of the greatest cloud and zeros as padding, `lengths` (a list:
    the number of points without padding), `labels` [B], `index` [B], `epoch`.

    Attributes:
        clouds: float32 [N, 3 + F] each: coordinates and features of the points.
        labels: int64, one for each cloud.
        broken: Messages of skipped files.
    """

    noun: ClassVar[str] = "point clouds"

    clouds: list[Tensor]
    labels: Tensor
    broken: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.clouds)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """One cloud [N, 3 + F], its label and its index."""
        return {"points": self.clouds[i], "labels": self.labels[i], "index": torch.tensor(i)}

    def __getitems__(self, rows: Sequence[int]) -> Any:
        """A collated batch for keyed batch samplers; a list of items for any other data loader."""
        if not isinstance(rows, Keys):
            return [self[i] for i in rows]
        index, clouds = torch.tensor(rows), [self.clouds[i] for i in rows]
        return {
            "points": pad_sequence(clouds, batch_first=True), "lengths": [len(c) for c in clouds],
            "labels": self.labels[index], "index": index, "epoch": rows.epoch,
        }  # fmt: skip

    def take(self, rows: Tensor) -> Self:
        """The clouds of these rows."""
        return replace(self, clouds=[self.clouds[i] for i in rows.tolist()], labels=self.labels[rows])

    def groups(self) -> Tensor:
        """The classes."""
        return self.labels


@dataclass
class PointCloudSplits(Splits[PointCloudDataset]):
    """Splits of a dataset of point clouds."""

    @property
    def features(self) -> int:
        """Number of features of each point beside its coordinates."""
        return self.train.clouds[0].shape[1] - 3
