"""What a recipe prints before the first step, and what the card of its model says, is true of the model and the data at
hand: sizes, the number of items trained on, the pooling, what it is tested on."""

import re
from pathlib import Path

import pytest
import yaml
from recipe_calls import caller
from text_peers import transformers_text

import zoo
from zoo.preprocessing.tokenizer_training import train
from zoo.training.recipes.config import FinetuneSettings, MLMSettings

call = caller({"finetune_text": FinetuneSettings, "mlm_text": MLMSettings})
QUIET = ("accelerator=cpu", "precision=fp32", "progress=false", "plots=false", "batch_size=8", "steps=2")


def table(file: Path, count: int) -> Path:
    file.write_text("text,label\n" + "".join(f"the soup was number {i},{i % 2}\n" for i in range(count)))
    return file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "bert"
    transformers_text(folder, "BertModel", max_position_embeddings=64)
    for name, text in train("wordpiece", ["the soup was number 1"], 99, max_length=64).files().items():
        (folder / name).write_text(text)
    return folder


def test_a_pretrained_model(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (f"data={table(tmp_path / 'train.csv', 100)}", f"test={table(tmp_path / 'other.csv', 20)}", *QUIET)
    assert call("finetune_text", tmp_path / "run", *words, f"model.source={source}", "val_fraction=0.1") == 0
    out = capsys.readouterr().out
    model = zoo.load(tmp_path / "run")
    assert model.config.pool == "cls" and model.config.vocab_size == 99
    (line,) = [line for line in out.splitlines() if line.startswith("model  ")][:1]
    assert "pool=" not in line and "vocab_size=" not in line and f"{source}, " in line
    assert "100 training and 20 test items (90 to train on, 10 for validation)" in out
    assert re.search(r"test accuracy +[\d.]+% on \S*other\.csv", out)
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["model"].get("overrides", {}) == {}
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    for row in ("| items trained on | 90 |", "| validation items | 10 |", "| test items | 20 |", "| vocab_size | 99 |",
                "| pool | cls |", f"| tested on | {tmp_path / 'other.csv'} |"):  # fmt: skip
        assert row in card, row


def test_options_of_the_user_count_with_a_pretrained_model(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(f"model:\n  source: {source}\n  dropout: 0.3\n")
    words = (f"data={table(tmp_path / 'train.csv', 100)}", *QUIET, f"config={config}", "pool=mean")
    assert call("finetune_text", tmp_path / "run", *words) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("model  ")][:1]
    assert "pool=mean" in line and "dropout=0.3" in line and "vocab_size" not in line
    model = zoo.load(tmp_path / "run")
    assert model.config.pool == "mean" and model.config.dropout == 0.3
    assert "on a held-out part of" in out


def test_a_new_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tokenizer learns fewer pieces than vocab_size=8000."""
    tiny = ("width=16", "depth=1", "heads=2", f"data={table(tmp_path / 'train.csv', 100)}", *QUIET)
    assert call("finetune_text", tmp_path / "run", *tiny) == 0
    out = capsys.readouterr().out
    size = zoo.load(tmp_path / "run").config.vocab_size
    (line,) = [line for line in out.splitlines() if line.startswith("model  ")][:1]
    assert size < 8000 and f"vocab_size={size}" in line and "width=16" in line
    assert f"| vocab_size | {size} |" in (tmp_path / "run" / "model" / "README.md").read_text()
