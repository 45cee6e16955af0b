"""The drawn scenes: repeatable, what is held out stays out, captions true of their pictures, quick."""

import time

import pytest
import torch

from zoo.data.sources.dataset_cards import load_card
from zoo.data.synthetic.scenes import COLORS, FAMILY, HELD_OUT, SHAPES, TEST, TRAIN, VALIDATION, Scene, make_pairs

OTHER_SIDE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def forms(caption: str) -> list[tuple[str, str]]:
    """[(color, shape)] that a caption names."""
    words = caption.split()
    return [(words[i], words[i + 1]) for i in range(len(words) - 1) if words[i] in COLORS]


def test_the_same_seed_draws_the_same() -> None:
    images, captions = make_pairs("train", 40, seed=3)
    again, said = make_pairs("train", 40, seed=3)
    assert torch.equal(images, again) and captions == said
    assert not torch.equal(images, make_pairs("train", 40, seed=4)[0])
    assert images.shape == (40, 3, 32, 32) and images.dtype == torch.uint8
    assert make_pairs("test", 5, size=48)[0].shape == (5, 3, 48, 48)


def test_what_is_held_out_stays_out() -> None:
    for split in ("train", "validation"):
        seen = {form for captions in make_pairs(split, 4000)[1] for text in captions for form in forms(text)}
        assert not seen & set(HELD_OUT)
        assert len(seen) == len(COLORS) * len(SHAPES) - len(HELD_OUT)  # and all the others are there
    asked = {form for captions in make_pairs("test")[1] for text in captions for form in forms(text)}
    assert asked == set(HELD_OUT)


def test_every_color_and_shape_is_seen_in_other_company() -> None:
    for part in (0, 1):
        held = [pair[part] for pair in HELD_OUT]
        assert set(held) == set(COLORS if part == 0 else SHAPES) and max(map(held.count, held)) <= 2


def test_all_captions_of_the_test_differ_and_so_do_the_scenes() -> None:
    images, captions = make_pairs("test")
    assert len(images) == TEST == len({one[0] for one in captions})
    assert len({text for one in captions for text in one}) == 2 * TEST  # nor is one the other's, said from behind


def test_captions_are_true() -> None:
    """Where the one form's own color lies, compared with the other's."""
    images, captions = make_pairs("test", 300, seed=1)
    right = told = 0
    for picture, (text, other) in zip(images.float(), captions, strict=True):
        place = next(p for p in OTHER_SIDE if f" {p} a " in text)
        assert OTHER_SIDE[place] in other
        (first, _), (second, _) = forms(text)
        if first == second:
            continue
        centers = []
        for color in (first, second):
            distance = (picture - torch.tensor(COLORS[color]).view(3, 1, 1).float()).norm(dim=0)
            rows, columns = (distance < 70).nonzero(as_tuple=True)
            centers.append((columns.float().mean(), rows.float().mean()))
        axis = 0 if place in ("left of", "right of") else 1
        before = centers[0][axis] < centers[1][axis]
        told += 1
        right += int(before == (place in ("left of", "above")))
    assert told > 200 and right / told > 0.97


def test_families_are_near_misses() -> None:
    _, captions = make_pairs("train", 400)
    for start in range(0, 400, FAMILY):
        family = [set(text.split()) for (text, *_) in captions[start : start + FAMILY]]
        assert all(len(family[0] ^ other) <= 6 for other in family[1:])


def test_a_scene_is_said_from_either_side() -> None:
    scene = Scene(((0, 0, 1), (1, 5, 2)), axis=0)
    assert scene.captions() == (
        "a small red ring left of a large blue square",
        "a large blue square right of a small red ring",
    )


def test_quick_and_the_card_tells_the_truth() -> None:
    started = time.process_time()
    make_pairs("train", 4000)
    assert time.process_time() - started < 4  # half a second on an idle core
    card = load_card("synthetic_image_text")
    assert card.splits == {"train": TRAIN, "validation": VALIDATION, "test": TEST} and not card.real
    held = ", ".join(" ".join(pair) for pair in HELD_OUT)
    assert held in card.held_out
    with pytest.raises(ValueError, match="train, validation or test"):
        make_pairs("dev")
