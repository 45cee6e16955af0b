"""`zoo compare` with the recipes of images and texts, in one process: the check of values, and runs of two steps."""

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from recipe_calls import RECIPES
from torch import Tensor

from zoo.data.synthetic import object_scenes
from zoo.models.base import Model
from zoo.models.example_batch import example_batch
from zoo.training.sweep import check_process
from zoo.training.sweep import compare as comparing
from zoo.training.sweep.compare import compare

SMALL = ("steps=2", "data.batch_size=8", "log_every=1")
TEXT = ("text.width=12", "text.mlp_dim=12", "text.depth=1")
RECIPE = {
    "vqa": (*SMALL, *TEXT, "image.width=12", "image.mlp_dim=12", "image.depth=1", "language_steps=2"),
    "caption": (*SMALL, "width=12", "mlp_dim=12", "depth=1", "model.decoder_depth=2"),
    "text_to_image": (*SMALL, "width=12", "depth=1", "heads=2", "tokenizer.codes=16", "tokenizer.train_steps=2",
                      "tokenizer.train_batch_size=4", "ranker.train_steps=2", "ranker.train_batch_size=8",
                      "judge_steps=2", "judged=2", "num_images=2"),
}  # fmt: skip
METRIC = {"vqa": "val_accuracy", "caption": "val_loss", "text_to_image": "val_loss"}  # that choose the best step


class InThisProcess:
    """In place of `subprocess.Popen`: runs what the process of a run does."""

    def __init__(self, command: Sequence[str], *, stdout: Any, **_: Any) -> None:
        measured, script, *options = command[command.index("zoo.training.sweep.compare") + 1 :]
        with (
            open(os.dup(stdout.fileno()), "w") as log,
            redirect_stdout(log),
            redirect_stderr(log),
        ):
            try:
                comparing._record(Path(measured), script, options)
            except SystemExit as stop:
                self.code = int(stop.code or 0)

    def wait(self) -> int:
        return self.code


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for split, count in (("train", 48), ("validation", 4), ("test", 6)):
        monkeypatch.setitem(object_scenes.SPLITS, split, count)
    monkeypatch.setattr("zoo.training.recipes.text_to_image.RANKER_IMAGE", {"name": "vit_cifar_tiny", "depth": 1})
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("recipe", RECIPE)
def test_two_values_are_compared(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing.subprocess, "Popen", InThisProcess)
    monkeypatch.setattr(comparing, "errors_of", lambda *_: ["", ""])
    comparison: Any = compare(str(RECIPES / f"{recipe}.py"), ["lr=1e-3,1e-2", "seeds=1", *RECIPE[recipe]])
    assert comparison.ok and comparison.metric == METRIC[recipe]
    for row in comparison.rows():
        assert row["at_equal_steps"] is not None and row["parameters"] > 0 and row["flops"] > 0
    logged = comparison.trials[0].curves.keys()
    assert recipe != "caption" or "val_cider" in logged  # for metric=val_cider
    assert "synthetic data" in str(comparison) and comparison.plot_file.is_file()


def checked(monkeypatch: pytest.MonkeyPatch, recipe: str, *words: str) -> str:
    """What the check says of the options of a run, as in its own process."""
    for module, name, function in check_process.REPLACED:
        monkeypatch.setattr(module, name, function)
    return check_process.check(str(RECIPES / f"{recipe}.py"), [*RECIPE[recipe], *words])


def test_the_check_reaches_the_last_model_of_several_stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried: list[str] = []

    def batch(model: Model) -> dict[str, Tensor]:
        tried.append(type(model).__name__)
        return example_batch(model)

    monkeypatch.setattr(check_process, "example_batch", batch)
    assert checked(monkeypatch, "text_to_image", "attention=softmax") == ""
    assert tried == ["DiscreteVAE", "Contrastive", "Dalle"]
    assert "nonsense" in checked(monkeypatch, "text_to_image", "attention=nonsense")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("recipe", ["vqa", "caption"])
def test_the_check_of_values(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked(monkeypatch, recipe) == ""
    assert "lr" in checked(monkeypatch, recipe, "lr=fast")
