"""Synthetic point clouds of ten shapes for classification.

The class is the shape. Each cloud has other proportions, another size and another place; a part of it is missing, all
points have noise, and a few are stray points. Training clouds are upright; test clouds are rotated, uniformly over all
rotations, so that training has to add the rotations (`augment.rotation`). The dataset is for learning and testing the
library, not for ranking models.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from zoo.data.rotations import random_rotations

Array = np.ndarray
Random = np.random.Generator
Surface = Callable[[Random, int], Array]

CLASSES = ["sphere", "ellipsoid", "box", "cylinder", "cone", "torus", "pyramid", "helix", "plate", "saddle"]
TRAIN, VALIDATION, TEST = 4000, 500, 1000
POINTS = 160  # of a cloud, before a part of it is removed
CANDIDATES = 4  # points from which one of the surface is sampled, for each


def make_point_clouds(
    n: int,
    *,
    seed: int,
    points: int = POINTS,
    rotated: bool = True,
    noise: float = 0.015,
    missing: float = 0.2,
    outliers: float = 0.03,
) -> tuple[list[Tensor], Tensor]:
    """Generate `n` point clouds with balanced, shuffled classes.

    Args:
        n: Number of clouds.
        seed: Seed; the result is the same for the same arguments.
        points: Number of points on each surface, before a part is removed and stray points are added.
        rotated: Rotate each cloud, uniformly over all rotations. Otherwise the axis of the shape is z.
        noise: Greatest standard deviation of the points, as a fraction of the greatest distance from the center.
        missing: Greatest fraction of the points that is removed: cut off by a plane, or hidden behind a disk.
        outliers: Greatest number of stray points, as a fraction of `points`.

    Returns: clouds float32 [N, 3], of different N, and labels int64 [n].

    Raises: ValueError for fewer than one cloud or 16 points, or a fraction that is not within 0 and 1.
    """
    check_sizes(n, points, noise=noise, missing=missing, outliers=outliers)
    rng = np.random.default_rng([seed, n, points])
    labels = rng.permutation(np.arange(n) % len(CLASSES))
    rotations = random_rotations(torch.from_numpy(rng.random((n, 3)))).numpy()
    clouds = []
    for i, label in enumerate(labels.tolist()):
        cloud = SURFACES[CLASSES[label]](rng, points)
        cloud -= cloud.mean(0)
        cloud /= np.linalg.norm(cloud, axis=1).max()
        cloud = with_missing_part(rng, cloud, rng.uniform(0, missing))
        cloud = cloud + rng.standard_normal(cloud.shape) * rng.uniform(0.25, 1) * noise
        stray = on_sphere(rng, round(rng.uniform(0, outliers) * points)) * 1.2
        cloud = np.concatenate([cloud, stray * rng.random((len(stray), 1)) ** (1 / 3)])
        cloud = rng.permutation(cloud) @ rotations[i].T if rotated else rng.permutation(cloud)
        cloud = cloud * np.exp(rng.uniform(-1, 1)) + rng.normal(0, 1, 3)
        clouds.append(torch.from_numpy(cloud.astype(np.float32)))
    return clouds, torch.from_numpy(labels.astype(np.int64))


def check_sizes(n: int, points: int, **fractions: float) -> None:
    """Raise ValueError for fewer than one cloud or 16 points, or a fraction that is not within 0 and 1."""
    if n < 1 or points < 16:
        raise ValueError(f"n={n}, points={points}: expected at least one cloud of at least 16 points")
    for name, value in fractions.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value}: expected a fraction of at least 0 and less than 1")


# --- missing parts of clouds [N, 3 + F], whose further columns stay with the points -----------------------------------


def with_missing_part(rng: Random, cloud: Array, fraction: float) -> Array:
    """The cloud with this fraction of its points removed, in one of two ways."""
    direction = on_sphere(rng, 1)[0]
    if rng.random() < 0.5:
        return cut_off(cloud, direction, fraction)
    return hidden_by_disk(cloud, direction, cloud[rng.integers(len(cloud)), :3], fraction)


def cut_off(cloud: Array, direction: Array, fraction: float) -> Array:
    """The points [N', 3 + F] on one side of a plane, without the fraction that is farthest in a direction [3]."""
    return _without_last(cloud, cloud[:, :3] @ direction, fraction)


def hidden_by_disk(cloud: Array, direction: Array, center: Array, fraction: float) -> Array:
    """The points [N', 3 + F] that a disk between the cloud and a far viewer does not hide.

    direction: unit vector [3] to the viewer. center: a point [3] behind the middle of the disk, which is as large as it
    has to be to hide this fraction of the points.
    """
    offset = cloud[:, :3] - center
    across = offset - (offset @ direction)[:, None] * direction
    return _without_last(cloud, -np.linalg.norm(across, axis=1), fraction)


def _without_last(cloud: Array, values: Array, fraction: float) -> Array:
    """The points without the fraction that has the greatest values [N]."""
    kept = np.argsort(values, kind="stable")[: len(cloud) - round(fraction * len(cloud))]
    return cloud[np.sort(kept)]


# --- surfaces: points [n, 3], uniform over the area, of a shape with random proportions -------------------------------


def on_sphere(rng: Random, n: int) -> Array:
    """Unit vectors [n, 3] in all directions."""
    found = rng.standard_normal((n, 3))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _by_area(rng: Random, candidates: Array, area: Array, n: int) -> Array:
    """`n` of the points with probabilities proportional to the area [N] that each stands for."""
    return candidates[rng.choice(len(candidates), n, replace=False, p=area / area.sum())]


def _pieces(rng: Random, n: int, areas: Sequence[float]) -> list[int]:
    """How many of `n` points each piece of a surface gets."""
    weights = np.asarray(areas, float)
    return rng.multinomial(n, weights / weights.sum()).tolist()


def _disk(rng: Random, n: int, height: float) -> Array:
    angle, radius = rng.uniform(0, 2 * np.pi, n), np.sqrt(rng.random(n))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(n, height)], 1)


def _triangle(rng: Random, n: int, corners: Array) -> Array:
    """Points of a triangle; corners [3, 3]."""
    u = rng.random((n, 2))
    u = np.where(u.sum(1, keepdims=True) > 1, 1 - u, u)
    return corners[0] + u @ (corners[1:] - corners[0])


def _ellipsoid(rng: Random, n: int) -> Array:
    shortest = rng.uniform(0.3, 0.5)
    axes = np.array([1, rng.uniform(shortest, 1), shortest])
    directions = on_sphere(rng, CANDIDATES * n)
    return _by_area(rng, directions * axes, np.linalg.norm(directions / axes, axis=1), n)


def _box(rng: Random, n: int) -> Array:
    size = np.array([1, *rng.uniform(0.4, 1, 2)])
    normal = rng.choice(3, n, p=(1 / size) / (1 / size).sum())  # the area of a face is volume / size along its normal
    cloud = rng.uniform(-1, 1, (n, 3))
    cloud[np.arange(n), normal] = rng.choice([-1, 1], n)
    return cloud * size


def _cylinder(rng: Random, n: int) -> Array:
    """A tube that is open at both ends."""
    angle, height = rng.uniform(0, 2 * np.pi, n), rng.uniform(1, 3.5)
    return np.stack([np.cos(angle), np.sin(angle), rng.uniform(0, height, n)], 1)


def _cone(rng: Random, n: int) -> Array:
    """A cone without a base."""
    cloud = _disk(rng, n, 0)
    cloud[:, 2] = rng.uniform(1, 2.5) * (1 - np.linalg.norm(cloud, axis=1))
    return cloud


def _torus(rng: Random, n: int) -> Array:
    tube = rng.uniform(0.2, 0.45)
    angle, around = rng.uniform(0, 2 * np.pi, (2, CANDIDATES * n))
    radius = 1 + tube * np.cos(around)
    cloud = np.stack([radius * np.cos(angle), radius * np.sin(angle), tube * np.sin(around)], 1)
    return _by_area(rng, cloud, radius, n)


def _pyramid(rng: Random, n: int) -> Array:
    height = rng.uniform(1.2, 2.6)
    base = np.array([[1, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]], float)
    top = np.array([0, 0, height])
    bottom, *sides = _pieces(rng, n, [4, *[np.hypot(1, height)] * 4])
    faces = [_triangle(rng, count, np.stack([top, base[i], base[i - 1]])) for i, count in enumerate(sides)]
    return np.concatenate([rng.uniform(-1, 1, (bottom, 3)) * [1, 1, 0], *faces])


def _helix(rng: Random, n: int) -> Array:
    """A wire that winds around the z axis to the left or right."""
    turns, height = rng.uniform(2, 4), rng.uniform(1.5, 3.5)
    position = rng.random(n)
    angle = 2 * np.pi * turns * position * rng.choice([-1, 1])
    return np.stack([np.cos(angle), np.sin(angle), height * position], 1) + on_sphere(rng, n) * 0.06


def _plate(rng: Random, n: int) -> Array:
    """A thin rectangle with a round hole."""
    width = rng.uniform(0.6, 1)
    hole, middle = rng.uniform(0.4, 0.7) * width, rng.uniform(-0.2, 0.2, 2)
    cloud = rng.uniform(-1, 1, (2 * CANDIDATES * n, 3)) * [1, width, 0]
    outside = np.hypot(*(cloud[:, :2] - middle * width).T) > hole
    return cloud[outside][:n]


def _saddle(rng: Random, n: int) -> Array:
    """A hyperbolic paraboloid above a disk."""
    bend = rng.uniform(0.4, 0.8)
    cloud = _disk(rng, CANDIDATES * n, 0)
    x, y = cloud[:, 0], cloud[:, 1]
    cloud[:, 2] = bend * (x * x - y * y)
    return _by_area(rng, cloud, np.sqrt(1 + 4 * bend * bend * (x * x + y * y)), n)


SURFACES: dict[str, Surface] = dict(
    zip(CLASSES, [on_sphere, _ellipsoid, _box, _cylinder, _cone, _torus, _pyramid, _helix, _plate, _saddle],
        strict=True)
)  # fmt: skip
