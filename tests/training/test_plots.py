"""Plots of a run: what a reader sees of short and long runs, few and many classes, and names of all scripts."""

import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from tests.plot_checks import check_frames, check_texts
from zoo.data.image.datamodule import ImageDataModule
from zoo.data.image.dataset import ImageDataset
from zoo.training import plots
from zoo.training.plot_confusion import confusion
from zoo.training.plot_curves import curves, is_logarithmic, moving_mean

Rows = list[dict[str, float]]


def rows(steps: int, every: int = 10, validate_every: int = 100) -> Rows:
    noise, found = random.Random(0), []
    for step in range(every, steps + 1, every):
        loss = 2 * math.exp(-step / steps) + 0.3
        row = {"step": step, "train_loss": loss + noise.gauss(0, 0.1)}
        if step % validate_every == 0:
            row |= {"val_loss": loss, "val_accuracy": 1 - loss / 3, "val_perplexity": math.exp(3 * loss)}
        found.append(row)
    return found


def plot_curves(folder: Path, logged: Rows, *, monitor: str = "val_accuracy", model: str = "vit_cifar_tiny",
                chosen: str | None = None, **metrics: float) -> Any:  # fmt: skip
    names = sorted({name for row in logged for name in row} - {"step"})
    lines = [",".join([str(row["step"]), *(str(row.get(name, "")) for name in names)]) for row in logged]
    (folder / "metrics.csv").write_text("\n".join([",".join(["step", *names]), *lines]) + "\n")
    data = SimpleNamespace(name="data/$a_1$ 猫", real=False, source="generated images")
    config = SimpleNamespace(trainer=SimpleNamespace(monitor=chosen))
    run: Any = SimpleNamespace(folder=SimpleNamespace(path=folder), data=data, config=config, model_name=model)
    known = {"val_loss": "min", "val_accuracy": "max"}
    task = SimpleNamespace(monitor=monitor, mode="max", stop_monitor="val_loss", stop_mode="min",
                           validation_metrics=known)  # fmt: skip
    return curves(run, task, SimpleNamespace(metrics=metrics))  # type: ignore[arg-type]


SPIKE = [{**row, "train_loss": row["train_loss"] * (500 if row["step"] == 200 else 1)} for row in rows(2000)]
GAP = [{**row, "train_loss": math.nan if 300 < row["step"] < 600 else row["train_loss"]} for row in rows(1000)]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize(
    "logged",
    [
        [{"step": 2, "val_loss": 2.7, "val_accuracy": 0.1}],
        rows(100),
        rows(30, 5, 10),
        rows(40_000, 10, 400),
        SPIKE,
        GAP,
    ],
    ids=["two steps", "one validation", "short", "long", "spike", "nan"],
)
def test_curves_can_be_read(tmp_path: Path, logged: Rows) -> None:
    figure = plot_curves(tmp_path, logged, model="/a/long/folder" * 12, test_accuracy=0.87312)
    texts = check_texts(figure)
    check_frames(figure)
    left, right = figure.axes
    assert "test 87.31%" in texts and right.get_ylabel() == "accuracy"
    assert left.get_xlabel() == "step" and left.get_xlim()[0] == 0
    styles = {line.get_label(): line.get_linestyle() for line in left.get_lines()}
    assert styles.get("validation") == "--" and "--" not in (styles.get("training"), styles.get("_child0"))


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_run_without_finite_losses_says_so(tmp_path: Path) -> None:
    logged = [{"step": s, "train_loss": math.nan} for s in range(10, 100, 10)]
    figure = plot_curves(tmp_path, [*logged, {"step": 100, "val_loss": math.nan, "val_accuracy": math.nan}])
    assert "no finite values" in check_texts(figure)
    assert all(axis.get_legend() is None for axis in figure.axes), "there are no lines for a legend"
    assert plot_curves(tmp_path, [{"step": 10, "lr": 0.1}]) is None


def test_a_noisy_loss_has_its_moving_mean(tmp_path: Path) -> None:
    figure = plot_curves(tmp_path, rows(10_000))
    raw, mean, _ = figure.axes[0].get_lines()
    assert mean.get_label() == "training (mean of 20 rows)" and raw.get_alpha() < 0.5
    assert np.diff(mean.get_ydata()).std() < np.diff(raw.get_ydata()).std() / 5
    assert len(plot_curves(tmp_path, rows(500)).axes[0].get_lines()) == 2, "few points need no mean"


def test_moving_mean_skips_what_is_not_finite() -> None:
    values = np.array([1.0, 3.0, math.nan, 5.0, math.inf, 7.0])
    assert moving_mean(values, 3).tolist()[:2] == [2.0, 2.0]
    assert np.isnan(moving_mean(values, 3)[[2, 4]]).all() and moving_mean(values, 3)[5] == 7.0


def test_values_of_very_different_size_have_a_logarithmic_axis(tmp_path: Path) -> None:
    left, right = plot_curves(tmp_path, rows(2000), monitor="val_loss", test_perplexity=7.0).axes
    assert left.get_yscale() == "linear" and right.get_yscale() == "log"
    assert right.get_ylabel() == "perplexity (log scale)"
    assert plot_curves(tmp_path, SPIKE).axes[0].get_yscale() == "log"
    assert not is_logarithmic([0.0, 100.0]) and not is_logarithmic([]) and is_logarithmic([1.0, 30.0])


def test_the_metric_that_monitor_selects_is_plotted(tmp_path: Path) -> None:
    assert plot_curves(tmp_path, rows(500), chosen="loss").axes[1].get_ylabel().startswith("perplexity")
    assert plot_curves(tmp_path, rows(500)).axes[1].get_ylabel() == "accuracy"


# --- confusion matrix -----------------------------------------------------------------------------------------------


def plot_confusion(names: list[str]) -> Any:
    counts = torch.eye(len(names), dtype=torch.int64) * 30 + 3
    counts[-1] *= len(names) == 1
    task = SimpleNamespace(confusion=counts, class_names=names, model=None)
    return confusion(None, task, None)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize(
    "names",
    [["only"], ["no", "yes"], ["$x^2$ <b>", "猫 שלום", "a\nb \\alpha " * 9], [f"class {i}" for i in range(20)],
     [f"a very long name of class number {i}" for i in range(40)], list(map(str, range(1000)))],
    ids=["1", "2", "markup", "20", "40", "1000"],
)  # fmt: skip
def test_confusion_matrices_can_be_read(names: list[str]) -> None:
    figure = plot_confusion(names)
    texts = check_texts(figure)
    assert max(figure.get_size_inches()) < 20, "of a thousand classes, too"
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    if len(names) <= 40:
        assert len(set(labels)) == len(names), "long names differ at their end"
    assert any("gray: no test items" in text for text in texts) == (len(names) > 1)


def test_percentages_of_the_true_class() -> None:
    texts = check_texts(plot_confusion(["no", "yes"]))
    assert {"92", "8"} <= set(texts)


# --- samples --------------------------------------------------------------------------------------------------------


def test_attention_maps_are_of_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test set is sorted by class, as a folder of images is."""
    labels = torch.arange(3).repeat_interleave(20)
    images = torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(60, 3, 32, 32).contiguous()
    data = ImageDataModule.__new__(ImageDataModule)
    vars(data).update(seed=0, splits=SimpleNamespace(test=ImageDataset(images, labels, [*"abc"])))
    seen: list[Any] = []
    monkeypatch.setattr(plots, "attention_grid", lambda *args, labels: seen.append((*args, labels)))
    task = SimpleNamespace(trainer=SimpleNamespace(datamodule=data), evaluated=zoo.create_model("vit_cifar_tiny"),
                           augment=lambda batch, **_: batch)  # fmt: skip
    for _ in range(2):
        plots.attention(None, task, None)  # type: ignore[arg-type]
    (_, shown, _, found), again = seen
    assert sorted(found) == [0, 0, 1, 1, 2, 2]
    assert shown[:, 0, 0, 0].div(20, rounding_mode="floor").tolist() == found, "labels are those of the images"
    assert torch.equal(shown, again[1]), "the same in each run"
