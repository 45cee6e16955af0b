"""Clouds whose points have classes: generated objects, files, batches, and what the baseline sees."""

from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.data.keyed_batches import Keys
from zoo.data.point_cloud.datamodule import LabeledPointsDataModule, neighborhood_statistics
from zoo.data.point_cloud.dataset import LabeledPoints, PointCloudSplits
from zoo.data.point_cloud.load_points import load_labeled_points
from zoo.data.point_cloud_config import LabeledPointSettings, PointCloudAugmentSettings
from zoo.data.rotations import random_rotations
from zoo.data.sources.dataset_cards import load_card
from zoo.data.synthetic import point_parts
from zoo.data.synthetic.point_parts import CLASSES, OBJECTS, PARTS, make_point_parts
from zoo.preprocessing.point_cloud import PointCloudProcessor
from zoo.utils.errors import DataError

PLY = "ply\nformat ascii 1.0\nelement vertex {n}\nproperty float x\nproperty float y\nproperty float z\n" \
      "property uchar red\nproperty uchar label\nend_header\n"  # fmt: skip


def test_objects_are_repeatable_and_have_all_parts_of_their_kind() -> None:
    clouds, labels = make_point_parts(10, seed=3, points=400)
    again, labels_again = make_point_parts(10, seed=3, points=400)
    assert all(map(torch.equal, clouds, again)) and all(map(torch.equal, labels, labels_again))
    kinds = [{CLASSES[i].split()[0] for i in own.unique().tolist()} for own in labels]
    assert sorted(name for kind in kinds for name in kind) == sorted([*PARTS] * 2), "the parts of one kind in each"
    assert set(torch.cat(labels).tolist()) == set(range(len(CLASSES)))
    assert all(len(cloud) == len(own) and cloud.dtype == torch.float32 for cloud, own in zip(clouds, labels))
    upright = make_point_parts(10, seed=3, points=400, rotated=False)[0]
    for one, other in zip(upright, clouds):  # the distances of the points stay
        assert torch.allclose(torch.pdist(one), torch.pdist(other), atol=1e-4) and not torch.allclose(one, other)
    with pytest.raises(ValueError, match=r"missing=1\.0"):
        make_point_parts(2, seed=0, missing=1.0)


@pytest.mark.parametrize("name", list(PARTS))
def test_points_are_on_the_surface_of_their_part_in_proportion_to_its_area(name: str) -> None:
    pieces = OBJECTS[name](np.random.default_rng(0))
    rng = np.random.default_rng(1)
    assert {piece.part for piece in pieces} == set(PARTS[name])
    for piece in pieces:
        cloud = torch.from_numpy(piece.sample(rng, 800))
        # the area of a surface from the gaps between uniform points: nearest ones are at 1 / (2 sqrt(density))
        gaps = torch.cdist(cloud, cloud).fill_diagonal_(torch.inf).amin(1)
        assert piece.area == pytest.approx(800 * 4 * gaps.mean().square().item(), rel=0.2)


def test_the_card_tells_the_truth() -> None:
    card = load_card("synthetic_point_parts")
    assert list(card.labels) == CLASSES and not card.real
    assert card.splits == dict(train=point_parts.TRAIN, validation=point_parts.VALIDATION, test=point_parts.TEST)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Clouds of 6 to 11 points with the classes 2, 7 and -1 in turn, as PLY, NPZ and NPY files."""
    rng = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    for i in range(6):
        cloud, label = rng.standard_normal((6 + i, 3)).astype(np.float32), np.resize([2, 7, -1], 6 + i)
        file = tmp_path / "scans" / f"{i}"
        if i % 3 == 0:
            rows = (f"{x} {y} {z} 51 {max(c, 0) or 2}\n" for (x, y, z), c in zip(cloud, label))
            file.with_suffix(".ply").write_text(PLY.format(n=len(cloud)) + "".join(rows))
        elif i % 3 == 1:
            np.savez(file.with_suffix(".npz"), points=cloud, label=label, red=np.full(len(cloud), 51, np.uint8))
        else:
            np.save(file.with_suffix(".npy"), np.concatenate([cloud, label[:, None]], 1))
    return tmp_path / "scans"


def settings(folder: Path, **options) -> LabeledPointSettings:
    return LabeledPointSettings(name=str(folder), **options)


def test_files_of_all_kinds(folder: Path) -> None:
    clouds = load_labeled_points(settings(folder))
    assert (len(clouds.train), len(clouds.test), clouds.classes, clouds.features) == (5, 1, ["2", "7"], 0)
    whole = LabeledPoints([cloud for part in clouds.parts for cloud in part.clouds])
    sizes = sorted((len(cloud), int((cloud[:, -1] < 0).sum())) for cloud in whole.clouds)
    assert sizes == [(6, 0), (7, 2), (8, 2), (9, 0), (10, 3), (11, 3)]
    assert len(whole.labels) == len(whole.places) == 41 and whole.labels.bincount().tolist()[1] == 17
    for (cloud, point), label in zip(whole.places.tolist(), whole.labels.tolist()):
        assert whole.clouds[cloud][point, -1] == label
    named = load_labeled_points(settings(folder, class_names=list("abcdefgh")))
    assert named.classes == list("abcdefgh") and set(named.train.labels.tolist()) == {2, 7}
    (folder / "2.npy").unlink(), (folder / "5.npy").unlink()
    colors = load_labeled_points(settings(folder, features=["red"]))
    assert colors.features == 1 and torch.allclose(colors.train.clouds[0][:, 3], torch.tensor(0.2))


def test_splits_and_tables(folder: Path, tmp_path: Path) -> None:
    for split, numbers in (("train", "0123"), ("val", "45")):
        (folder / split).mkdir()
        for file in [file for file in folder.iterdir() if file.stem in numbers]:
            file.rename(folder / split / file.name)
    clouds = load_labeled_points(settings(folder))
    assert (len(clouds.train), len(clouds.test)) == (4, 2)
    grouped = load_labeled_points(settings(folder / "train", group_pattern="([0-3])[.]"))
    (tmp_path / "train.csv").write_text("\n".join(["file", *map(str, sorted((folder / "train").iterdir()))]) + "\n")
    table = load_labeled_points(settings(tmp_path / "train.csv"))
    assert (len(grouped.train), len(grouped.test)) == (len(table.train), len(table.test)) == (3, 1)


@pytest.mark.parametrize(("options", "says"), [
    (dict(point_label="part"), "have no property 'part'"),
    (dict(class_names=["a", "b"]), "class_names= has 2 names.*class 7"),
    (dict(points="scan"), "scan"),
])  # fmt: skip
def test_options_that_do_not_fit_the_files(folder: Path, options: dict, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_labeled_points(settings(folder, **options))


def test_what_is_wrong_with_labels(folder: Path) -> None:
    strange = np.load(folder / "2.npy")
    (folder / "train").mkdir(), (folder / "test").mkdir()
    (folder / "0.ply").rename(folder / "train" / "0.ply"), (folder / "1.npz").rename(folder / "train" / "1.npz")
    strange[3, 3] = 5
    np.save(folder / "test" / "2.npy", strange)
    with pytest.raises(DataError, match=r"2\.npy: the class 5 is not among those of training \(2, 7\)"):
        load_labeled_points(settings(folder))
    strange[3, 3] = 2.5
    np.save(folder / "test" / "2.npy", strange)
    with pytest.raises(DataError, match=r"2\.npy: the label 2\.5 is not a whole number"):
        load_labeled_points(settings(folder))
    for words, says in ((dict(point_label="x"), "point_label='x'"), (dict(name="auto", class_names=["a"]), "own data")):
        with pytest.raises(ValueError, match=says):
            LabeledPointSettings(**words)


# --- batches ----------------------------------------------------------------------------------------------------------


def module(**augment) -> LabeledPointsDataModule:
    clouds, labels = make_point_parts(12, seed=0, points=40)
    parts = [torch.cat([c, own[:, None].to(c)], 1) for c, own in zip(clouds, labels)]
    for part in parts:
        part[:5, -1] = -1
    data = LabeledPoints(parts)
    splits = PointCloudSplits(data, data, "synthetic", False, "", classes=list(CLASSES))
    plain = dict(rotation="none", jitter=0.0, drop=0.0)
    return LabeledPointsDataModule(splits, PointCloudProcessor(num_points=28), 4,
                                   augment=PointCloudAugmentSettings(**plain | augment))  # fmt: skip


def test_classes_stay_with_points_that_are_dropped_rotated_and_sampled() -> None:
    data = module(drop=0.5, rotation="z")
    for cloud in data.train.clouds:  # the class is the half of the cloud, which rotations about z keep
        cloud[5:, -1] = (cloud[5:, 2] > cloud[5:, 2].median()).float()
    raw = data.train.__getitems__(Keys([0, 7, 3], 0))
    for train in (True, False):
        batch = data.augment(raw, seed=0, step=0, train=train)
        labeled, counts = batch["labeled"], batch["labeled"].sum(1)
        assert batch["points"].shape == (3, max(batch["lengths"]), 3) and labeled.shape == batch["points"].shape[:2]
        assert len(batch["labels"]) == len(batch["targets"]) == counts.sum()
        assert not (labeled & ~batch["attention_mask"].bool()).any()
        assert all(3 < count < length for count, length in zip(counts.tolist(), batch["lengths"]))
        for row, labels in enumerate(batch["labels"].split(counts.tolist())):
            z = batch["points"][row][labeled[row], 2]
            assert z[labels == 1].min() > z[labels == 0].max()


def test_statistics_of_the_baseline_do_not_depend_on_the_pose() -> None:
    data = module()
    rows = torch.tensor([0, 3, 34, 35, 120])
    found = data.simple_features("test", rows)
    assert found.shape == (5, 13 + 48) and found.isfinite().all()
    cloud, points = data.train.clouds[1], torch.tensor([4, 0])
    turn = random_rotations(torch.tensor([0.3, 0.6, 0.2]))
    moved = 3 * cloud[:, :3] @ turn.mT + torch.tensor([1.0, -2.0, 5.0])
    assert torch.allclose(neighborhood_statistics(cloud, points), neighborhood_statistics(moved, points), atol=1e-3)
    plane = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1.0, 0.0])
    assert neighborhood_statistics(plane, torch.arange(50))[:, [1, 5, 9]].max() < 1e-3, "a surface has no thickness"
    assert neighborhood_statistics(torch.ones(1, 3), torch.tensor([0])).isfinite().all(), "a cloud of one point"
