"""The embedded image-text set: scenes drawn by the program with captions that say what stands where.

A scene is one form, or two of which one is left of or above the other; a form has a size, a color and a shape:
"a small red circle left of a large blue square". Some pairs of color and shape are held out: no training picture
shows them and no training caption names them, while every color and every shape is seen in other company. The test
scenes consist of held-out pairs alone, so what is measured is whether parts that were learned apart are put together.

Training scenes come in families of `FAMILY` rows that differ in little (the same forms with their places, sizes or
colors exchanged): in one batch they are each other's near misses. The set is for learning and testing the library; it
ranks no model.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoo.data.synthetic.shapes import _FORMS, Array, _grid
from zoo.data.synthetic.shapes import CLASSES as _NAMES

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
PLACES = (("left of", "right of"), ("above", "below"))  # axis -> how the first and how the second stands to the other
SIZE = 32
TRAIN, VALIDATION, TEST, FAMILY = 24000, 500, 500, 4
SINGLE = 0.15  # share of training families about one form
_RADII = ((3.1, 4.1), (6.3, 7.3))  # pixels of 32, small and large
_SLANT = 0.4  # greatest step across a scene's axis, as a share of the step along it

HELD_OUT = tuple(
    (color, shape)
    for s, shape in enumerate(SHAPES)
    for c, color in enumerate(COLORS)
    if (c - 3 * s) % 4 == 0
)  # fmt: skip
"""Pairs of color and shape that stand in no training scene: two of each shape, one or two of each color."""

Form = tuple[int, int, int]  # size, color, shape


@dataclass(frozen=True)
class Scene:
    """One form, or two: the first is left of (axis 0) or above (axis 1) the second."""

    forms: tuple[Form, ...]
    axis: int = 0

    def captions(self) -> tuple[str, ...]:
        """Everything that can be said of it: one sentence for one form, one from either side for two."""
        names = [name(form) for form in self.forms]
        if len(names) == 1:
            return (f"a {names[0]}",)
        first, second = names
        to_second, to_first = PLACES[self.axis]
        return (f"a {first} {to_second} a {second}", f"a {second} {to_first} a {first}")


def name(form: Form) -> str:
    """`small red circle`."""
    return f"{SIZES[form[0]]} {list(COLORS)[form[1]]} {list(SHAPES)[form[2]]}"


def is_held_out(form: Form) -> bool:
    """Whether a form's color and shape stand together in test scenes only."""
    return (form[1] - 3 * form[2]) % 4 == 0


def make_pairs(split: str, n: int = 0, *, seed: int = 0, size: int = SIZE) -> tuple[Tensor, list[tuple[str, ...]]]:
    """Scenes of a split and what can be said of each; the same for the same arguments.

    Args:
        split: `train` (families of rows, see above), `validation` (colors and shapes paired as in training, scenes and
            captions all different) or `test` (held-out pairs alone, scenes and captions all different).
        n: How many; 0 takes the usual number.

    Returns: images uint8 [n, 3, size, size] and the captions of each, of which the first is drawn as well.
    """
    usual = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    if split not in usual or size < 24:
        raise ValueError(f"split={split!r}, size={size}: expected train, validation or test, and at least 24 pixels")
    n = n or usual[split]
    rng = np.random.default_rng([seed, n, list(usual).index(split)])
    scenes = _families(rng, n) if split == "train" else _different(rng, n, held_out=split == "test")
    captions = []
    for scene, turn in zip(scenes, rng.integers(0, 2, n)):
        said = scene.captions()
        captions.append(said[turn % len(said) :] + said[: turn % len(said)])
    return _draw(rng, scenes, size), captions


# --- which scenes -----------------------------------------------------------------------------------------------------


def _form(rng: np.random.Generator, held_out: bool = False) -> Form:
    while True:
        form = (int(rng.integers(2)), int(rng.integers(len(COLORS))), int(rng.integers(len(SHAPES))))
        if is_held_out(form) == held_out:
            return form


def _families(rng: np.random.Generator, n: int) -> list[Scene]:
    """Training scenes, `FAMILY` near ones after each other."""
    scenes: list[Scene] = []
    while len(scenes) < n:
        if rng.random() < SINGLE:
            form = _form(rng)
            near = [_changed(rng, form, part) for part in (0, 1, 2)]
            scenes += [Scene((one,)) for one in (form, *near)]
        else:
            scenes += _near_scenes(rng, Scene((_form(rng), _form(rng)), int(rng.integers(2))))
    return scenes[:n]


def _near_scenes(rng: np.random.Generator, scene: Scene) -> list[Scene]:
    """A scene of two forms, with them exchanged, with a part of one changed, and with a part swapped between them."""
    first, second = scene.forms
    part = int(rng.integers(3))
    changed = _changed(rng, first, part), second
    part = int(rng.integers(3))
    swapped = _with(first, part, second[part]), _with(second, part, first[part])
    if any(map(is_held_out, swapped)) or first[part] == second[part]:
        swapped, turned = (first, second), True
    else:
        turned = False
    near = [(second, first), changed, swapped]
    if rng.random() < 0.5:
        near[1] = (second, changed[0])
    axes = [scene.axis, scene.axis, 1 - scene.axis if turned else scene.axis]
    return [scene, *(Scene(forms, axis) for forms, axis in zip(near, axes))]


def _with(form: Form, part: int, value: int) -> Form:
    parts = list(form)
    parts[part] = value
    return parts[0], parts[1], parts[2]


def _changed(rng: np.random.Generator, form: Form, part: int) -> Form:
    """The form with another size (part 0), color (1) or shape (2), not a held-out one."""
    count = (2, len(COLORS), len(SHAPES))[part]
    while True:
        other = _with(form, part, int(rng.integers(count)))
        if other != form and not is_held_out(other):
            return other


def _different(rng: np.random.Generator, n: int, *, held_out: bool) -> list[Scene]:
    """`n` scenes of two forms, no two alike."""
    found: dict[Scene, None] = {}
    forms = (2 * len(HELD_OUT)) if held_out else 2 * (len(COLORS) * len(SHAPES) - len(HELD_OUT))
    if n > 2 * forms**2:
        raise ValueError(f"n={n}: there are {2 * forms**2} different scenes")
    while len(found) < n:
        found[Scene((_form(rng, held_out), _form(rng, held_out)), int(rng.integers(2)))] = None
    return list(found)


# --- drawing ----------------------------------------------------------------------------------------------------------


def _draw(rng: np.random.Generator, scenes: list[Scene], size: int) -> Tensor:
    """Pictures of scenes, uint8 [n, 3, size, size]."""
    n = len(scenes)
    two = np.array([len(scene.forms) > 1 for scene in scenes])
    parts = np.array([scene.forms if len(scene.forms) > 1 else scene.forms * 2 for scene in scenes])  # [n, 2, 3]
    axis = np.array([scene.axis for scene in scenes])
    low, high = np.array(_RADII).T * size / 32
    radius = rng.uniform(low[parts[..., 0]], high[parts[..., 0]])  # [n, 2]
    centers = _centers(rng, radius, axis, two, size)
    image = np.empty((n, 3, size, size), np.float32)
    image[:] = rng.uniform(10, 80, (n, 1, 1, 1)) + rng.uniform(-12, 12, (n, 3, 1, 1))
    for which in (0, 1):
        there = np.flatnonzero(two) if which else np.arange(n)
        color = np.array(list(COLORS.values()), np.float32)[parts[there, which, 1]]
        color = color * rng.uniform(0.85, 1.05, (len(there), 1)) + rng.uniform(-14, 14, (len(there), 3))
        cover = _coverage(rng, parts[there, which, 2], centers[there, which], radius[there, which], size)
        image[there] += cover[:, None] * (color[..., None, None].astype(np.float32) - image[there])
    image += rng.standard_normal((n, 1, size, size), dtype=np.float32) * 5
    return torch.from_numpy(np.clip(image + 0.5, 0, 255).astype(np.uint8))


def _centers(rng: np.random.Generator, radius: Array, axis: Array, two: Array, size: int) -> Array:
    """Where forms of radius [n, 2] stand, [n, 2, (x, y)]: along the axis one behind the other with a gap between."""
    n = len(radius)
    reach = np.where(two[:, None], radius, np.stack([radius[:, 0], np.zeros(n)], 1))
    free = size - 2 * reach.sum(1) - two
    before, gap = np.sort(rng.uniform(0, 1, (2, n)), axis=0) * free
    gap = (gap - before) + two
    first = before + reach[:, 0]
    second = first + reach[:, 0] + gap + radius[:, 1]
    least, most = radius, size - radius
    across = rng.uniform(least[:, 0], most[:, 0])
    step = rng.uniform(-_SLANT, _SLANT, n) * (second - first)
    along = np.stack([first, second], 1)
    aside = np.stack([across, np.clip(across + step, least[:, 1], most[:, 1])], 1)
    return np.where(axis[:, None, None] == 0, np.stack([along, aside], 2), np.stack([aside, along], 2))


def _coverage(rng: np.random.Generator, shapes: Array, centers: Array, radius: Array, size: int) -> Array:
    """Coverage of each pixel by forms [n], float32 [n, size, size], from 0 to 1."""
    x, y = _grid(size)
    tilt = rng.uniform(-0.15, 0.15, len(shapes))
    coverage = np.empty((len(shapes), size, size), np.float32)
    for number, form in enumerate(SHAPES.values()):
        rows = np.flatnonzero(shapes == number)
        cx, cy, r, c, s = (a[rows, None, None].astype(np.float32) for a in
                           (centers[:, 0], centers[:, 1], radius, np.cos(tilt), np.sin(tilt)))  # fmt: skip
        u, v = (x - cx) / r, (y - cy) / r
        distance = _FORMS[_NAMES.index(form)](c * u + s * v, c * v - s * u)
        coverage[rows] = np.clip(0.5 - r * distance, 0, 1)
    return coverage
