"""The settings of a text classification run reach its task."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_calls import recipe

from zoo.training.recipes.config import FinetuneSettings
from zoo.training.run import Run

TABLE = "text,label\n" + "".join(f"word number {i},{'rare' if i % 4 == 0 else 'often'}\n" for i in range(40))
TINY = ("model=bert_tiny", "width=16", "depth=1", "heads=2", "batch_size=8", "steps=1", "accelerator=cpu")


def task_of(folder: Path, *words: str) -> Any:
    """The task that the recipe would train."""
    file = folder / "table.csv"
    file.write_text(TABLE)
    found: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("zoo.training.fit"), "fit", lambda run, task, data, **options: found.append(task))
        words = (f"data={file}", f"run_dir={folder / 'run'}", "resume=never", *TINY, *words)
        recipe("finetune_text").train(Run.of("finetune_text", words, FinetuneSettings))
    return found[0]


def test_balanced_class_weights_and_label_smoothing_reach_the_loss(tmp_path: Path) -> None:
    plain = task_of(tmp_path, "label_smoothing=0.1")
    assert plain.objective.class_weights is None and plain.objective.label_smoothing == 0.1
    weights = task_of(tmp_path, "class_weights=balanced").objective.class_weights
    often, rare = weights.tolist()  # classes are sorted by name
    assert rare > 2 * often and torch.isfinite(weights).all()
