"""The recipe of the models of a scaling law from its command line."""

from pathlib import Path

import pytest
from recipe_calls import caller, result

import zoo
from zoo.training.recipes.config import ScalingSettings

call = caller({"scaling_laws": ScalingSettings})
TINY = ("width=16", "depth=1", "batch_size=8", "steps=2", "accelerator=cpu", "precision=fp32", "progress=false",
        "plots=false", "log_every=1")  # fmt: skip


@pytest.fixture(autouse=True)
def few_stories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.data.synthetic.stories.STORIES", 20)


def test_several_texts_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.txt").write_text("To be, or not to be: that is the question.\n" * 200)
    name = f"data=synthetic+{tmp_path / 'my.txt'}"
    assert call("scaling_laws", tmp_path / "run", *TINY, name, "max_characters=5000") == 0
    assert "zoo generate" in capsys.readouterr().out
    found = result(tmp_path / "run")
    assert found["result"].keys() == {"test_loss", "test_perplexity"} and found["finished"] and not found["real"]
    assert zoo.load(tmp_path / "run").config.max_length == 64


def test_tokens_of_bpe(tmp_path: Path) -> None:
    assert call("scaling_laws", tmp_path / "run", *TINY, "data=synthetic", "tokens=bpe", "vocab_size=300") == 0
    assert zoo.load(tmp_path / "run").config.vocab_size == 300


def test_texts_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*TINY, f"data_dir={tmp_path}")
    assert call("scaling_laws", tmp_path / "run", *words, "data=tinyshakespeare+synthetic") == 2
    assert "input.txt does not exist" in (said := capsys.readouterr().err) and "on_missing=skip" in said
    assert call("scaling_laws", tmp_path / "run", *words, "data=tinyshakespeare+synthetic", "on_missing=skip") == 0
    assert "left out of the text: tinyshakespeare" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["streaming=true", "packing=concatenate", "sources=[a,b]", "shuffle_window=8"])
def test_options_of_texts_that_are_streamed(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("scaling_laws", tmp_path / "run", "data=synthetic", option) == 2
    assert option.partition("=")[0] in capsys.readouterr().err
