"""The recipe of recall from its command line."""

from pathlib import Path

import pytest
import torch
from recipe_calls import caller, result

import zoo
from zoo.training.recipes.config import RecallSettings

call = caller({"long_recall": RecallSettings})
TINY = ("width=16", "heads=2", "mlp_dim=16", "length=16", "batch_size=8", "max_train_samples=64", "max_test_samples=16",
        "accelerator=cpu", "precision=fp32", "progress=false", "plots=false", "log_every=1",
        "validate_every=2")  # fmt: skip


@pytest.mark.parametrize("words", [(), ("mechanism=linear", "problem=induction"), ("mechanism=short_conv",)])
def test_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple) -> None:
    assert call("long_recall", tmp_path / "run", *TINY, "steps=4", *words) == 0
    metrics = result(tmp_path / "run")["result"]
    assert {"test_accuracy", "test_loss", "test_perplexity"} == metrics.keys() and 0 <= metrics["test_accuracy"] <= 1
    output = capsys.readouterr().out
    assert "Synthetic data" in output and "test accuracy" in output and "zoo verify" in output
    model = zoo.load(tmp_path / "run")
    assert model.config.max_length == 16 and model(torch.arange(16)[None]).shape == (1, 16, 64)
    assert zoo.verify(tmp_path / "run" / "model").ok


def test_options_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {"length=18": "multiple of 4", "data=my.txt": "generated", "mechanism=none": "expected an attention kind",
             "vocab_size=4": "keys and as many values"}  # fmt: skip
    for word, message in wrong.items():
        others = [option for option in TINY if option.partition("=")[0] != word.partition("=")[0]]
        assert call("long_recall", tmp_path / "run", *others, "steps=1", word) == 2
        assert message in capsys.readouterr().err, word


def test_a_small_model_learns_to_recall(tmp_path: Path) -> None:
    """Four pairs, of which only a model that looks them up gets more than a quarter right."""
    words = ("length=16", "steps=300", "validate_every=300",
             "max_train_samples=2048", "max_test_samples=128", "accelerator=cpu", "precision=fp32", "progress=false",
             "plots=false")  # fmt: skip
    assert call("long_recall", tmp_path / "run", *words) == 0
    assert result(tmp_path / "run")["result"]["test_accuracy"] > 0.6
