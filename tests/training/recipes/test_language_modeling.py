"""What a language model takes from the data."""

from typing import Any

import pytest

from zoo.training.parse import SettingsError
from zoo.training.recipes.config import GPTSettings
from zoo.training.recipes.language_modeling import fit_to_text
from zoo.training.run import Run


def test_a_pretrained_model_keeps_its_tokenizer() -> None:
    model: Any = object()
    words = ["data=synthetic", "model.source=runs/x", "accelerator=cpu"]
    assert fit_to_text(Run.of("gpt_text", words, GPTSettings), model, model) is model
    with pytest.raises(SettingsError, match=r"tokens=bpe: model\.source=runs/x has its own tokenizer"):
        fit_to_text(Run.of("gpt_text", [*words, "tokens=bpe"], GPTSettings), model, model)
