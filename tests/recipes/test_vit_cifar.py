"""The recipe from its command line: what it prints, what it leaves behind, what it refuses."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from zoo.training.config import ImageSettings
from zoo.training.main import main

RECIPE = Path(__file__).parents[2] / "recipes" / "vit_cifar.py"
PICTURES = {"curves.png", "confusion.png", "attention.png"}
TINY = ("data=synthetic", "max_train_samples=96", "max_test_samples=40", "width=16", "depth=1", "heads=2",
        "batch_size=16", "steps=3", "accelerator=cpu", "precision=fp32")  # fmt: skip


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vit_cifar", RECIPE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand images take seconds to draw."""
    monkeypatch.setattr("zoo.data.synthetic.shapes.TRAIN", 100)
    monkeypatch.setattr("zoo.data.synthetic.shapes.TEST", 20)


def call(recipe: ModuleType, *words: str) -> int:
    return main(recipe.train, ImageSettings, words)


def test_the_whole_way(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(RECIPE), *TINY, "ema=0.9"], cwd=tmp_path, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, _, after = done.stdout.partition("step 3/3")
    for text in ("Synthetic data", "synthetic (synthetic data), 96 training and 40 test items", "CPU", "fp32",
                 "vit_cifar_tiny", "parameters", "3 of 16 items", "expected end", "runs/vit_cifar (new)"):  # fmt: skip
        assert text in before, text
    for text in (r"test accuracy +\d+\.\d\d% on synthetic \(synthetic data", r"model +runs/vit_cifar/model",
                 r"use it +zoo predict runs/vit_cifar/model runs/vit_cifar/sample.png",
                 r"train longer +python recipes/vit_cifar.py data=synthetic .*epochs=\d+"):  # fmt: skip
        assert re.search(text, after), (text, after)
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
    check_folder(tmp_path / "runs" / "vit_cifar")


def check_folder(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "metrics.csv", "metrics.json", "checkpoints", "model", "sample.png"} | PICTURES
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["name"] == "synthetic"
    result = json.loads((folder / "metrics.json").read_text())
    assert "test accuracy" in (folder / "model" / "README.md").read_text()
    assert (result["data"], result["real"], result["finished"], result["steps"]) == ("synthetic", False, True, 3)
    from zoo.checkpoints.load import load

    model = load(folder)
    assert model.labels is not None and len(model.labels) == 10 and model.preprocess.size == (32, 32)
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["zoo"]["labels"] == model.labels
    for name, value in model.state_dict().items():
        assert torch.equal(value, best["state_dict"]["ema." + name]), name


@pytest.mark.parametrize(("words", "says"), [
    (["model=vit_cifar_tini"], "did you mean 'vit_cifar_tiny'"),
    (["model.depht=3"], "did you mean 'depth'"),
    (["heads=5"], "heads"),
    (["attention=sofmax"], "did you mean 'softmax'"),
    (["patch_size=5"], "patch"),
    (["data=cifar"], "did you mean 'cifar10'"),
    (["data=synthetic", "batch_size=16", "freeze=[patch]"], "did you mean 'patches'"),
    (["data=synthetic", "accumulate_grad_batches=3"], "must be a multiple"),
    (["data=synthetic", "logger=Tensorboard"], "TensorBoardLogger"),
    (["data=synthetic", "resume=must"], "no unfinished run"),
    (["hardware=tpu"], "hardware=tpu"),
    (["longer=1"], "unknown option 'longer'"),
])  # fmt: skip
@pytest.mark.usefixtures("few_images")
def test_what_it_refuses(recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str],
                         says: str) -> None:  # fmt: skip
    assert call(recipe, *words, f"run_dir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_the_model_is_checked_before_data_is_touched(recipe: ModuleType, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture) -> None:  # fmt: skip
    assert call(recipe, "model=nothing", f"data={tmp_path / 'missing'}", f"run_dir={tmp_path / 'run'}") == 2
    assert "no model 'nothing'" in capsys.readouterr().err


def test_it_is_short() -> None:
    assert len(RECIPE.read_text().splitlines()) <= 120
