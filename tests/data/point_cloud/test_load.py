"""Folders and tables of point clouds: what is read, and what the errors say."""

from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.data.point_cloud.load import load_point_clouds
from zoo.data.point_cloud_config import PointCloudAugmentSettings, PointCloudDataSettings
from zoo.data.synthetic import point_clouds as synthetic
from zoo.preprocessing.point_cloud import PointCloudProcessor
from zoo.utils.errors import DataError

PLY = """ply
format ascii 1.0
element vertex {n}
property float x
property float y
property float z
property uchar red
end_header
"""


def write_cloud(file: Path, cloud: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".npy":
        np.save(file, cloud)
        return
    rows = "".join(f"{x} {y} {z} 51\n" for x, y, z in cloud[:, :3])
    file.write_text(PLY.format(n=len(cloud)) + rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten clouds of 5 to 14 points."""
    rng = np.random.default_rng(0)
    for name in ("chair", "table"):
        for i in range(10):
            cloud = rng.standard_normal((5 + i, 3)).astype(np.float32)
            write_cloud(tmp_path / "clouds" / name / f"{i}.{'ply' if i % 2 else 'npy'}", cloud)
    return tmp_path / "clouds"


def settings(folder: Path, **options) -> PointCloudDataSettings:
    return PointCloudDataSettings(name=str(folder), **options)


def test_a_folder_of_classes(folder: Path) -> None:
    clouds = load_point_clouds(settings(folder))
    assert (len(clouds.train), len(clouds.test), clouds.classes) == (18, 2, ["chair", "table"])
    assert clouds.features == 0 and clouds.real
    assert sorted(len(c) for part in clouds.parts for c in part.clouds) == sorted([*range(5, 15)] * 2)
    first = np.load(folder / "chair" / "0.npy")
    found = [torch.equal(torch.from_numpy(first), cloud) for part in clouds.parts for cloud in part.clouds]
    assert sum(found) == 1


def test_folders_of_splits_and_tables_are_the_same(folder: Path, tmp_path: Path) -> None:
    (folder / "test").mkdir()
    (folder / "train").mkdir()
    for name in ("chair", "table"):
        (folder / "test" / name).mkdir()
        for i in range(3):
            (folder / name / f"{i}.{'ply' if i % 2 else 'npy'}").rename(
                folder / "test" / name / f"{i}.{'ply' if i % 2 else 'npy'}"
            )
        (folder / name).rename(folder / "train" / name)
    clouds = load_point_clouds(settings(folder))
    assert (len(clouds.train), len(clouds.test)) == (14, 6)
    for split in ("train", "test"):
        files = sorted((folder / split).rglob("*.*"))
        lines = [f"{file},{file.parent.name}" for file in files]
        (tmp_path / f"{split}.csv").write_text("\n".join(["cloud,label", *lines]) + "\n")
    table = load_point_clouds(settings(tmp_path))
    assert [len(c) for c in table.test.clouds] == [len(c) for c in clouds.test.clouds]
    assert torch.equal(table.train.labels, clouds.train.labels)


def test_features_of_the_points(folder: Path) -> None:
    for file in folder.rglob("*.npy"):
        file.unlink()
    clouds = load_point_clouds(settings(folder, features=["red"]))
    assert clouds.features == 1 and torch.allclose(clouds.train.clouds[0][:, 3], torch.tensor(0.2))
    own = PointCloudProcessor(in_features=4, features=("red",))
    assert load_point_clouds(settings(folder), processor=own).features == 1, "a model chooses what is read"


@pytest.mark.parametrize(("damage", "says"), [
    ("truncated", "0.npy"), ("columns", r"6\.npy is \[11, 5\], expected \[N, 3\]"), ("nan", "NaN or infinite"),
    ("empty", "has no points"), ("other", "chair contains no point cloud"), ("alone", "expected at least 2"),
])  # fmt: skip
def test_what_is_wrong_with_files(folder: Path, damage: str, says: str) -> None:
    chair = folder / "chair"
    cloud = np.load(chair / "6.npy")
    if damage == "truncated":
        (chair / "0.npy").write_bytes((chair / "0.npy").read_bytes()[:-7])
    elif damage == "columns":
        np.save(chair / "6.npy", np.pad(cloud, ((0, 0), (0, 2))))
    elif damage == "nan":
        cloud[3, 1] = np.nan
        np.save(chair / "6.npy", cloud)
    elif damage == "empty":
        np.save(chair / "6.npy", cloud[:0])
    elif damage == "other":
        for file in chair.iterdir():
            file.rename(file.with_suffix(".txt"))
    else:
        (folder / "table").rename(folder.parent / "table")
    with pytest.raises(DataError, match=says):
        load_point_clouds(settings(folder))
    if damage in ("truncated", "columns", "nan", "empty"):
        clouds = load_point_clouds(settings(folder, on_error="skip"))
        assert sum(map(len, clouds.parts)) == 19 and len(clouds.train.broken) == 1


def test_names_that_do_not_exist(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'synthetic'"):
        load_point_clouds(settings(Path("synthetik")))
    (tmp_path / "table.csv").write_text("points,label\nnothing.npy,chair\nno.npy,table\n")
    with pytest.raises(DataError, match=r"nothing\.npy does not exist"):
        load_point_clouds(settings(tmp_path / "table.csv"))
    with pytest.raises(DataError, match="points="):
        load_point_clouds(settings(tmp_path / "table.csv", points="clouds"))


def test_the_synthetic_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("TRAIN", 40), ("VALIDATION", 20), ("TEST", 30)):
        monkeypatch.setattr(synthetic, name, size)
    clouds = load_point_clouds(PointCloudDataSettings(max_test_samples=20))
    assert [len(part) for part in clouds.parts] == [40, 20, 20] and clouds.classes == synthetic.CLASSES
    upright = clouds.train.clouds[int((clouds.train.labels == 8).nonzero()[0, 0])]
    flat = (upright[:, 2] - upright[:, 2].median()).abs().median() / (upright - upright.mean(0)).norm(dim=1).max()
    assert flat < 0.05, "plates of the training set lie in the plane of x and y"


@pytest.mark.parametrize(("options", "says"), [
    (dict(rotation="x"), "expected 'none', 'z' or 'so3'"), (dict(jitter=-1.0), "jitter"), (dict(drop=1.0), "drop=1.0"),
])  # fmt: skip
def test_options(options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PointCloudAugmentSettings(**options)
    with pytest.raises(ValueError, match="synthetic points"):
        PointCloudDataSettings(features=["red"])
    with pytest.raises(ValueError, match="num_points=0"):
        PointCloudDataSettings(num_points=0)
