"""Point clouds in memory, with a label for each cloud or for each of its points."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar

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
        return collated(self.clouds, rows) | {"labels": self.labels[torch.tensor(rows)]}

    def take(self, rows: Tensor) -> Self:
        """The clouds of these rows."""
        return replace(self, clouds=[self.clouds[i] for i in rows.tolist()], labels=self.labels[rows])

    def groups(self) -> Tensor:
        """The classes."""
        return self.labels

    @property
    def features(self) -> int:
        """Number of features of each point beside its coordinates."""
        return self.clouds[0].shape[1] - 3


@dataclass
class LabeledPoints(Items, Dataset[dict[str, Any]]):
    """Point clouds whose points have classes.

    Batches: `points` [B, N, 3 + F + 1], of which the last column is the class, `lengths`, `index` [B], `epoch`; see
    `PointCloudDataset`.

    Attributes:
        clouds: float32 [N, 3 + F + 1] each: coordinates, features, and the class of each point, -1 for one without a
            class. So the classes stay with the points where those are left out or sampled.
        broken: Messages of skipped files.
    """

    noun: ClassVar[str] = "point clouds"

    clouds: list[Tensor]
    broken: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.clouds)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """One cloud [N, 3 + F + 1] and its index."""
        return {"points": self.clouds[i], "index": torch.tensor(i)}

    def __getitems__(self, rows: Sequence[int]) -> Any:
        """A collated batch for keyed batch samplers; a list of items for any other data loader."""
        return collated(self.clouds, rows) if isinstance(rows, Keys) else [self[i] for i in rows]

    def take(self, rows: Tensor) -> Self:
        """The clouds of these rows."""
        return replace(self, clouds=[self.clouds[i] for i in rows.tolist()])

    @property
    def features(self) -> int:
        """Number of features of each point beside its coordinates."""
        return self.clouds[0].shape[1] - 4

    @cached_property
    def places(self) -> Tensor:
        """(number of its cloud, number within it) of each point that has a class, int64 [P, 2]."""
        own = [(cloud[:, -1] >= 0).nonzero() for cloud in self.clouds]
        return torch.cat([torch.cat([torch.full_like(points, i), points], 1) for i, points in enumerate(own)])

    @cached_property
    def labels(self) -> Tensor:
        """The classes of these points, int64 [P]."""
        found = torch.cat([cloud[:, -1] for cloud in self.clouds])
        return found[found >= 0].long()


def collated(clouds: Sequence[Tensor], rows: Keys) -> dict[str, Any]:
    """A batch of some clouds: `points` with zeros as padding, `lengths`, `index` and `epoch`."""
    chosen = [clouds[i] for i in rows]
    return {
        "points": pad_sequence(chosen, batch_first=True), "lengths": [len(cloud) for cloud in chosen],
        "index": torch.tensor(rows), "epoch": rows.epoch,
    }  # fmt: skip


D = TypeVar("D", PointCloudDataset, LabeledPoints)


@dataclass
class PointCloudSplits(Splits[D]):
    """Splits of a dataset of point clouds."""

    @property
    def features(self) -> int:
        """Number of features of each point beside its coordinates."""
        return self.train.features
