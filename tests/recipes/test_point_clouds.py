"""The recipe for point clouds from its command line: what it leaves behind, refuses, and hands on."""

from pathlib import Path

import numpy as np
import pytest
from recipe_calls import RESUMED, caller, check_resumed_run, result

import zoo
from zoo.data.synthetic import point_clouds as synthetic
from zoo.training.recipes.point_cloud_config import PointCloudSettings

run = caller({"point_clouds": PointCloudSettings})
TINY = ("model=set_transformer_tiny", "width=16", "depth=1", "heads=2", "batch_size=8", "accelerator=cpu",
        "precision=fp32", "progress=false", "log_every=1")  # fmt: skip


def call(folder: Path, *words: str) -> int:
    own_model = any(word.startswith("model=") for word in words)
    return run("point_clouds", folder, *TINY[own_model:], *words)


@pytest.fixture(autouse=True)
def few_clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("TRAIN", 40), ("VALIDATION", 20), ("TEST", 20), ("POINTS", 32)):
        monkeypatch.setattr(synthetic, name, size)


def write_folder(folder: Path, features: int = 0) -> Path:
    rng = np.random.default_rng(0)
    for name in ("chair", "table"):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            np.save(folder / name / f"{i}.npy", rng.standard_normal((9 + i, 3 + features)).astype(np.float32))
    return folder


def test_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert call(folder, "steps=3", "num_points=24") == 0
    said = capsys.readouterr().out
    for text in ("Synthetic data", "40 training and 20 test items", "test accuracy", "sample.npy",
                 "majority class"):  # fmt: skip
        assert text in said, text
    there = {path.name for path in folder.iterdir()}
    assert {"confusion.png", "curves.png", "clouds.png", "sample.npy", "model", "metrics.csv"} <= there
    found = result(folder)
    assert found["result"].keys() == {"test_loss", "test_accuracy", "test_f1", "test_calibration_error"}
    assert not found["real"] and found["baseline"]["score"] >= 0.1
    model = zoo.load(folder)
    assert model.labels == synthetic.CLASSES and model.preprocess.num_points == 24
    ours = dict(zoo.predict(model, folder / "sample.npy", top_k=10))
    assert sum(ours.values()) == pytest.approx(1, abs=1e-4)
    from zoo.cli.main import main as command

    assert command(["predict", str(folder), str(folder / "sample.npy")]) == 0
    assert f"{max(ours.values()):.1%}" in capsys.readouterr().out


def test_own_clouds_then_others_from_that_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_folder(tmp_path / "clouds", features=2)
    assert call(tmp_path / "run", f"data={data}", "steps=2", "plots=false") == 0
    model = zoo.load(tmp_path / "run")
    assert model.labels == ["chair", "table"] and model.config.in_features == 5
    source = (f"model.source={tmp_path / 'run'}", "plots=false", "steps=1")
    own = [word for word in TINY if word.split("=")[0] not in ("model", "width", "depth", "heads")]
    assert run("point_clouds", tmp_path / "tuned", *own, f"data={data}", *source) == 0
    capsys.readouterr()
    plain = write_folder(tmp_path / "plain")
    for words, says in (
        ((f"data={plain}",), "expected [N, 5]"),
        (("data=synthetic",), "its points have 5 numbers, those of synthetic 3"),
        ((f"data={data}", "features=[red]"), "omit data.features="),
    ):
        assert run("point_clouds", tmp_path / "refused", *own, *words, *source) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "refused" / "model").exists()


@pytest.mark.parametrize(("words", "says"), [
    (["data=synthetik"], "did you mean 'synthetic'"),
    (["model=vit_cifar_tiny"], "expected one of point clouds"),
    (["rotation=x"], "so3"),
    (["attention=local"], "points of a set have none"),
])  # fmt: skip
def test_what_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    assert call(tmp_path / "run", *words) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_a_run_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word for word in RESUMED if not word.startswith("batch_size")]
    check_resumed_run(lambda folder: call(folder, *words, "baseline=false"), tmp_path, monkeypatch)
