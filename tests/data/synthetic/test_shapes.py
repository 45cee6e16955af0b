"""The embedded shapes: repeatable, balanced, quick, and out of a linear model's reach."""

import time

import pytest
import torch
from torch import nn

from zoo.data.sources.dataset_cards import load_card
from zoo.data.synthetic.shapes import CLASSES, TEST, TRAIN, make_images


@pytest.fixture(scope="module")
def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return *make_images(4000, seed=0), *make_images(1000, seed=1)


def test_the_same_seed_draws_the_same() -> None:
    images, labels = make_images(60, seed=3)
    again, labels_again = make_images(60, seed=3)
    assert torch.equal(images, again) and torch.equal(labels, labels_again)
    assert not torch.equal(images, make_images(60, seed=4)[0])
    assert images.shape == (60, 3, 32, 32) and images.dtype == torch.uint8


def test_classes_are_balanced_and_each_image_is_its_own(drawn: tuple[torch.Tensor, ...]) -> None:
    images, labels, test, _ = drawn
    assert labels.bincount().tolist() == [400] * len(CLASSES)
    everything = torch.cat([images, test]).flatten(1)
    assert len(everything.unique(dim=0)) == len(everything)


def test_it_takes_a_couple_of_seconds() -> None:
    started = time.process_time()
    make_images(TRAIN, seed=0)
    assert time.process_time() - started < 6  # about 1.5 on an idle core


def test_a_linear_model_stays_under_sixty_per_cent(drawn: tuple[torch.Tensor, ...]) -> None:
    images, labels, test, test_labels = drawn
    x, y = images.flatten(1) / 127.5 - 1, test.flatten(1) / 127.5 - 1
    for raw, held in ((x, y), ((x - 0.1).abs(), (y - 0.1).abs())):
        linear = nn.Linear(raw.shape[1], len(CLASSES))
        nn.init.zeros_(linear.weight)
        optimizer = torch.optim.AdamW(linear.parameters(), lr=1e-3, weight_decay=0.1)
        order = torch.Generator().manual_seed(0)
        for _ in range(10):
            for rows in torch.randperm(len(raw), generator=order).split(200):
                loss = nn.functional.cross_entropy(linear(raw[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        assert (linear(held).argmax(1) == test_labels).float().mean() < 0.55


def test_a_flip_keeps_the_class_and_the_card_tells_the_truth() -> None:
    from zoo.data.synthetic.shapes import _DISTANCES

    line = torch.linspace(-1, 1, 41).numpy()
    for form in _DISTANCES:
        straight = form(line[None, :], line[:, None])
        assert abs(straight - straight[:, ::-1]).max() < 1e-6
    card = load_card("synthetic_images")
    assert card.labels == tuple(CLASSES) and card.splits == {"train": TRAIN, "test": TEST} and not card.real
    pixels = make_images(2000, seed=0)[0] / 255
    assert (pixels.mean((0, 2, 3)) - torch.tensor(card.mean)).abs().max() < 0.02
    assert (pixels.std((0, 2, 3)) - torch.tensor(card.std)).abs().max() < 0.02


def test_refuses_pictures_too_small_to_show_a_form() -> None:
    with pytest.raises(ValueError, match="at least 16 x 16"):
        make_images(10, seed=0, size=8)
