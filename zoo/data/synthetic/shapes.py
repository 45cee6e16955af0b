"""Synthetic images of ten shapes for classification.

The class is the shape. Colors, position, size, tilt, shading, grain and stray dots are sampled independently of it. In
most images, but not in all, the shape is lighter than the background: a small model learns the shapes in a minute or
two, while a linear model on pixels stays below 60 %. The dataset is for learning and testing the library, not for
ranking models.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray
Distance = Callable[[Array, Array], Array]

CLASSES = ["disc", "ring", "square", "frame", "triangle", "plus", "cross", "bars", "pillars", "dots"]
SIZE = 32
TRAIN, TEST = 8000, 2000
DARK_SHAPES = 0.15  # fraction of images with a shape darker than the background; at 0 a linear model reaches 69 %


def _bars(u: Array, v: Array) -> Array:
    """Three horizontal bars: distance to the nearest one, clipped at the sides."""
    return np.maximum(np.abs(u) - 0.9, np.abs(v - 0.66 * np.clip(np.round(v / 0.66), -1, 1)) - 0.19)


def _plus(u: Array, v: Array) -> Array:
    u, v = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(u - 0.95, v - 0.27), np.maximum(v - 0.95, u - 0.27))


# Signed distances (negative inside) in units of the shape's radius; u points right, v down. Each shape is
# mirror-symmetric, so that a random flip keeps the label.
_DISTANCES: list[Distance] = [
    lambda u, v: np.hypot(u, v) - 0.9,
    lambda u, v: np.abs(np.hypot(u, v) - 0.74) - 0.2,
    lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.78,
    lambda u, v: np.abs(np.maximum(np.abs(u), np.abs(v)) - 0.68) - 0.19,
    lambda u, v: np.maximum(v - 0.55, 0.87 * np.abs(u) - 0.5 * v - 0.52),
    _plus,
    lambda u, v: _plus((u + v) * 0.7071, (u - v) * 0.7071),
    _bars,
    lambda u, v: _bars(v, u),
    lambda u, v: np.hypot(np.abs(u) - 0.56, np.abs(v) - 0.56) - 0.34,
]
DISTANCES = dict(zip(CLASSES, _DISTANCES, strict=True))


def make_images(n: int, *, seed: int, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Generate `n` images with balanced, shuffled classes.

    Returns:
        images uint8 [n, 3, size, size] and labels int64 [n], the same for the same arguments.
    """
    if n < 1 or size < 16:
        raise ValueError(f"n={n}, size={size}: expected at least one image of at least 16 x 16 pixels")
    rng = np.random.default_rng([seed, n, size])
    labels = rng.permutation(np.arange(n) % len(CLASSES))
    shape = _shapes(rng, labels, size)[:, None]
    background, foreground = _colors(rng, n)
    image = background[..., None, None] * _shading(rng, n, size)
    dot = _stray_dots(rng, n, size)[:, None]
    image += dot * (rng.random((n, 3, 1, 1), dtype=np.float32) - image)
    image += shape * (foreground[..., None, None] - image)
    grain = rng.uniform(0.01, 0.04, (n, 1, 1, 1)).astype(np.float32)
    image += rng.standard_normal(image.shape, dtype=np.float32) * grain
    pixels = np.clip(image * 255.0 + 0.5, 0, 255).astype(np.uint8)
    return torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64))


def _grid(size: int) -> tuple[Array, Array]:
    """x and y of the pixel centers, [size, size] each."""
    line = np.arange(size, dtype=np.float32) + 0.5
    return np.broadcast_to(line, (size, size)), np.broadcast_to(line[:, None], (size, size))


def _shapes(rng: np.random.Generator, labels: Array, size: int) -> Array:
    """Coverage of each pixel by the shape of the label, float32 [n, size, size], from 0 to 1."""
    n = len(labels)
    radius = rng.uniform(0.27, 0.42, n) * size
    room = size - 2 * radius
    left, top = rng.uniform(0, 1, (2, n)) * room + radius
    tilt = rng.uniform(-0.2, 0.2, n)
    return coverage(_DISTANCES, labels, np.stack([left, top], 1), radius, tilt, size)


def coverage(forms: Sequence[Distance], labels: Array, centers: Array, radius: Array, tilt: Array, size: int) -> Array:
    """Coverage of each pixel by one shape per image, float32 [n, size, size], from 0 to 1.

    Args:
        forms: Signed distances of the shapes; `labels` [n] are indices of them.
        labels: Shape of each image.
        centers, radius: Centers [n, (x, y)] and radii [n] in pixels.
        tilt: Rotation in radians, [n].
        size: Height and width of the image in pixels.
    """
    x, y = _grid(size)
    found = np.empty((len(labels), size, size), np.float32)
    for number, distance in enumerate(forms):
        rows = np.flatnonzero(labels == number)
        cx, cy, r, c, s = (
            a[rows, None, None].astype(np.float32)
            for a in (centers[:, 0], centers[:, 1], radius, np.cos(tilt), np.sin(tilt))
        )
        u, v = (x - cx) / r, (y - cy) / r
        found[rows] = np.clip(0.5 - r * distance(c * u + s * v, c * v - s * u), 0, 1)
    return found


def _colors(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Background and foreground colors, float32 [n, 3] each, with enough contrast."""
    dark = rng.uniform(0.0, 0.5, (n, 3))
    step = np.abs(rng.standard_normal((n, 3)))
    step *= rng.uniform(0.5, 0.85, (n, 1)) / np.linalg.norm(step, axis=1, keepdims=True)
    light = np.clip(dark + step, 0, 1)
    swapped = rng.random((n, 1)) < DARK_SHAPES
    background, foreground = np.where(swapped, light, dark), np.where(swapped, dark, light)
    return background.astype(np.float32), foreground.astype(np.float32)


def _shading(rng: np.random.Generator, n: int, size: int) -> Array:
    """A linear gradient in a random direction, float32 [n, 1, size, size] around 1."""
    x, y = _grid(size)
    slope = rng.uniform(-0.35, 0.35, (2, n, 1, 1, 1)).astype(np.float32)
    return 1 + slope[0] * (x / size - 0.5) + slope[1] * (y / size - 0.5)


def _stray_dots(rng: np.random.Generator, n: int, size: int) -> Array:
    """Coverage by two small distractor dots, float32 [n, size, size]."""
    x, y = _grid(size)
    coverage = np.zeros((n, size, size), np.float32)
    for _ in range(2):
        cx, cy = (rng.uniform(0, size, (n, 1, 1)).astype(np.float32) for _ in range(2))
        radius = rng.uniform(0.02, 0.05, (n, 1, 1)).astype(np.float32) * size
        coverage = np.maximum(coverage, np.clip(0.5 + radius - np.hypot(x - cx, y - cy), 0, 1))
    return coverage
