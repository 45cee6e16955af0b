"""Point clouds: their files, and what the processor makes of them."""

import itertools
import struct

import numpy as np
import pytest
import torch

import zoo
from zoo.preprocessing import point_cloud_io
from zoo.preprocessing.modality import of_file, of_item
from zoo.preprocessing.point_cloud import PointCloudProcessor, cloud_html, plot_cloud
from zoo.utils.errors import LoadError

POINTS = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
COLORS = np.arange(21).reshape(7, 3).astype(np.uint8)
HEADER = """ply
format {} 1.0
comment made for a test
element camera 2
property float view
property list uchar int places
element vertex 7
property float x
property double y
property float z
property uchar red
element face 1
property list uchar int vertex_indices
end_header
"""


def ply(order: str) -> bytes:
    """A PLY file with an element of lists before the points, and faces after them."""
    head = HEADER.format(order).encode()
    if order == "ascii":
        rows = [f"{x} {y} {z} {red}" for (x, y, z), red in zip(POINTS.tolist(), COLORS[:, 0])]
        return head + "\n".join(["1.5 2 8 9", "0.5 0", *rows, "3 0 1 2", ""]).encode()
    sign = {"binary_little_endian": "<", "binary_big_endian": ">"}[order]
    body = struct.pack(f"{sign}fB2i", 1.5, 2, 8, 9) + struct.pack(f"{sign}fB", 0.5, 0)
    for (x, y, z), red in zip(POINTS.tolist(), COLORS[:, 0].tolist()):
        body += struct.pack(f"{sign}fdfB", x, y, z, red)
    return head + body + struct.pack(f"{sign}B3i", 3, 0, 1, 2)


@pytest.mark.parametrize("order", point_cloud_io.ORDERS)
def test_ply_files_have_the_same_points_in_every_format(order, tmp_path):
    (file := tmp_path / "cloud.ply").write_bytes(ply(order))
    assert np.array_equal(point_cloud_io.read(file), POINTS)
    read = point_cloud_io.read(file, ["red"])
    assert np.allclose(read, np.concatenate([POINTS, COLORS[:, :1] / 255], 1)) and read.dtype == np.float32


def test_arrays(tmp_path):
    np.save(tmp_path / "a.npy", POINTS.astype(np.float64))
    np.savez(tmp_path / "b.npz", points=POINTS, colors=COLORS, height=POINTS[:, 2])
    np.savez(tmp_path / "c.npz", anything=POINTS)
    assert np.array_equal(point_cloud_io.read(tmp_path / "a.npy"), POINTS)
    assert np.array_equal(point_cloud_io.read(tmp_path / "c.npz"), POINTS)
    read = point_cloud_io.read(tmp_path / "b.npz", ["colors", "height"])
    assert np.allclose(read, np.concatenate([POINTS, COLORS / 255, POINTS[:, 2:]], 1))
    found = PointCloudProcessor(in_features=7, features=["colors", "height"])(tmp_path / "b.npz")["points"]
    assert found.shape == (1, 7, 7)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ply", b"png", "its first line is not 'ply'"),
        ("a.ply", b"ply\nformat ascii 1.0\n", "no line 'end_header'"),
        ("a.ply", b"ply\nend_header\n", "no line 'format'"),
        ("a.ply", b"ply\nformat middle 1.0\nend_header\n", "unknown format 'middle'"),
        (
            "a.ply",
            b"ply\nformat ascii 1.0\nproperty quad x\nend_header\n",
            "'property quad x', which is not",
        ),
        ("a.ply", b"ply\nformat ascii 1.0\nelement face 0\nend_header\n", "no element 'vertex'"),
        ("a.ply", ply("ascii").replace(b"float z", b"float w"), "no property 'z'.*x, y, w, red"),
        ("a.ply", ply("binary_big_endian")[:-60], "ends after [0-9] of 7 points: it is damaged"),
        ("a.ply", ply("ascii")[:-60], "point [0-9] has [0-9] numbers, expected 4"),
        ("a.ply", ply("ascii").replace(b"uchar red", b"list uchar int red"), "a property that is a list"),
        ("a.ply", ply("ascii").replace(b"vertex 7", b"vertex 9999999999"), "too few for 9999999999 rows of 'vertex'"),
        ("a.ply", ply("ascii").replace(b"camera 2", b"camera 9999999999"), "too few for 9999999999 rows of 'camera'"),
        ("a.npy", b"nothing", "cannot be read as a point cloud"),
        ("a.npz", b"PK\x03\x04", "cannot be read as a point cloud"),
        ("a.xyz", b"1 2 3\n# none\n\n1 2\n", "a.xyz, line 4: 2 numbers, expected 3, as before"),
        ("a.pts", b"x y z\n1 2 3\n", "a.pts, line 1: 'x y z', expected numbers"),
        ("a.off", b"1 2 3\n", "is not an OFF file"),
        ("a.off", b"OFF\n", "no number of vertices after 'OFF'"),
        ("a.off", b"OFF\n2 0 0\n1 2 3\n", "ends after 1 of 2 points: it is damaged"),
        ("a.obj", b"v 1 2 3", "unknown file type: expected a point cloud in .ply, .npy, .npz"),
    ],
)
def test_damaged_files_are_named(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadError, match=message) as error:
        point_cloud_io.read(tmp_path / name)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xyz", "# x y z\n1 2 3\n\n4 5 6.5\n"),
        ("a.pts", "2\n1,2,3\n4,5,6.5\n"),
        ("a.off", "OFF\n2 1 0\n1 2 3\n4 5 6.5\n3 0 1 0\n"),
        ("b.off", "OFF2 1 0\n1 2 3\n4 5 6.5\n3 0 1 0\n"),
    ],
)
def test_texts_of_points(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    assert point_cloud_io.read(tmp_path / name).tolist() == [[1, 2, 3], [4, 5, 6.5]]


def test_clouds_of_torch_geometric():
    data = pytest.importorskip("torch_geometric.data")
    cloud = data.Data(pos=torch.from_numpy(POINTS), x=torch.ones(7))
    plain = PointCloudProcessor()
    assert torch.equal(plain([cloud])["points"], plain([POINTS])["points"])
    assert PointCloudProcessor(in_features=4)(cloud)["points"][..., 3].tolist() == [[1.0] * 7]
    cloud.x = None
    with pytest.raises(ValueError, match="the point cloud has no x: expected the 1 features of each point"):
        PointCloudProcessor(in_features=4)(cloud)


def test_arrays_that_are_no_clouds(tmp_path):
    np.savez(tmp_path / "two.npz", a=POINTS, b=POINTS)
    np.save(tmp_path / "flat.npy", POINTS[0])
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for file, message in (("two.npz", "the arrays a, b: expected one with the name 'points'"),
                          ("flat.npy", r"\[3\] of float32, expected numbers \[N, 3"),
                          ("objects.npy", "cannot be read as a point cloud")):  # fmt: skip
        with pytest.raises(LoadError, match=message):
            point_cloud_io.read(tmp_path / file)
    np.savez(tmp_path / "one.npz", points=POINTS, colors=COLORS[:3])
    with pytest.raises(LoadError, match="no array 'colours'; did you mean 'colors'"):
        point_cloud_io.read(tmp_path / "one.npz", ["colours"])
    with pytest.raises(LoadError, match=r"colors is \[3, 3\], expected \[7\]"):
        point_cloud_io.read(tmp_path / "one.npz", ["colors"])
    with pytest.raises(FileNotFoundError):
        point_cloud_io.read(tmp_path / "none.ply")


def test_clouds_are_centered_scaled_and_padded():
    short = torch.from_numpy(POINTS[:4])
    batch = PointCloudProcessor()([POINTS, short])
    assert batch["points"].shape == (2, 7, 3) and batch["attention_mask"].tolist() == [[1] * 7, [1] * 4 + [0] * 3]
    for row, size in zip(batch["points"], (7, 4)):
        assert row[:size].mean(0).abs().max() < 1e-6
        torch.testing.assert_close(row[:size].norm(dim=1).max(), torch.tensor(1.0))
        assert not row[size:].any()
    plain = PointCloudProcessor(center=False, scale=False)(POINTS)
    assert plain.keys() == {"points"} and torch.equal(plain["points"][0], torch.from_numpy(POINTS))
    assert PointCloudProcessor()(torch.from_numpy(POINTS).expand(3, 7, 3))["points"].shape == (3, 7, 3)
    features = torch.cat([torch.from_numpy(POINTS), torch.full((7, 2), 9.0)], 1)
    assert (PointCloudProcessor(in_features=5)(features)["points"][..., 3:] == 9).all()


def test_a_cloud_of_one_place_is_moved_to_the_origin():
    for cloud in (torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 2.0, 2.0]] * 4)):
        assert torch.equal(PointCloudProcessor()(cloud)["points"][0], torch.zeros_like(cloud))


def test_the_farthest_points_are_a_sample_that_ignores_the_order():
    cloud = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    processor = PointCloudProcessor(num_points=9)
    sample = processor(cloud)["points"][0]
    for seed in range(3):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(processor(cloud[order])["points"][0], sample)
    gaps = [
        min((a - b).norm() for a, b in itertools.combinations(points, 2))
        for points in (sample, PointCloudProcessor()(cloud)["points"][0, :9])
    ]
    assert gaps[0] > 2 * gaps[1]
    random = PointCloudProcessor(num_points=9, sampling="random")
    assert torch.equal(random(cloud)["points"], random(cloud)["points"]) and random(cloud)["points"].shape == (1, 9, 3)
    assert PointCloudProcessor()(cloud, num_points=5)["points"].shape == (1, 5, 3)


@pytest.mark.parametrize(
    ("cloud", "message"),
    [
        (np.zeros((0, 3), np.float32), "point cloud 1 has no points: expected at least one"),
        (np.full((4, 3), np.nan, np.float32), "point cloud 1 has NaN or infinite numbers in 4 of 4 points"),
        (np.zeros((4, 2), np.float32), r"point cloud 1 is \[4, 2\], expected \[N, 3\]: x, y, z of each point"),
        (np.zeros((4, 6), np.float32), r"\[4, 6\], expected \[N, 3\]: keep the columns .* points\[:, :3\]"),
        (np.zeros((3, 40), np.float32), r"\[3, 40\], expected \[N, 3\]: a row for each point; transpose it"),
        (torch.zeros(3), r"point cloud 1 is \[3\], expected \[N, 3\]"),
        ("cloud.obj", "unknown file type"),
        (np.array([["a"] * 3]), "of <U1, expected numbers"),
    ],
)
def test_bad_clouds_are_named(cloud, message):
    with pytest.raises(ValueError, match=message):
        PointCloudProcessor()([POINTS, cloud])


def test_options_that_do_not_fit():
    for options, message in (({"in_features": 2}, "in_features=2"), ({"num_points": 0}, "num_points=0"),
                             ({"sampling": "first"}, "sampling is 'first'"), ({"scale": "yes"}, "scale")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            PointCloudProcessor(**options)
    with pytest.raises(ValueError, match="list of point clouds is empty"):
        PointCloudProcessor()([])


def test_the_processor_is_saved_with_the_model_and_predicts_arrays_and_files(tmp_path):
    model = zoo.create_model("set_transformer_tiny", width=16, num_classes=3, in_features=4, seed=0)
    model.preprocess = PointCloudProcessor(in_features=4, features=("red",), num_points=5)
    model.labels = ["a", "b", "c"]
    loaded = zoo.load(zoo.save(model, tmp_path / "model"))
    assert loaded.preprocess == model.preprocess
    (file := tmp_path / "cloud.ply").write_bytes(ply("binary_little_endian"))
    cloud = point_cloud_io.read(file, ["red"])
    from_file, from_array = zoo.predict(loaded, [file, cloud])
    assert [label for label, _ in from_file] == [label for label, _ in from_array]
    assert {label for label, _ in zoo.predict(loaded, cloud)} == {"a", "b", "c"}
    with pytest.raises(ValueError, match="point cloud 1: the point cloud is"):
        zoo.predict(loaded, [cloud, cloud[:, :3]])
    with pytest.raises(ValueError, match="in_features=3, but the model 4"):
        PointCloudProcessor().check(model.config)
    assert PointCloudProcessor().fitted_to(model.config).in_features == 4


def test_the_record_of_the_modality():
    assert of_file("scan.PLY").name == "point_cloud" and of_item(POINTS).name == "point_cloud"
    assert of_item(np.zeros((8, 8, 3), np.uint8)).name == of_item(np.zeros((8, 8), np.float32)[:, :2]).name == "image"


def test_a_cloud_is_shown_on_pages_and_axes():
    from matplotlib.figure import Figure

    page = cloud_html(POINTS, 'a "cloud"')
    assert page.count("<circle") == 7 and "&quot;cloud&quot;" in page
    assert cloud_html(POINTS[:1], "one").count("<circle") == 1
    axes = Figure().add_subplot()
    plot_cloud(axes, POINTS)
    assert len(axes.collections[0].get_offsets()) == 7
