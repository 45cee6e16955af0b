"""The recipe for the points of clouds from its command line: what it leaves behind, refuses, and hands on."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe_calls import RESUMED, caller, check_resumed_run, result

import zoo
from zoo.cli.main import main as command
from zoo.data.synthetic import point_clouds, point_parts
from zoo.training.recipes.point_cloud_config import PointCloudSettings, PointSegmentationSettings

run = caller({"point_segmentation": PointSegmentationSettings, "point_clouds": PointCloudSettings})
FAST = ("batch_size=4", "accelerator=cpu", "precision=fp32", "progress=false", "log_every=1")
TINY = ("model=point_transformer_tiny", "width=16", "depth=1", "model.stages=[1]", "model.neighbors=4", *FAST)


def call(folder: Path, *words: str) -> int:
    return run("point_segmentation", folder, *TINY, *words)


@pytest.fixture(autouse=True)
def few_clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (point_parts, point_clouds):
        for name, size in (("TRAIN", 30), ("VALIDATION", 10), ("TEST", 10), ("POINTS", 32)):
            monkeypatch.setattr(module, name, size)
    monkeypatch.setattr("zoo.training.recipes.point_clouds.COLUMNS", 2)


def test_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert call(folder, "steps=3", "num_points=24") == 0
    said = capsys.readouterr().out
    for text in ("30 training and 10 test items", "highest val_mean_iou", "test mean iou", "rocket fin", "sample.npy",
                 "logistic regression: mean_iou", "majority class"):  # fmt: skip
        assert text in said, text
    there = {path.name for path in folder.iterdir()}
    assert {"confusion.png", "curves.png", "clouds.png", "sample.npy", "model", "metrics.csv", "classes.csv"} <= there
    found = result(folder)
    assert found["result"].keys() == {"test_loss", "test_mean_iou", "test_accuracy", "test_f1",
                                      "test_calibration_error"}  # fmt: skip
    assert found["baseline"]["metric"] == "mean_iou" and 0 < found["baseline"]["constant_score"] < 0.1

    model = zoo.load(folder)
    assert model.labels == point_parts.CLASSES and model.preprocess.num_points == 24
    cloud = np.load(folder / "sample.npy")
    points = zoo.predict(model, folder / "sample.npy")
    assert len(points) == len(cloud) > 24 and {point.label for point in points} <= set(point_parts.CLASSES)
    with torch.no_grad():  # the points that are sampled, in the order of the sample
        inputs = model.preprocess(cloud)["points"]
        probabilities, classes = model.eval()(points=inputs)[0].softmax(-1).max(-1)
    whole = (cloud - cloud.mean(0)) / np.linalg.norm(cloud - cloud.mean(0), axis=1).max()
    for place, probability, label in zip(inputs[0], probabilities.tolist(), classes.tolist()):
        point = points[int(np.linalg.norm(whole - place.numpy(), axis=1).argmin())]
        assert point.label == model.labels[label] and point.probability == pytest.approx(probability, abs=1e-5)

    table, page = tmp_path / "points.csv", tmp_path / "page.html"
    assert command(["predict", str(folder), str(folder / "sample.npy"), "--out", str(table)]) == 0
    with table.open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == [point.label for point in points]
    assert command(["predict", str(folder), str(folder / "sample.npy"), "--top-k", "2"]) != 0
    assert "points of a cloud" in capsys.readouterr().err
    assert command(["explore", str(folder), str(folder / "sample.npy"), "--html", str(page)]) == 0
    assert "head.stages.0.blocks.0.mixer" in page.read_text()


def test_own_clouds_from_a_classifier_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("steps=1", "plots=false", "baseline=false")
    assert run("point_clouds", tmp_path / "classifier", *TINY, *words) == 0
    rng, data = np.random.default_rng(0), tmp_path / "scans"
    data.mkdir()
    for i in range(8):
        cloud = rng.standard_normal((12 + i, 3)).astype(np.float32)
        np.savez(data / f"{i}.npz", points=cloud, part=(cloud[:, 2] > 0).astype(np.uint8))
    source = f"model.source={tmp_path / 'classifier'}"
    own = (f"data={data}", "point_label=part", "class_names=[below,above]")
    assert run("point_segmentation", tmp_path / "run", *FAST, *words, *own, source) == 0
    segmentation, classifier = zoo.load(tmp_path / "run"), zoo.load(tmp_path / "classifier")
    assert segmentation.labels == ["below", "above"] and segmentation.config.head == "token"
    names = [name for name in classifier.state_dict() if not name.startswith("head.")]
    assert set(names) == {name for name in segmentation.state_dict() if not name.startswith("head.")}
    back = f"model.source={tmp_path / 'run'}"
    assert run("point_clouds", tmp_path / "back", *FAST, *words, back) == 0
    capsys.readouterr()
    assert run("point_segmentation", tmp_path / "refused", *FAST, *words, back, "data=synthetic", "features=[red]") == 2
    assert "features=['red']" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "says"), [
    (["data=synthetik"], "did you mean 'synthetic'"),
    (["model=vit_cifar_tiny", "model.stages=null"], "stages"),
    (["point_label=x"], "point_label='x'"),
    (["class_names=[a,b]"], "the classes of synthetic data have names"),
])  # fmt: skip
def test_what_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    assert run("point_segmentation", tmp_path / "run", *FAST, *words) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.full
def test_a_run_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_resumed_run(lambda folder: call(folder, *RESUMED, "baseline=false"), tmp_path, monkeypatch)
