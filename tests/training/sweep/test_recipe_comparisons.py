"""`zoo compare` with recipes of several modalities, in one process: the check of values, and runs of two steps."""

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from recipe_calls import RECIPES
from torch import Tensor

from zoo.data.synthetic import alignments, molecules, object_scenes, point_clouds
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
    "graph_nodes": ("steps=2", "log_every=1"),
    "molecules": SMALL,
    "point_clouds": (*SMALL, "width=16", "depth=1", "heads=2"),
    "contacts": (*SMALL, "width=8", "heads=2", "model.pair_width=8", "model.pair_heads=2", "depth=1", "max_sequences=4",
                 "max_train_samples=8"),
}  # fmt: skip
# What is compared, and the metric that chooses the best step.
COMPARED = {
    "vqa": ("lr=1e-3,1e-2", "val_accuracy"),
    "caption": ("lr=1e-3,1e-2", "val_loss"),
    "text_to_image": ("lr=1e-3,1e-2", "val_loss"),
    "graph_nodes": ("attention=softmax,gat,gatv2", "val_loss"),
    "molecules": ("model=graph_transformer_tiny,gatv2_small", "val_error"),
    "point_clouds": ("model=set_transformer_tiny,point_transformer_tiny", "val_accuracy"),
    "contacts": ("attention=softmax,additive", "val_precision_l2"),
}
# A value that fits, one that does not, and what is said of it.
CHECKED = {
    "vqa": ("lr=1e-3", "lr=fast", "lr"),
    "caption": ("lr=1e-3", "lr=fast", "lr"),
    "graph_nodes": ("attention=gatv2", "attention=performer", "cannot apply the mask GraphMask(nodes=16, edges=32"),
    "molecules": ("model=gat_small", "model=set_transformer_tiny", "expected a model of graphs"),
    "point_clouds": ("model=set_transformer_tiny", "attention=local", "points of a set have none"),
    "contacts": ("attention=additive", "attention=performer", "no scores"),
}
NEEDS = {"molecules": "rdkit"}


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
        monkeypatch.setattr(alignments, split.upper(), count)
        monkeypatch.setattr(point_clouds, split.upper(), 10 * count)
    monkeypatch.setattr(point_clouds, "POINTS", 32)
    monkeypatch.setattr(molecules, "MOLECULES", 90)
    monkeypatch.setattr("zoo.training.recipes.text_to_image.RANKER_IMAGE", {"name": "vit_cifar_tiny", "depth": 1})
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("recipe", RECIPE)
def test_values_are_compared(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(NEEDS.get(recipe, "torch"))
    values, metric = COMPARED[recipe]
    monkeypatch.setattr(comparing.subprocess, "Popen", InThisProcess)
    monkeypatch.setattr(comparing, "errors_of", lambda _, options: [""] * len(options))
    comparison: Any = compare(str(RECIPES / f"{recipe}.py"), [values, "seeds=1", *RECIPE[recipe]])
    assert comparison.ok and comparison.metric == metric
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


@pytest.mark.parametrize("recipe", CHECKED)
def test_the_check_of_values(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(NEEDS.get(recipe, "torch"))
    fits, does_not, says = CHECKED[recipe]
    assert checked(monkeypatch, recipe, fits) == ""
    assert says in checked(monkeypatch, recipe, does_not)
