"""Point clouds: read, centered, scaled, sampled, padded."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from zoo.nn.graphs.neighbors import farthest_points
from zoo.preprocessing import point_cloud_io
from zoo.preprocessing.file_bytes import read_bytes
from zoo.preprocessing.processor import Processor
from zoo.utils.errors import check_choice
from zoo.utils.type_checks import check_types

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    PointCloudInput = str | Path | Tensor | np.ndarray

SHOWN = 800  # points of an image
MAX_FEATURES = 64


@dataclass(frozen=True, kw_only=True)
class PointCloudProcessor(Processor):
    """Point clouds -> {"points": float32 [B, N, F][, "attention_mask": int64 [B, N]]}; no mask if sizes are equal.

    A cloud is a path (PLY, NPY, NPZ, XYZ, PTS, OFF), numbers [N, F]: x, y, z and features of each point, or a `Data` of
    torch_geometric with these as its pos and x. A list of clouds, or a
    tensor [B, N, F], is a batch; one cloud is a batch of one. Clouds of different sizes are padded with zeros. A cloud
    needs one point at least; that of one point, or of points at one place, is moved to the origin and not scaled.

    in_features: F, numbers of a point. features: what to read from files beside x, y, z, see `point_cloud_io.read`.
    center: whether to subtract the mean of the points. scale: whether to divide the coordinates by the greatest
        distance from the origin, so that the cloud is in the unit sphere.
    num_points: the most points of a cloud; of larger ones this many are sampled. None: no limit.
    sampling: "farthest", farthest point sampling, which does not depend on the order of the points; or "random", by a
        fixed seed.
    """

    kind: ClassVar[str] = "point_cloud"
    in_features: int = 3
    features: tuple[str, ...] = ()
    center: bool = True
    scale: bool = True
    num_points: int | None = None
    sampling: Literal["farthest", "random"] = "farthest"

    def __post_init__(self) -> None:
        if not isinstance(self.features, str):
            object.__setattr__(self, "features", tuple(self.features))
        check_choice("sampling", self.sampling, ("farthest", "random"))
        check_types(self)
        if self.in_features < 3:
            raise ValueError(f"in_features={self.in_features}: expected at least 3, the coordinates of a point")
        if self.num_points is not None and self.num_points < 1:
            raise ValueError(f"num_points={self.num_points}: expected at least 1, or None for no limit")

    def __call__(
        self, points: "PointCloudInput | Sequence[PointCloudInput]", *, num_points: int | None = None
    ) -> dict[str, Tensor]:
        """points: one cloud or several. num_points: instead of that of the class.

        Raises ValueError, or LoadError for files, naming the cloud that is empty, has the wrong shape or values that
        are not finite, or cannot be read.
        """
        if num_points is not None:
            return replace(self, num_points=num_points)(points)
        is_batch = getattr(points, "ndim", 0) == 3 or (
            isinstance(points, Sequence) and not isinstance(points, str | bytes)
        )
        given: Any = points
        items: list[Any] = list(given) if is_batch else [given]
        if not items:
            raise ValueError("the list of point clouds is empty: expected at least one cloud")
        names = [f"point cloud {index}" if is_batch else "the point cloud" for index in range(len(items))]
        clouds = [self.prepare(self.load(item, name)) for item, name in zip(items, names)]
        sizes = torch.tensor([len(cloud) for cloud in clouds])
        batch = torch.zeros(len(clouds), int(sizes.max()), self.in_features)
        for row, cloud in zip(batch, clouds):
            row[: len(cloud)] = cloud
        if bool((sizes == batch.shape[1]).all()):
            return {"points": batch}
        return {"points": batch, "attention_mask": (torch.arange(batch.shape[1]) < sizes[:, None]).long()}

    def load(self, item: "PointCloudInput", name: str = "the point cloud") -> Tensor:
        """One cloud as it is, float32 [N, F], checked. name: of an array in messages."""
        name = str(item) if isinstance(item, str | Path) else name
        values: Any = point_cloud_io.read(item, self.features) if isinstance(item, str | Path) else item
        if isinstance(values, bytes):
            values = read_bytes(values, lambda path: point_cloud_io.read(path, self.features), name, ".xyz")
        if hasattr(values, "pos") and hasattr(values, "edge_index"):
            values = self._of_torch_geometric(values, name)
        if not isinstance(values, Tensor):
            values = torch.from_numpy(point_cloud_io.as_points(values, name))
        if values.ndim != 2 or values.shape[1] != self.in_features or values.is_complex():
            expected = f"expected [N, {self.in_features}]: {self._columns(values)}"
            raise ValueError(f"{name} is {list(values.shape)}, {expected}")
        if not len(values):
            raise ValueError(f"{name} has no points: expected at least one")
        values = values.detach().float()
        if bad := int((~values.isfinite()).any(1).sum()):
            raise ValueError(f"{name} has NaN or infinite numbers in {bad} of {len(values)} points: remove them")
        return values

    def _of_torch_geometric(self, data: Any, name: str) -> Tensor:
        """The cloud of a `torch_geometric.data.Data`: its pos, and its x where the model takes features."""
        if data.pos is None:
            raise ValueError(f"{name} has no pos: expected the places of its points, [N, 3]")
        if self.in_features == 3:
            return torch.as_tensor(data.pos)
        if data.x is None:
            raise ValueError(f"{name} has no x: expected the {self.in_features - 3} features of each point beside pos")
        return torch.cat([torch.as_tensor(data.pos), torch.as_tensor(data.x).reshape(len(data.pos), -1)], 1)

    def _columns(self, values: Tensor) -> str:
        if values.ndim == 2 and len(values) == self.in_features < values.shape[1]:
            return "a row for each point; transpose it"
        if values.ndim == 2 and values.shape[1] > self.in_features:
            return f"keep the columns that the model takes, points[:, :{self.in_features}]"
        return "x, y, z and the features of each point" if self.in_features > 3 else "x, y, z of each point"

    def prepare(self, cloud: Tensor) -> Tensor:
        """[N, F] -> [n, F]: centered, scaled and sampled; features stay as they are."""
        places = cloud[:, :3]
        if self.center:
            places = places - places.mean(0)
        if self.scale and (radius := places.norm(dim=1).max()) > 0:
            places = places / radius
        cloud = torch.cat([places, cloud[:, 3:]], 1)
        if self.num_points is None or len(cloud) <= self.num_points:
            return cloud
        if self.sampling == "farthest":
            return cloud[farthest_points(places[None], self.num_points)[0]]
        generator = torch.Generator().manual_seed(0)
        return cloud[torch.randperm(len(cloud), generator=generator)[: self.num_points].sort().values]

    def fitted_to(self, config: Any) -> Self:
        """A copy with the number of features of a model."""
        columns = int(getattr(config, "in_features", self.in_features))
        return self if columns == self.in_features else replace(self, in_features=columns)

    def check(self, config: Any) -> None:
        """Raises ValueError if the clouds have other features than those of a model with this config."""
        if (columns := getattr(config, "in_features", self.in_features)) != self.in_features:
            raise ValueError(
                f"preprocess has in_features={self.in_features}, but the model {columns}: they must be equal"
            )


# --- one cloud for a reader -------------------------------------------------------------------------------------------


def is_cloud(item: Any) -> bool:
    """Whether an object in memory is a cloud: numbers of a float type [N, F] with F from 3 to 64."""
    shape: Any = getattr(item, "shape", ())
    floats = "float" in str(getattr(item, "dtype", ""))
    return floats and len(shape) == 2 and 3 <= shape[1] <= MAX_FEATURES


def load_cloud(path: str | Path) -> np.ndarray:
    """The points of a file, float32 [N, 3] or, of NPY and NPZ files, [N, F]."""
    return point_cloud_io.read(path)


def projection(item: Any) -> np.ndarray:
    """At most 800 points of a cloud seen from above and aside: [n, 3] of x to the right, y up, and depth to the viewer.

    All of them within -1 .. 1.
    """
    points = np.asarray(load_cloud(item) if isinstance(item, str | Path) else item, dtype=np.float32)[:, :3]
    points = points[np.linspace(0, len(points) - 1, min(len(points), SHOWN)).round().astype(int)]
    points = points - (points.max(0) + points.min(0)) / 2
    turn, tilt = np.radians(35.0), np.radians(20.0)
    right = np.array([np.cos(turn), np.sin(turn), 0.0])
    near = np.array([np.sin(turn) * np.cos(tilt), -np.cos(turn) * np.cos(tilt), np.sin(tilt)])
    seen = points @ np.stack([right, np.cross(near, right), near], 1).astype(np.float32)
    seen = seen / max(float(np.abs(seen).max()), 1e-12)
    order: np.ndarray = seen[seen[:, 2].argsort()]  # the nearest last, over the others
    return order


def cloud_html(item: Any, alt: str) -> str:
    """An SVG of a projection; nearer points are larger and darker."""
    dots = "".join(
        f'<circle cx="{100 + 90 * x:.1f}" cy="{100 - 90 * y:.1f}" r="{1.6 + 0.8 * z:.1f}" '
        f'fill="hsl(215 60% {55 - 25 * z:.0f}%)"/>'
        for x, y, z in projection(item).tolist()
    )
    label = html.escape(alt, quote=True)
    return f'<svg role="img" aria-label="{label}" viewBox="0 0 200 200" width="200" height="200">{dots}</svg>'


def plot_cloud(axes: "Axes", item: Any) -> None:
    """Plot a projection of the cloud; nearer points are larger and darker."""
    x, y, depth = projection(item).T
    axes.scatter(x, y, s=4 + 3 * depth, c=depth, cmap="Blues", vmin=-2, vmax=1, linewidths=0)
    axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal")
    axes.set_axis_off()
