"""Scenes of one or two objects: repeatable by index, held-out combinations, true captions, boxes and answers."""

import pytest
import torch

from zoo.data.synthetic.object_scenes import (
    COLORS,
    NAMELESS,
    RELATIONS,
    SHAPES,
    is_held_out,
    make_object_scenes,
    name,
)
from zoo.data.synthetic.scene_questions import NUMBERS, TYPES, make_scene_questions

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def test_a_scene_depends_on_seed_split_and_index_only() -> None:
    few, more = make_object_scenes("train", 8, seed=3), make_object_scenes("train", 300, seed=3)
    assert torch.equal(few.images, more.images[:8]) and torch.equal(few.boxes, more.boxes[:8])
    assert few.captions == more.captions[:8] and few.scenes == more.scenes[:8]
    assert not torch.equal(few.images, make_object_scenes("train", 8, seed=4).images)
    assert few.images.shape == (8, 3, 32, 32) and few.images.dtype == torch.uint8
    assert make_object_scenes("test", 3, size=48).images.shape == (3, 3, 48, 48)
    assert make_scene_questions(few.scenes) == make_scene_questions(more.scenes)[:8]


def test_held_out_combinations_are_in_every_test_scene_and_in_nothing_else() -> None:
    for split in ("train", "validation"):
        found = make_object_scenes(split, 1200)
        pairs = {obj[1:] for scene in found.scenes for obj in scene.objects}
        assert len(pairs) == 18 and not any(is_held_out((0, *pair)) for pair in pairs)
        relations = {(scene.objects[0][2], scene.axis, scene.objects[1][2]) for scene in found.scenes
                     if len(scene.objects) == 2}  # fmt: skip
        assert len(relations) == 24
    test = make_object_scenes("test", 400)
    assert all(any(map(is_held_out, scene.objects)) for scene in test.scenes)
    assert {obj[1:] for scene in test.scenes for obj in scene.objects if is_held_out(obj)} == {
        (color, color % 4) for color in range(6)
    }
    two = [scene for scene in test.scenes if len(scene.objects) == 2]
    assert 0.4 < sum(scene.held_out_relation for scene in two) / len(two) < 0.6 and len(two) < len(test)


def test_boxes_have_the_color_of_their_object() -> None:
    found = make_object_scenes("validation", 200)
    palette = torch.tensor(list(COLORS.values())).float()
    right = total = 0
    for scene, image, boxes in zip(found.scenes, found.images.float(), found.boxes.int().tolist(), strict=True):
        assert len(scene.objects) == 2 or boxes[1] == [0, 0, 0, 0]
        for obj, (left, top, end, bottom) in zip(scene.objects, boxes):
            middle = image[:, (top + bottom) // 2, (left + end) // 2]
            right += int((palette - middle).square().sum(1).argmin()) == obj[1]
            total += 1
        if len(scene.objects) == 2:
            before, after = (0, 2) if scene.axis == 0 else (1, 3)
            assert boxes[0][after] <= boxes[1][before] + 1
    assert right / total > 0.97


def test_captions_and_answers_are_true() -> None:
    found = make_object_scenes("test", 200)
    for scene, captions, questions in zip(found.scenes, found.captions, make_scene_questions(found.scenes)):
        assert [one.type for one in questions] == list(TYPES[: 6 if len(scene.objects) == 2 else 3])
        asked = {one.type: one for one in questions}
        colors, shapes = ([list(names)[obj[i]] for obj in scene.objects] for i, names in ((1, COLORS), (2, SHAPES)))
        held = [i for i, obj in enumerate(scene.objects) if is_held_out(obj)]
        assert asked["color"].answer in [colors[i] for i in held]
        assert asked["shape"].answer in [shapes[i] for i in held]
        counted = asked["count"].question.split()[2].removesuffix("s").replace("crosse", "cross")
        number = len(scene.objects) if counted == "object" else [*colors, *shapes].count(counted)
        assert asked["count"].answer == NUMBERS[number]
        if len(scene.objects) == 1:
            assert captions == (f"a {colors[0]} {shapes[0]}",)
            continue
        relation = RELATIONS[scene.axis][0]
        text = f"a {colors[0]} {shapes[0]} {relation} a {colors[1]} {shapes[1]}"
        assert text in captions and len(set(captions)) == 2
        first = f"the {colors[0]} {shapes[0]}"
        place = asked["place"]
        turned = place.question.index(first) > place.question.index(f"the {colors[1]} {shapes[1]}")
        assert place.answer == (OPPOSITE[relation] if turned else relation)
        statement = asked["relation"].question.removeprefix("is ").removesuffix("?").replace("the ", "a ")
        assert asked["relation"].answer == ("yes" if statement in captions else "no")


def test_answers_are_balanced() -> None:
    rows = make_scene_questions(make_object_scenes("train", 1500).scenes)
    for kind, most in {"count": 0.4, "color": 0.22, "shape": 0.34, "relation": 0.54, "place": 0.3,
                       "comparison": 0.54}.items():  # fmt: skip
        answers = [one.answer for row in rows for one in row if one.type == kind]
        assert max(map(answers.count, answers)) / len(answers) < most, kind


def test_objects_of_partly_named_scenes_have_one_name() -> None:
    found, named = make_object_scenes("train", 400, partly_named=0.5), make_object_scenes("train", 400)
    changed = [scene.partly_named for scene in found.scenes]
    assert 0.4 < sum(changed) / 400 < 0.6 and not any(scene.partly_named for scene in named.scenes)
    kept = ~torch.tensor(changed)
    assert torch.equal(found.images[kept], named.images[kept]) and torch.equal(found.boxes[kept], named.boxes[kept])
    assert [one for one, other in zip(found.scenes, changed) if not other] == [
        one for one, other in zip(named.scenes, changed) if not other
    ]
    objects = [obj for scene in found.scenes if scene.partly_named for obj in scene.objects]
    assert all((obj[1] == NAMELESS) != (obj[2] == NAMELESS) and not is_held_out(obj) for obj in objects)
    assert 0.5 < sum(obj[1] == NAMELESS for obj in objects) / len(objects) < 0.7
    assert {name(obj) for obj in objects} == {*SHAPES, *(f"{color} object" for color in COLORS)}
    assert not any(scene.held_out_relation for scene in found.scenes)


def test_colors_without_a_name_are_not_those_with_one() -> None:
    found = make_object_scenes("train", 300, partly_named=1.0)
    palette = torch.tensor(list(COLORS.values())).float()
    shades = torch.cat([palette * factor for factor in (0.85, 0.9, 0.95, 1.0, 1.05)]).clamp(max=255)
    for scene, image, boxes in zip(found.scenes, found.images.float(), found.boxes.int().tolist(), strict=True):
        for obj, (left, top, end, bottom) in zip(scene.objects, boxes):
            if obj[1] == NAMELESS and obj[2] != list(SHAPES).index("triangle"):
                middle = image[:, (top + bottom) // 2, (left + end) // 2]
                # the shade of a named color is within 14 of one of these, and the noise within 9
                assert (shades - middle).abs().max(1).values.min() > 14


def test_questions_of_partly_named_scenes_are_true_and_name_one_object() -> None:
    scenes = make_object_scenes("train", 300, partly_named=1.0).scenes
    kinds = set()
    for scene, questions in zip(scenes, make_scene_questions(scenes), strict=True):
        names = [name(obj) for obj in scene.objects]
        for one in questions:
            kinds.add(one.type)
            if one.type in ("color", "shape"):
                assert any(one.answer in text for text in names)
            if one.type in ("relation", "place") or "bigger" in one.question:
                assert len(set(names)) == 2 and all(f"the {text}" in one.question for text in names)
            if one.type in ("color", "shape") and " the object " in one.question and len(scene.objects) == 2:
                relation, _, reference = one.question.partition(" the object ")[2].rstrip("?").partition(" the ")
                if relation in RELATIONS[scene.axis]:
                    asked = RELATIONS[scene.axis].index(relation)
                    assert reference == names[1 - asked] and one.answer in names[asked]
    assert kinds == set(TYPES)


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match=r"partly_named=0[.]5, split='test'"):
        make_object_scenes("test", 4, partly_named=0.5)
    with pytest.raises(ValueError, match="expected train, validation or test"):
        make_object_scenes("dev")
    with pytest.raises(ValueError, match="size=16"):
        make_object_scenes("train", 4, size=16)
