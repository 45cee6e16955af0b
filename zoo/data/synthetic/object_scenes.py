"""Synthetic scenes of one or two objects, with captions, places of the objects and held-out combinations.

A scene has one object, or two of which one is left of, right of, above or below the other: "a red circle above a blue
square". Two kinds of combinations occur in no training image, caption or question, although all their parts do: some
pairs of color and shape, and some relations of two shapes. Every test scene has an object of a held-out pair, half of
them a held-out relation, too, so that they measure compositional generalization.

A model learns from such scenes that yellow objects are no squares, before it learns to see a square, and answers so in
the test. Against that, a part of the training scenes can have objects that lack a name of one of the two: a circle of a
color between the named ones, "a circle", or a ring or bars in a named color, "a red object". There no color says
anything about the shape. See `partly_named` of `make_object_scenes`.

Every scene is a function of (seed, split, index). The dataset is for learning and testing the library, not for ranking
models. `zoo.data.synthetic.scenes` has more shapes and colors, and hard negatives for contrastive training.
"""

import random
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from zoo.data.synthetic import scenes
from zoo.data.synthetic.shapes import DISTANCES, Array, coverage
from zoo.utils.keyed_random import KeyedRandom

SHAPES = {"circle": "disc", "square": "square", "triangle": "triangle", "cross": "cross"}
COLORS = {name: scenes.COLORS[name] for name in ("red", "yellow", "green", "cyan", "blue", "white")}
RELATIONS = (
    ("left of", "right of"),
    ("above", "below"),
)  # axis -> relation of the first object to the second, and back
SIZE = 32
SPLITS = {"train": 30000, "validation": 400, "test": 1000}
"""Default number of scenes of each split."""
SINGLE = 0.2  # fraction of scenes with one object
SAME_COLOR, SAME_SHAPE = 0.25, 0.25  # fractions of scenes of two objects
COLOR_WITHOUT_NAME = 0.6  # fraction of partly named objects whose color has no name, of the others the shape
SIZES_DIFFER = 0.7  # fraction of scenes of two objects
NAMELESS = -1  # color or shape of an object that has none of `COLORS` or `SHAPES`
_FORMS = [DISTANCES[shape] for shape in SHAPES.values()]
_OTHER_FORMS = [DISTANCES[shape] for shape in ("ring", "frame", "plus", "bars", "pillars", "dots")]
_RADII = ((3.1, 4.1), (6.3, 7.3))  # pixels of 32, small and large
_TILT = 0.15  # maximum rotation in radians
_SHADE, _TINT = (0.85, 1.05), 14  # factors of brightness of an object, and maximum offset of each channel
_CHUNK = 256  # scenes that are rendered at a time, as many as fit into a cache

SceneObject = tuple[int, int, int]  # size, color, shape


@dataclass(frozen=True)
class ObjectScene:
    """One object, or two: the first is left of (axis 0) or above (axis 1) the second."""

    objects: tuple[SceneObject, ...]
    axis: int = 0

    def captions(self) -> tuple[str, ...]:
        """All captions: one for a single object, one for each order of two objects."""
        names = [f"a {name(obj)}" for obj in self.objects]
        if len(names) == 1:
            return (names[0],)
        to_second, to_first = RELATIONS[self.axis]
        return (f"{names[0]} {to_second} {names[1]}", f"{names[1]} {to_first} {names[0]}")

    @property
    def held_out_relation(self) -> bool:
        """Whether the relation of its shapes occurs in test scenes only."""
        return len(self.objects) == 2 and is_held_out_relation(self.objects[0][2], self.axis, self.objects[1][2])

    @property
    def partly_named(self) -> bool:
        """Whether an object has a color or a shape without a name."""
        return any(NAMELESS in obj for obj in self.objects)


@dataclass(frozen=True)
class ObjectScenes:
    """Scenes with their images.

    Attributes:
        scenes: The objects of each scene.
        images: uint8 [N, 3, H, W].
        boxes: (left, top, right, bottom) of each object in pixels, float32 [N, 2, 4]; zeros for a missing second one.
        captions: All captions of each scene in random order.
    """

    scenes: list[ObjectScene]
    images: Tensor
    boxes: Tensor
    captions: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.scenes)


def name(obj: SceneObject) -> str:
    """Name of an object: `red circle`; `circle` or `red object` if its color or shape has no name."""
    color, shape = ("" if obj[1] == NAMELESS else list(COLORS)[obj[1]]), "object"
    if obj[2] != NAMELESS:
        shape = list(SHAPES)[obj[2]]
    return f"{color} {shape}".strip()


def is_held_out(obj: SceneObject) -> bool:
    """Whether the pair of color and shape occurs in test scenes only: one shape of each color, 6 of 24 pairs."""
    return obj[1] != NAMELESS and obj[2] == obj[1] % len(SHAPES)


def is_held_out_relation(first: int, axis: int, second: int) -> bool:
    """Whether `first` left of (axis 0) or above (axis 1) `second`, two shapes, occurs in test scenes only: 8 of 32."""
    return first != NAMELESS and second == (first + (1, 3)[axis]) % len(SHAPES)


def make_object_scenes(
    split: str, n: int = 0, *, seed: int = 0, size: int = SIZE, partly_named: float = 0.0
) -> ObjectScenes:
    """Generate the scenes of a split; a scene is the same for the same seed, split, index and size.

    Args:
        split: `train` and `validation` (no held-out combination) or `test` (held-out combinations in every scene).
        n: Number of scenes; 0 uses the default size of the split.
        seed: Seed of the scenes.
        size: Height and width in pixels.
        partly_named: Fraction of scenes each of whose objects has either a color or a shape without a name, the color
            for three of five. For training only: these objects are no held-out pairs.

    Raises: ValueError for an unknown split, images of less than 24 pixels, or partly named scenes of the test.
    """
    if split not in SPLITS or size < 24 or n < 0:
        raise ValueError(f"split={split!r}, n={n}, size={size}: expected train, validation or test, at least one "
                         f"scene (0: the default number), and at least 24 pixels")  # fmt: skip
    if not 0 <= partly_named <= 1 or (partly_named and split == "test"):
        raise ValueError(f"partly_named={partly_named}, split={split!r}: expected a fraction from 0 to 1, and 0 for "
                         f"the test, whose objects are of held-out pairs")  # fmt: skip
    n = n or SPLITS[split]
    found = [_scene(random.Random(f"{seed}/{split}/{i}"), split == "test") for i in range(n)]
    if partly_named:
        found = [_without_names(scene, random.Random(f"{seed}/{split}/{i}/names"), partly_named)
                 for i, scene in enumerate(found)]  # fmt: skip
    captions, parts = [], []
    for rows in torch.arange(n).split(_CHUNK):
        keys, some = KeyedRandom(seed, list(SPLITS).index(split), rows), found[int(rows[0]) : int(rows[-1]) + 1]
        for scene, turned in zip(some, (keys.bits("caption") < 0).tolist()):
            texts = scene.captions()
            captions.append(texts[::-1] if turned else texts)
        parts.append(_render(keys, some, size))
    images, boxes = map(torch.cat, zip(*parts))
    return ObjectScenes(found, images, boxes, captions)


# --- sampling ---------------------------------------------------------------------------------------------------------


def _scene(rng: random.Random, test: bool) -> ObjectScene:
    """A scene of a split. Only `random()` is called, whose sequence is the same in every Python version."""
    single, with_relation = rng.random() < SINGLE, test and rng.random() < 0.5
    while True:
        first, second, axis = _object(rng), _object(rng), int(rng.random() * 2)
        kind = rng.random()
        if kind < SAME_COLOR:
            second = (second[0], first[1], second[2])
        elif kind < SAME_COLOR + SAME_SHAPE:
            second = (second[0], second[1], first[2])
        same = (first[1] == second[1], first[2] == second[2])
        if same != (kind < SAME_COLOR, SAME_COLOR <= kind < SAME_COLOR + SAME_SHAPE):
            continue
        if rng.random() < SIZES_DIFFER:
            second = (1 - first[0], *second[1:])
        scene = ObjectScene((first,) if single else (first, second), axis)
        if any(map(is_held_out, scene.objects)) == test and scene.held_out_relation == (with_relation and not single):
            return scene


def _without_names(scene: ObjectScene, rng: random.Random, partly_named: float) -> ObjectScene:
    """The scene, or with this probability one in which the color or the shape of each object has no name."""
    if rng.random() >= partly_named:
        return scene
    of_color = [rng.random() < COLOR_WITHOUT_NAME for _ in scene.objects]
    objects = [(obj[0], NAMELESS, obj[2]) if lost else (obj[0], obj[1], NAMELESS)
               for obj, lost in zip(scene.objects, of_color, strict=True)]  # fmt: skip
    return ObjectScene(tuple(objects), scene.axis)


def _object(rng: random.Random) -> SceneObject:
    return int(rng.random() * 2), int(rng.random() * len(COLORS)), int(rng.random() * len(SHAPES))


# --- rendering --------------------------------------------------------------------------------------------------------


def _render(keys: KeyedRandom, found: list[ObjectScene], size: int) -> tuple[Tensor, Tensor]:
    """(images uint8 [n, 3, size, size], boxes float32 [n, 2, 4]) of the scenes with these keys [n]."""
    n = len(found)

    def uniform(purpose: str, low: float, high: float, *shape: int) -> Array:
        """float32 [n, *shape]."""
        parts = [keys.uniform(f"{purpose}/{i}").numpy() for i in range(int(np.prod(shape)))]
        return (low + (high - low) * np.stack(parts, 1)).reshape(n, *shape)

    two = np.array([len(scene.objects) == 2 for scene in found])
    parts = np.array([scene.objects if len(scene.objects) == 2 else scene.objects * 2 for scene in found])  # [n, 2, 3]
    axis = np.array([scene.axis for scene in found])
    low, high = np.array(_RADII).T * size / SIZE
    small, large = low[parts[..., 0]], high[parts[..., 0]]
    radius = small + (large - small) * uniform("radius", 0, 1, 2)
    centers = scenes.place(uniform("place", 0, 1, 4).T, radius, axis, two, size)
    tilt = uniform("tilt", -_TILT, _TILT, 2)
    image = np.empty((n, 3, size, size), np.float32)
    image[:] = uniform("background", 10, 80, 1, 1, 1) + uniform("background/color", -12, 12, 3, 1, 1)
    palette = np.array(list(COLORS.values()), np.float32)
    shade, tint = uniform("shade", *_SHADE, 2), uniform("tint", -_TINT, _TINT, 2, 3)
    others = _other_colors()
    other_color = (uniform("other color", 0, 1, 2) * len(others)).astype(int)
    other_form = len(_FORMS) + (uniform("other form", 0, 1, 2) * len(_OTHER_FORMS)).astype(int)
    named, forms = parts[..., 1] != NAMELESS, np.where(parts[..., 2] == NAMELESS, other_form, parts[..., 2])
    colors = np.where(named[..., None], palette[parts[..., 1]] * shade[..., None], others[other_color]) + tint
    boxes = np.zeros((n, 2, 4), np.float32)
    for which in (0, 1):
        rows = np.flatnonzero(two) if which else np.arange(n)
        color = colors[rows, which]
        cover = coverage(_FORMS + _OTHER_FORMS, forms[rows, which], centers[rows, which], radius[rows, which],
                         tilt[rows, which], size)  # fmt: skip
        image[rows] += cover[:, None] * (color[..., None, None].astype(np.float32) - image[rows])
        boxes[rows, which] = _boxes(cover > 0.5)
    pixels = torch.from_numpy(image)
    grain = KeyedRandom(0, 0, keys.keys[:, None] + torch.arange(size**2)).uniform("grain")
    pixels += (grain.view(n, 1, size, size) - 0.5) * 17  # a standard deviation of 5
    return (pixels + 0.5).clamp_(0, 255).to(torch.uint8), torch.from_numpy(boxes)


@cache
def _other_colors() -> Array:
    """Colors without a name, float32 [M, 3]: not too dark, and farther than any shade of a named color can reach."""
    palette = np.array(list(COLORS.values()), np.float32)
    levels = np.arange(0, 256, 16, dtype=np.float32)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)
    shades = np.concatenate([palette * shade for shade in np.linspace(*_SHADE, 5)])
    distance = np.abs(grid[:, None] - shades).max(2).min(1)  # the largest difference of a channel
    return grid[(distance > 2 * _TINT + 12) & (grid.max(1) >= 130)]


def _boxes(inside: Array) -> Array:
    """(left, top, right, bottom) of the pixels that are True, [n, 4] of bool [n, size, size]."""
    across, down = np.any(inside, axis=1), np.any(inside, axis=2)
    size = inside.shape[-1]
    return np.stack([across.argmax(1), down.argmax(1), size - across[:, ::-1].argmax(1),
                     size - down[:, ::-1].argmax(1)], 1)  # fmt: skip
