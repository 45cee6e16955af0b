"""Questions about synthetic scenes, with answers of one or two words.

There are six types: `count`, `color`, `shape`, `relation` (yes or no), `place` (which relation) and `comparison` (same
color, same shape, bigger). The answers to the questions of a type are about equally frequent, so that a model that sees
no image answers about half of those with two answers, and less of the others. In test scenes, questions about a color
or a shape are about the object of a held-out pair. Partly named scenes (see `make_object_scenes`) have the questions
that the names of their objects allow.
"""

import random
from dataclasses import dataclass

from zoo.data.synthetic.object_scenes import (
    COLORS,
    NAMELESS,
    RELATIONS,
    SHAPES,
    ObjectScene,
    SceneObject,
    is_held_out,
    is_held_out_relation,
    name,
)

TYPES = ("count", "color", "shape", "relation", "place", "comparison")
NUMBERS = ("zero", "one", "two")
SIDES = (("on the left", "on the right"), ("at the top", "at the bottom"))  # axis -> side of the first object, second
_COLORS, _SHAPES = list(COLORS), list(SHAPES)


@dataclass(frozen=True)
class SceneQuestion:
    """A question about a scene.

    Attributes:
        type: One of `TYPES`.
        question, answer: The texts.
    """

    type: str
    question: str
    answer: str


def make_scene_questions(scenes: list[ObjectScene], *, seed: int = 0) -> list[tuple[SceneQuestion, ...]]:
    """One question of each type for each scene; three types for scenes of one object, and fewer where names lack.

    The questions of a scene are the same for the same seed and index.
    """
    return [_questions(scene, random.Random(f"{seed}/questions/{i}")) for i, scene in enumerate(scenes)]


def _questions(scene: ObjectScene, rng: random.Random) -> tuple[SceneQuestion, ...]:
    found = [_count(scene, rng), *_attributes(scene, rng)]
    if len(scene.objects) == 2 and name(scene.objects[0]) != name(scene.objects[1]):
        found += [_relation(scene, rng), _place(scene, rng)]
        if not scene.partly_named:
            found.append(_comparison(scene, rng))
        elif scene.objects[0][0] != scene.objects[1][0]:
            found.append(_size(*_pair(scene, rng)[:2]))
    return tuple(found)


def _pick(options: list[str], rng: random.Random) -> str:
    return options[int(rng.random() * len(options))]


def _count(scene: ObjectScene, rng: random.Random) -> SceneQuestion:
    """Of all objects, or those of a color or shape. The probabilities make the three answers equally frequent."""
    single = len(scene.objects) == 1
    if rng.random() < (0.6 if single else 0.15):
        return SceneQuestion("count", "how many objects are there?", NUMBERS[len(scene.objects)])
    part = 1 if rng.random() < 0.5 else 2
    first, last = scene.objects[0], scene.objects[-1]
    if scene.partly_named:
        counted = [obj[part] for obj in scene.objects if obj[part] != NAMELESS and rng.random() < 0.75][:1]
    elif not single and (first[1] == last[1] or first[2] == last[2]):
        part = 1 if first[1] == last[1] else 2
        counted = [first[part]] if rng.random() < 0.65 else []
    else:
        counted = [scene.objects[int(rng.random() * len(scene.objects))][part]] if rng.random() < 0.5 else []
    present = [obj[part] for obj in scene.objects]
    names = [f"{color} objects" for color in _COLORS] if part == 1 else [_plural(shape) for shape in _SHAPES]
    others = [i for i in range(len(names)) if i not in present]
    value = counted[0] if counted else others[int(rng.random() * len(others))]
    return SceneQuestion("count", f"how many {names[value]} are there?", NUMBERS[present.count(value)])


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _attributes(scene: ObjectScene, rng: random.Random) -> list[SceneQuestion]:
    """The color and the shape of an object, which is named by the other attribute or by its side; what has a name."""
    held = [i for i, obj in enumerate(scene.objects) if is_held_out(obj)]
    chosen = held[int(rng.random() * len(held))] if held else int(rng.random() * len(scene.objects))
    obj = scene.objects[chosen]
    other = scene.objects[1 - chosen] if len(scene.objects) == 2 else None
    side = "the object" if other is None else f"the object {SIDES[scene.axis][chosen]}"
    sides = [side]
    if other is not None and scene.partly_named:  # the name of the other object says nothing about this one
        sides.append(f"the object {RELATIONS[scene.axis][chosen]} the {name(other)}")

    def named(part: int, text: str) -> str:
        """The object by its color (part 1) or shape, if it has a name that is not the other's, too, or by its place."""
        known = obj[part] != NAMELESS and (other is None or obj[part] != other[part])
        if known:
            return _pick([text] if other is None else [text, side], rng)
        return _pick(sides, rng)

    color, shape = (names[obj[part]] for part, names in ((1, _COLORS), (2, _SHAPES)))
    found = []
    if obj[1] != NAMELESS:
        found.append(SceneQuestion("color", f"what color is {named(2, f'the {shape}')}?", color))
    if obj[2] != NAMELESS:
        found.append(SceneQuestion("shape", f"what shape is {named(1, f'the {color} object')}?", shape))
    return found


def _pair(scene: ObjectScene, rng: random.Random) -> tuple[SceneObject, SceneObject, str]:
    """(an object, the other one, the relation of the first to the second)."""
    first, second = scene.objects
    to_second, to_first = RELATIONS[scene.axis]
    return (first, second, to_second) if rng.random() < 0.5 else (second, first, to_first)


def _relation(scene: ObjectScene, rng: random.Random) -> SceneQuestion:
    """Whether an object is in a relation to the other. Wrong statements of training are not held-out relations, either:
    a model could see from the statement alone that they are wrong."""
    obj, other, relation = _pair(scene, rng)
    answer = rng.random() < 0.5
    if not answer:
        wrong = [name for names in RELATIONS for name in names if name != relation]
        test = any(map(is_held_out, scene.objects))
        relation = _pick([name for name in wrong if test or not _is_held_out(obj, name, other)], rng)
    return SceneQuestion("relation", f"is the {name(obj)} {relation} the {name(other)}?", "yes" if answer else "no")


def _is_held_out(obj: SceneObject, relation: str, other: SceneObject) -> bool:
    axis = next(i for i, names in enumerate(RELATIONS) if relation in names)
    first, second = (obj, other) if RELATIONS[axis][0] == relation else (other, obj)
    return is_held_out_relation(first[2], axis, second[2])


def _place(scene: ObjectScene, rng: random.Random) -> SceneQuestion:
    """The relation of an object to the other one."""
    obj, other, relation = _pair(scene, rng)
    return SceneQuestion("place", f"where is the {name(obj)} relative to the {name(other)}?", relation)


def _comparison(scene: ObjectScene, rng: random.Random) -> SceneQuestion:
    """Of colors, shapes or sizes. The probabilities make yes and no equally frequent for each of them."""
    obj, other, _ = _pair(scene, rng)
    same_color, same_shape, kind = obj[1] == other[1], obj[2] == other[2], rng.random()
    same_size = obj[0] == other[0]  # neither is bigger
    if same_color or same_shape:
        same, different = ("color", "shape") if same_color else ("shape", "color")
        ask = same if kind < (0.9 if same_size else 0.55) else different if same_size else "size"
    else:
        ask = "color" if kind < (0.5 if same_size else 0.35) else "shape" if same_size or kind < 0.7 else "size"
    if ask == "size":
        return _size(obj, other)
    answer = same_color if ask == "color" else same_shape
    return SceneQuestion("comparison", f"are the objects of the same {ask}?", "yes" if answer else "no")


def _size(obj: SceneObject, other: SceneObject) -> SceneQuestion:
    """Whether an object is bigger than the other."""
    answer = "yes" if obj[0] > other[0] else "no"
    return SceneQuestion("comparison", f"is the {name(obj)} bigger than the {name(other)}?", answer)
