"""Synthetic point clouds of objects of several parts: lamps, tables, chairs, mugs and rockets, for segmentation.

The class of a point is the part of the object that it is on. Each object has other proportions, another size and
another place; some of its points are missing, and all have noise. Training clouds are upright; test clouds are rotated,
uniformly over all rotations. The dataset is for learning and testing the library, not for ranking models.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoo.data.rotations import random_rotations
from zoo.data.synthetic.point_clouds import Array, Random, check_sizes, with_missing_part

PARTS = {
    "lamp": ("base", "pole", "shade"), "table": ("top", "leg"), "chair": ("seat", "back", "leg"),
    "mug": ("body", "handle"), "rocket": ("nose", "body", "fin"),
}  # fmt: skip
CLASSES = [f"{name} {part}" for name, parts in PARTS.items() for part in parts]
TRAIN, VALIDATION, TEST = 2000, 250, 500
POINTS = 200  # of a cloud, before a part of it is removed


def make_point_parts(
    n: int,
    *,
    seed: int,
    points: int = POINTS,
    rotated: bool = True,
    noise: float = 0.015,
    missing: float = 0.2,
) -> tuple[list[Tensor], list[Tensor]]:
    """Generate `n` point clouds of objects, equally many of each kind, whose points have the class of their part.

    Args:
        n: Number of clouds.
        seed: Seed; the result is the same for the same arguments.
        points: Number of points on each object, uniform over its surface, before a part of them is removed.
        rotated: Rotate each cloud, uniformly over all rotations. Otherwise objects stand upright, along z.
        noise: Greatest standard deviation of the points, as a fraction of the greatest distance from the center.
        missing: Greatest fraction of the points that is removed: cut off by a plane, or hidden behind a disk.

    Returns: clouds float32 [N, 3], of different N, and for each the classes of its points, int64 [N]: indices of
        `CLASSES`, such as "chair leg".

    Raises: ValueError for fewer than one cloud or 16 points, or a fraction that is not within 0 and 1.
    """
    check_sizes(n, points, noise=noise, missing=missing)
    rng = np.random.default_rng([seed, n, points])
    kinds = rng.permutation(np.arange(n) % len(PARTS))
    rotations = random_rotations(torch.from_numpy(rng.random((n, 3)))).numpy()
    names, clouds, labels = list(PARTS), [], []
    for kind, rotation in zip(kinds.tolist(), rotations):
        cloud = _object(rng, names[kind], points)
        cloud[:, :3] -= cloud[:, :3].mean(0)
        cloud[:, :3] /= np.linalg.norm(cloud[:, :3], axis=1).max()
        cloud = rng.permutation(with_missing_part(rng, cloud, rng.uniform(0, missing)))
        xyz = cloud[:, :3] + rng.standard_normal((len(cloud), 3)) * rng.uniform(0.25, 1) * noise
        xyz = xyz @ rotation.T if rotated else xyz
        xyz = xyz * np.exp(rng.uniform(-1, 1)) + rng.normal(0, 1, 3)
        clouds.append(torch.from_numpy(xyz.astype(np.float32)))
        labels.append(torch.from_numpy(cloud[:, 3].astype(np.int64)))
    return clouds, labels


def _object(rng: Random, name: str, n: int) -> Array:
    """`n` points of an object, uniform over its surface: x, y, z and the class of each, [n, 4]."""
    pieces = OBJECTS[name](rng)
    areas = np.array([piece.area for piece in pieces])
    counts = rng.multinomial(n, areas / areas.sum()).tolist()
    first = CLASSES.index(f"{name} {PARTS[name][0]}")
    made = [
        np.concatenate([piece.sample(rng, count), np.full((count, 1), first + PARTS[name].index(piece.part))], 1)
        for piece, count in zip(pieces, counts)
    ]
    return np.concatenate(made)


# --- pieces of surfaces -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """A surface that belongs to a part; sample(rng, n): points [n, 3], uniform over its area."""

    part: str
    area: float
    sample: Callable[[Random, int], Array]


def _frustum(part: str, low: tuple[float, float], high: tuple[float, float]) -> Piece:
    """The side of a cone without its top about z, between (radius, z) of two circles; a disk if both have one z."""
    (r0, z0), (r1, z1) = low, high

    def sample(rng: Random, n: int) -> Array:
        u, angle = rng.random(n), rng.uniform(0, 2 * np.pi, n)
        radius = np.sqrt(r0 * r0 + u * (r1 * r1 - r0 * r0))  # the area grows with the radius
        t = u if r0 == r1 else (radius - r0) / (r1 - r0)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle), z0 + t * (z1 - z0)], 1)

    return Piece(part, np.pi * (r0 + r1) * float(np.hypot(r1 - r0, z1 - z0)), sample)


def _box(part: str, size: tuple[float, float, float], center: tuple[float, float, float]) -> Piece:
    """The faces of a box along the axes."""
    x, y, z = size
    areas = np.array([y * z, x * z, x * y])

    def sample(rng: Random, n: int) -> Array:
        normal = rng.choice(3, n, p=areas / areas.sum())
        cloud = rng.uniform(-0.5, 0.5, (n, 3))
        cloud[np.arange(n), normal] = rng.choice([-0.5, 0.5], n)
        return cloud * size + center

    return Piece(part, 2 * float(areas.sum()), sample)


def _half_ring(part: str, radius: float, tube: float, x: float, z: float) -> Piece:
    """Half of a torus in the plane of x and z that opens towards -x, about a center (x, 0, z)."""

    def sample(rng: Random, n: int) -> Array:
        around = rng.uniform(0, 2 * np.pi, 8 * n + 8)
        accepted = around[rng.random(len(around)) * (radius + tube) < radius + tube * np.cos(around)][:n]
        along, distance = rng.uniform(-np.pi / 2, np.pi / 2, n), radius + tube * np.cos(accepted)
        return np.stack([x + distance * np.cos(along), tube * np.sin(accepted), z + distance * np.sin(along)], 1)

    return Piece(part, 2 * np.pi**2 * radius * tube, sample)


def _triangle(part: str, corners: Array) -> Piece:
    """A triangle of corners [3, 3]."""
    edges = corners[1:] - corners[0]

    def sample(rng: Random, n: int) -> Array:
        u = rng.random((n, 2))
        return corners[0] + np.where(u.sum(1, keepdims=True) > 1, 1 - u, u) @ edges

    return Piece(part, float(np.linalg.norm(np.cross(*edges))) / 2, sample)


# --- objects, upright along z, with random proportions ----------------------------------------------------------------


def _lamp(rng: Random) -> list[Piece]:
    base, pole, height = rng.uniform(0.4, 0.7), rng.uniform(0.06, 0.1), rng.uniform(1.6, 2.4)
    low, high, length = rng.uniform(0.5, 0.8), rng.uniform(0.2, 0.4), rng.uniform(0.5, 0.8)
    thick = rng.uniform(0.08, 0.16)
    return [
        _frustum("base", (base, 0), (base, thick)), _frustum("base", (0, thick), (base, thick)),
        _frustum("pole", (pole, thick), (pole, height)), _frustum("shade", (low, height - length), (high, height)),
    ]  # fmt: skip


def _legs(part: str, x: float, y: float, width: float, height: float) -> list[Piece]:
    """Four legs below z = 0, at the corners of a rectangle."""
    return [_box(part, (width, width, height), (i * x, j * y, -height / 2)) for i in (-1, 1) for j in (-1, 1)]


def _table(rng: Random) -> list[Piece]:
    x, y, thick = rng.uniform(1.2, 2), rng.uniform(0.8, 1.2), rng.uniform(0.06, 0.12)
    width, inside = rng.uniform(0.1, 0.18), rng.uniform(0.75, 0.95)
    return [
        _box("top", (x, y, thick), (0, 0, thick / 2)),
        *_legs("leg", inside * (x - width) / 2, inside * (y - width) / 2, width, rng.uniform(0.7, 1.1)),
    ]


def _chair(rng: Random) -> list[Piece]:
    x, y, thick = rng.uniform(0.8, 1.1), rng.uniform(0.8, 1.1), rng.uniform(0.06, 0.12)
    width, back = rng.uniform(0.1, 0.16), rng.uniform(0.7, 1.2)
    return [
        _box("seat", (x, y, thick), (0, 0, thick / 2)),
        _box("back", (x, thick, back), (0, (y - thick) / 2, thick + back / 2)),
        *_legs("leg", (x - width) / 2, (y - width) / 2, width, rng.uniform(0.7, 1.1)),
    ]


def _mug(rng: Random) -> list[Piece]:
    radius, height, ring = rng.uniform(0.5, 0.8), rng.uniform(1, 1.8), rng.uniform(0.3, 0.45)
    return [
        _frustum("body", (radius, 0), (radius, height)), _frustum("body", (0, 0), (radius, 0)),
        _half_ring("handle", ring, rng.uniform(0.08, 0.13), radius, height * rng.uniform(0.45, 0.6)),
    ]  # fmt: skip


def _rocket(rng: Random) -> list[Piece]:
    radius, height, nose = rng.uniform(0.3, 0.45), rng.uniform(1.4, 2.2), rng.uniform(0.5, 1)
    out, up, count = rng.uniform(0.4, 0.7), rng.uniform(0.5, 0.9), int(rng.integers(3, 5))
    fins = []
    for angle in 2 * np.pi * np.arange(count) / count:
        across = np.array([np.cos(angle), np.sin(angle), 0])
        corners = np.stack([radius * across, (radius + out) * across, radius * across + [0, 0, up]])
        fins.append(_triangle("fin", corners))
    return [
        _frustum("body", (radius, 0), (radius, height)), _frustum("nose", (radius, height), (0, height + nose)), *fins,
    ]  # fmt: skip


OBJECTS: dict[str, Callable[[Random], list[Piece]]] = {
    "lamp": _lamp, "table": _table, "chair": _chair, "mug": _mug, "rocket": _rocket,
}  # fmt: skip
