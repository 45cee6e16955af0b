"""Synthetic scenes with captions that describe objects and their spatial relation.

A scene has one object, or two of which one is left of or above the other; an object has a size, a color and a shape:
"a small red circle left of a large blue square". Some combinations of color and shape are held out: they occur in no
training image or caption, although each color and each shape does. Test scenes consist of held-out combinations only
and measure compositional generalization.

Training scenes come in families of `FAMILY` rows with small differences (the same objects with positions, sizes or
colors swapped), which are hard negatives of each other in a batch. The dataset is for learning and testing the library,
not for ranking models.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoo.data.synthetic.shapes import DISTANCES, Array, coverage

SIZES = ("small", "large")
SHAPES = {"circle": "disc", "ring": "ring", "square": "square", "triangle": "triangle", "cross": "cross",
          "plus": "plus"}  # fmt: skip
COLORS = {
    "red": (230, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (240, 225, 60),
    "green": (40, 170, 60),
    "cyan": (60, 215, 220),
    "blue": (50, 80, 235),
    "purple": (160, 60, 200),
    "white": (240, 240, 240),
}
PLACES = (("left of", "right of"), ("above", "below"))  # axis -> relation of the first object to the second, and back
SIZE = 32
TRAIN, VALIDATION, TEST, FAMILY = 24000, 500, 500, 4
SINGLE = 0.15  # fraction of training families with one object
_RADII = ((3.1, 4.1), (6.3, 7.3))  # pixels of 32, small and large
_FORMS = [DISTANCES[shape] for shape in SHAPES.values()]
_TILT = 0.15  # maximum rotation in radians
_SLANT = 0.4  # maximum offset across the axis, as a fraction of the distance along it

HELD_OUT = tuple(
    (color, shape)
    for s, shape in enumerate(SHAPES)
    for c, color in enumerate(COLORS)
    if (c - 3 * s) % 4 == 0
)  # fmt: skip
"""Combinations of color and shape that occur in no training scene: two of each shape, one or two of each color."""

SceneObject = tuple[int, int, int]  # size, color, shape


@dataclass(frozen=True)
class Scene:
    """One object, or two: the first is left of (axis 0) or above (axis 1) the second."""

    objects: tuple[SceneObject, ...]
    axis: int = 0

    def captions(self) -> tuple[str, ...]:
        """All captions: one for a single object, one for each order of two objects."""
        names = [name(obj) for obj in self.objects]
        if len(names) == 1:
            return (f"a {names[0]}",)
        first, second = names
        to_second, to_first = PLACES[self.axis]
        return (f"a {first} {to_second} a {second}", f"a {second} {to_first} a {first}")


def name(obj: SceneObject) -> str:
    """Name of an object: `small red circle`."""
    return f"{SIZES[obj[0]]} {list(COLORS)[obj[1]]} {list(SHAPES)[obj[2]]}"


def is_held_out(obj: SceneObject) -> bool:
    """Whether the combination of color and shape occurs in test scenes only."""
    return (obj[1] - 3 * obj[2]) % 4 == 0


def make_pairs(split: str, n: int = 0, *, seed: int = 0, size: int = SIZE) -> tuple[Tensor, list[tuple[str, ...]]]:
    """Generate the scenes of a split with all captions of each; the same for the same arguments.

    Args:
        split: `train` (families of rows, see above), `validation` (combinations as in training, all scenes different)
            or `test` (held-out combinations only, all scenes different).
        n: Number of scenes; 0 uses the default size of the split.
        seed: Seed of the scenes.
        size: Height and width in pixels.

    Returns: images uint8 [n, 3, size, size] and the captions of each image in random order.
    """
    default = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    if split not in default or size < 24:
        raise ValueError(f"split={split!r}, size={size}: expected train, validation or test, and at least 24 pixels")
    n = n or default[split]
    rng = np.random.default_rng([seed, n, list(default).index(split)])
    scenes = _families(rng, n) if split == "train" else _different(rng, n, held_out=split == "test")
    captions = []
    for scene, turn in zip(scenes, rng.integers(0, 2, n)):
        texts = scene.captions()
        captions.append(texts[turn % len(texts) :] + texts[: turn % len(texts)])
    return _render(rng, scenes, size), captions


# --- sampling scenes --------------------------------------------------------------------------------------------------


def _random_object(rng: np.random.Generator, held_out: bool = False) -> SceneObject:
    while True:
        obj = (int(rng.integers(2)), int(rng.integers(len(COLORS))), int(rng.integers(len(SHAPES))))
        if is_held_out(obj) == held_out:
            return obj


def _families(rng: np.random.Generator, n: int) -> list[Scene]:
    """Training scenes, in consecutive families of `FAMILY` similar scenes."""
    scenes: list[Scene] = []
    while len(scenes) < n:
        if rng.random() < SINGLE:
            obj = _random_object(rng)
            similar = [_changed(rng, obj, part) for part in (0, 1, 2)]
            scenes += [Scene((each,)) for each in (obj, *similar)]
        else:
            scenes += _similar_scenes(rng, Scene((_random_object(rng), _random_object(rng)), int(rng.integers(2))))
    return scenes[:n]


def _similar_scenes(rng: np.random.Generator, scene: Scene) -> list[Scene]:
    """A scene of two objects; with the objects swapped; with one attribute changed; with one attribute swapped."""
    first, second = scene.objects
    part = int(rng.integers(3))
    changed = _changed(rng, first, part), second
    part = int(rng.integers(3))
    swapped = _replaced(first, part, second[part]), _replaced(second, part, first[part])
    if any(map(is_held_out, swapped)) or first[part] == second[part]:
        swapped, other_axis = (first, second), True
    else:
        other_axis = False
    similar = [(second, first), changed, swapped]
    if rng.random() < 0.5:
        similar[1] = (second, changed[0])
    axes = [scene.axis, scene.axis, 1 - scene.axis if other_axis else scene.axis]
    return [scene, *(Scene(objects, axis) for objects, axis in zip(similar, axes))]


def _replaced(obj: SceneObject, part: int, value: int) -> SceneObject:
    parts = list(obj)
    parts[part] = value
    return parts[0], parts[1], parts[2]


def _changed(rng: np.random.Generator, obj: SceneObject, part: int) -> SceneObject:
    """The object with a different size (part 0), color (1) or shape (2), not held out."""
    count = (2, len(COLORS), len(SHAPES))[part]
    while True:
        other = _replaced(obj, part, int(rng.integers(count)))
        if other != obj and not is_held_out(other):
            return other


def _different(rng: np.random.Generator, n: int, *, held_out: bool) -> list[Scene]:
    """`n` different scenes of two objects."""
    found: dict[Scene, None] = {}
    count = (2 * len(HELD_OUT)) if held_out else 2 * (len(COLORS) * len(SHAPES) - len(HELD_OUT))
    if n > 2 * count**2:
        raise ValueError(f"n={n}: expected at most {2 * count**2}, the number of different scenes")
    while len(found) < n:
        found[Scene((_random_object(rng, held_out), _random_object(rng, held_out)), int(rng.integers(2)))] = None
    return list(found)


# --- rendering --------------------------------------------------------------------------------------------------------


def _render(rng: np.random.Generator, scenes: list[Scene], size: int) -> Tensor:
    """Render scenes to images, uint8 [n, 3, size, size]."""
    n = len(scenes)
    two = np.array([len(scene.objects) > 1 for scene in scenes])
    parts = np.array([scene.objects if len(scene.objects) > 1 else scene.objects * 2 for scene in scenes])  # [n, 2, 3]
    axis = np.array([scene.axis for scene in scenes])
    low, high = np.array(_RADII).T * size / 32
    radius = rng.uniform(low[parts[..., 0]], high[parts[..., 0]])  # [n, 2]
    centers = place(rng.random((4, n)), radius, axis, two, size)
    image = np.empty((n, 3, size, size), np.float32)
    image[:] = rng.uniform(10, 80, (n, 1, 1, 1)) + rng.uniform(-12, 12, (n, 3, 1, 1))
    for which in (0, 1):
        rows = np.flatnonzero(two) if which else np.arange(n)
        color = np.array(list(COLORS.values()), np.float32)[parts[rows, which, 1]]
        color = color * rng.uniform(0.85, 1.05, (len(rows), 1)) + rng.uniform(-14, 14, (len(rows), 3))
        tilt = rng.uniform(-_TILT, _TILT, len(rows))
        cover = coverage(_FORMS, parts[rows, which, 2], centers[rows, which], radius[rows, which], tilt, size)
        image[rows] += cover[:, None] * (color[..., None, None].astype(np.float32) - image[rows])
    image += rng.standard_normal((n, 1, size, size), dtype=np.float32) * 5
    return torch.from_numpy(np.clip(image + 0.5, 0, 255).astype(np.uint8))


def place(uniform: Array, radius: Array, axis: Array, two: Array, size: int) -> Array:
    """Centers [n, 2, (x, y)] of objects of radius [n, 2]: in order along the axis, with a gap in between.

    Args:
        uniform: Random numbers from 0 to 1, [4, n].
        radius: Radii in pixels.
        axis: 0 where the first object is left of the second, 1 where it is above it, [n].
        two: bool [n], False for scenes of one object, the first.
        size: Height and width of the image in pixels.
    """
    n = len(radius)
    reach = np.where(two[:, None], radius, np.stack([radius[:, 0], np.zeros(n)], 1))
    free = size - 2 * reach.sum(1) - two
    before, gap = np.sort(uniform[:2], axis=0) * free
    gap = (gap - before) + two
    first = before + reach[:, 0]
    second = first + reach[:, 0] + gap + radius[:, 1]
    least, most = radius, size - radius
    across = least[:, 0] + (most[:, 0] - least[:, 0]) * uniform[2]
    step = _SLANT * (2 * uniform[3] - 1) * (second - first)
    along = np.stack([first, second], 1)
    aside = np.stack([across, np.clip(across + step, least[:, 1], most[:, 1])], 1)
    return np.where(axis[:, None, None] == 0, np.stack([along, aside], 2), np.stack([aside, along], 2))
