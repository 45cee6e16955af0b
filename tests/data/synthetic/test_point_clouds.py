"""The synthetic shapes: repeatable, balanced, rotated uniformly, and with parts that are really missing."""

import numpy as np
import pytest
import torch

from zoo.data.rotations import random_rotations, rotations_about_z
from zoo.data.sources.dataset_cards import load_card
from zoo.data.synthetic import point_clouds
from zoo.data.synthetic.point_clouds import CLASSES, SURFACES, cut_off, hidden_by_disk, make_point_clouds

CLEAN = dict(noise=0.0, missing=0.0, outliers=0.0)


def test_the_same_seed_makes_the_same_clouds() -> None:
    clouds, labels = make_point_clouds(20, seed=3)
    again, labels_again = make_point_clouds(20, seed=3)
    assert all(map(torch.equal, clouds, again)) and torch.equal(labels, labels_again)
    assert not torch.equal(clouds[0], make_point_clouds(20, seed=4)[0][0])
    assert labels.bincount().tolist() == [2] * len(CLASSES)
    assert all(cloud.dtype == torch.float32 and cloud.shape[1] == 3 for cloud in clouds)


def test_rotations_are_uniform() -> None:
    """Of the Haar measure: E tr R = 0, E (tr R)^2 = 1, and every entry has the mean 0 and the variance 1 / 3."""
    turns = random_rotations(torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)).double())
    assert torch.allclose(turns @ turns.mT, torch.eye(3).double().expand_as(turns), atol=1e-12)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(len(turns)).double())
    trace = turns.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(trace.mean()) < 0.03 and abs(trace.square().mean() - 1) < 0.04
    assert turns.mean(0).abs().max() < 0.02 and (turns.square().mean(0) - 1 / 3).abs().max() < 0.01
    upright = rotations_about_z(torch.rand(50, generator=torch.Generator().manual_seed(0)))
    axis = torch.tensor([0.0, 0.0, 1.0])
    assert torch.equal(upright @ axis, axis.expand(50, 3)) and not torch.equal(upright[0], upright[1])


def test_rotated_clouds_are_the_upright_ones() -> None:
    """The same shapes, of which the distances from the center stay; the directions do not."""
    upright, rotated = (make_point_clouds(10, seed=0, rotated=rotated)[0] for rotated in (False, True))
    for one, other in zip(upright, rotated):
        one, other = one - one.mean(0), other - other.mean(0)
        assert torch.allclose(one.norm(dim=1), other.norm(dim=1), atol=1e-4)
        assert not torch.allclose(one, other, atol=0.1)


@pytest.mark.parametrize("name", CLASSES)
def test_points_are_on_the_surface_and_proportions_vary(name: str) -> None:
    first, second = (SURFACES[name](np.random.default_rng(seed), 400) for seed in (0, 1))
    assert first.shape == second.shape == (400, 3) and np.isfinite(first).all()
    if name != "sphere":
        assert not np.allclose(np.ptp(first, axis=0), np.ptp(second, axis=0), rtol=0.02)
    x, y, z = first.T
    radius = np.hypot(x, y)
    on_surface = {
        "sphere": lambda: np.isclose(np.linalg.norm(first, axis=1), 1),
        "cylinder": lambda: np.isclose(radius, 1) | np.isclose(z, 0) | np.isclose(z, z.max()),
        "cone": lambda: np.isclose(z, 0) | (np.abs(z / z.max() + radius - 1) < 0.1),
        "pyramid": lambda: np.isclose(z, 0) | (np.abs(z / z.max() + np.abs(first[:, :2]).max(1) - 1) < 0.1),
        "plate": lambda: np.isclose(z, 0),
        "helix": lambda: np.abs(radius - 1) < 0.0601,
        "torus": lambda: np.abs(np.hypot(radius - 1, z) - np.abs(z).max()) < 0.01,
    }
    assert name not in on_surface or on_surface[name]().all()


@pytest.mark.parametrize("remove", ["cut_off", "hidden_by_disk"])
def test_the_missing_part_is_missing(remove: str) -> None:
    rng = np.random.default_rng(0)
    cloud = SURFACES["sphere"](rng, 300)
    direction = np.array([0.6, 0.0, 0.8])
    if remove == "cut_off":
        left, depth = cut_off(cloud, direction, 0.25), cloud @ direction
    else:
        left = hidden_by_disk(cloud, direction, cloud[0], 0.25)
        depth = -np.linalg.norm(np.cross(cloud - cloud[0], direction), axis=1)  # from the axis of the disk
    assert left.shape == (225, 3)
    kept = (cloud[:, None] == left).all(-1).any(1)
    assert kept.sum() == 225 and depth[kept].max() < depth[~kept].min()


def test_a_part_of_whole_clouds_is_missing() -> None:
    whole, _ = make_point_clouds(200, seed=0, points=100, **CLEAN)
    parts, _ = make_point_clouds(200, seed=0, points=100, **CLEAN | dict(missing=0.4))
    assert {len(cloud) for cloud in whole} == {100}
    sizes = torch.tensor([len(cloud) for cloud in parts])
    assert sizes.min() >= 60 and sizes.max() <= 100 and 75 < sizes.float().mean() < 85


def test_noise_and_stray_points() -> None:
    clouds, labels = make_point_clouds(100, seed=0, **CLEAN | dict(outliers=0.3), rotated=False)
    spheres = [cloud for cloud, label in zip(clouds, labels.tolist()) if label == 0]
    for cloud in spheres:
        distances = (cloud - cloud.median(0).values).norm(dim=1)
        assert len(cloud) > 160 or distances.std() < 0.2
    assert max(map(len, clouds)) > 190
    noisy = make_point_clouds(100, seed=0, **CLEAN | dict(noise=0.1))[0]
    assert not torch.allclose(noisy[0].mean(0), clouds[0][:160].mean(0))


@pytest.mark.parametrize(("options", "says"), [
    (dict(n=0), "at least one cloud"), (dict(points=4), "at least 16 points"), (dict(missing=1.0), "missing=1.0"),
    (dict(outliers=-0.1), "outliers=-0.1"),
])  # fmt: skip
def test_what_it_refuses(options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_point_clouds(**dict(n=10, seed=0) | options)


def test_the_card_tells_the_truth() -> None:
    card = load_card("synthetic_point_clouds")
    assert list(card.labels) == CLASSES and not card.real
    sizes = dict(train=point_clouds.TRAIN, validation=point_clouds.VALIDATION, test=point_clouds.TEST)
    assert card.splits == sizes
