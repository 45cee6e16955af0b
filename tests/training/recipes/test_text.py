"""The task of the text classification recipe has the settings of the run."""

from types import SimpleNamespace
from typing import Any

import torch

import zoo
from zoo.tasks.config import OptimSettings
from zoo.training.recipes.text import text_classifier


def test_balanced_class_weights_and_label_smoothing_reach_the_loss() -> None:
    model = zoo.create_model("bert_tiny", head="classify", num_classes=2, width=16, depth=1, heads=2, vocab_size=9)
    data: Any = SimpleNamespace(train=SimpleNamespace(labels=torch.tensor([0, 0, 0, 1])))
    sets: Any = SimpleNamespace(classes=["a", "b"], problem_type="single_label_classification")

    def task(weights: str) -> Any:
        settings = SimpleNamespace(
            lora=SimpleNamespace(rank=0), task=SimpleNamespace(class_weights=weights, label_smoothing=0.1),
            optim=OptimSettings(), trainer=SimpleNamespace(ema=0.0), seed=0,
        )  # fmt: skip
        return text_classifier(SimpleNamespace(settings=settings), model, data, sets)  # type: ignore[arg-type]

    assert task("none").objective.class_weights is None and task("none").objective.label_smoothing == 0.1
    torch.testing.assert_close(task("balanced").objective.class_weights, torch.tensor([2 / 3, 2.0]))
