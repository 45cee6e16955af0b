"""Batches of point clouds: padding, augmentation as a function of (seed, epoch, index), the same as in prediction."""

import pytest
import torch

from zoo.data.keyed_batches import Keys
from zoo.data.point_cloud.datamodule import PointCloudDataModule, distance_statistics
from zoo.data.point_cloud.dataset import PointCloudDataset, PointCloudSplits
from zoo.data.point_cloud_config import PointCloudAugmentSettings
from zoo.data.rotations import random_rotations
from zoo.data.synthetic.point_clouds import make_point_clouds
from zoo.preprocessing.point_cloud import PointCloudProcessor

PLAIN = dict(rotation="none", jitter=0.0, drop=0.0)


def module(features: int = 0, **augment) -> PointCloudDataModule:
    clouds, labels = make_point_clouds(20, seed=0, points=32)
    clouds = [torch.cat([c, torch.arange(len(c) * features).view(len(c), features)], 1) for c in clouds]
    data = PointCloudDataset(clouds, labels)
    splits = PointCloudSplits(data, data, "synthetic", False, "")
    preprocess = PointCloudProcessor(in_features=3 + features, num_points=28)
    return PointCloudDataModule(splits, preprocess, 8, augment=PointCloudAugmentSettings(**PLAIN | augment))


def batch(data: PointCloudDataModule, rows: list[int], epoch: int = 0, train: bool = True) -> dict:
    return data.augment(data.train.__getitems__(Keys(rows, epoch)), seed=0, step=0, train=train)


def test_evaluation_is_what_prediction_sees() -> None:
    data = module()
    rows = [4, 0, 7]
    found, expected = batch(data, rows, train=False), data.augment.preprocess([data.train.clouds[i] for i in rows])
    assert torch.equal(found["points"], expected["points"])
    assert torch.equal(found["attention_mask"], expected["attention_mask"])
    assert found["lengths"] == expected["attention_mask"].sum(1).tolist()
    assert found["labels"].tolist() == found["targets"].tolist() == data.train.labels[rows].tolist()
    assert torch.equal(batch(data, rows)["points"], found["points"]), "no augmentation is on"


@pytest.mark.parametrize("options", [dict(rotation="so3"), dict(rotation="z"), dict(jitter=0.02), dict(scale=0.2),
                                     dict(drop=0.5)])  # fmt: skip
def test_a_cloud_is_augmented_alike_in_any_batch_and_anew_in_each_epoch(options: dict) -> None:
    data = module(**options)
    one, other, later = batch(data, [3, 5, 9]), batch(data, [9, 1]), batch(data, [9, 1], epoch=1)
    count = one["lengths"][2]
    assert other["lengths"][0] == count
    assert torch.allclose(one["points"][2, :count], other["points"][0, :count], atol=1e-6)
    assert not torch.allclose(later["points"][0, :8], other["points"][0, :8], atol=1e-4)
    assert (one["points"][one["attention_mask"] == 0] == 0).all(), "padding stays zero"


def test_rotations_keep_distances_and_features() -> None:
    data, plain = module(1, rotation="so3"), module(1)
    turned, still = batch(data, [2])["points"][0], batch(plain, [2])["points"][0]
    assert torch.allclose(torch.pdist(turned[:, :3]), torch.pdist(still[:, :3]), atol=1e-5)
    assert torch.equal(turned[:, 3], still[:, 3])
    upright = batch(module(rotation="z"), [2])["points"][0]
    assert torch.allclose(upright[:, 2], still[:, 2], atol=1e-6) and not torch.allclose(upright, still[:, :3])


def test_noise_has_the_size_that_is_asked_for() -> None:
    noisy, still = module(jitter=0.02), module()
    raw = still.train.__getitems__(Keys(list(range(20)), 0))
    points, lengths = noisy.augment.augmented(raw["points"], raw["lengths"], keys_of(raw))
    difference = torch.cat([(p - q)[:n] / radius(q[:n]) for p, q, n in zip(points, raw["points"], lengths)])
    assert torch.allclose(difference.std(0), torch.full((3,), 0.02), rtol=0.15)
    assert difference.mean(0).abs().max() < 0.003


def radius(cloud: torch.Tensor) -> torch.Tensor:
    return (cloud - cloud.mean(0)).norm(dim=1).max()


def keys_of(raw: dict):
    from zoo.utils.keyed_random import KeyedRandom

    return KeyedRandom(0, 0, raw["index"])


def test_dropped_points_are_a_random_part_in_order() -> None:
    data = module(1, drop=0.5)
    raw = data.train.__getitems__(Keys(list(range(20)), 0))
    points, lengths = data.augment.augmented(raw["points"], raw["lengths"], keys_of(raw))
    fractions = torch.tensor(lengths) / torch.tensor(raw["lengths"])
    assert fractions.min() >= 0.5 and fractions.max() <= 1 and 0.65 < fractions.mean() < 0.85
    for row, count, size in zip(points, lengths, raw["lengths"]):
        numbers = row[:count, 3]  # the feature of each point is its number
        assert (numbers.diff() > 0).all() and numbers.max() < size
    assert points.shape[1] == max(lengths)


def test_statistics_of_the_baseline_do_not_depend_on_the_pose() -> None:
    cloud = make_point_clouds(1, seed=0)[0][0].double()
    turn = random_rotations(torch.tensor([0.3, 0.6, 0.2]).double())
    moved = 3 * cloud.flip(0) @ turn.mT + torch.tensor([1.0, -2.0, 5.0])
    one, other = distance_statistics(cloud.float()), distance_statistics(moved.float())
    assert one.shape == (48,) and torch.allclose(one, other, atol=2e-3) and one.isfinite().all()
    assert distance_statistics(torch.ones(1, 3)).isfinite().all(), "a cloud of one point"
    data = module()
    assert data.simple_features("test", torch.tensor([3, 1])).shape == (2, 48)
