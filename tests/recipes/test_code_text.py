"""The recipe of source code from its command line."""

import csv
import json
from pathlib import Path

import pytest
from recipe_calls import RECIPES, RESUMED, caller, check_resumed_run, result

import zoo
from zoo.cli.main import main
from zoo.training.recipes.code_config import CodeTextSettings

call = caller({"code_text": CodeTextSettings})
TINY = ("width=16", "heads=2", "kv_heads=2", "mlp_dim=16", "max_length=96", "vocab_size=300", "batch_size=4",
        "val_fraction=0.2", "accelerator=cpu", "precision=fp32", "progress=false", "plots=false",
        "log_every=1")  # fmt: skip
NAMES = {f"{new}{name}_exact_match" for new in ("", "new_") for name in
         ("line", "infill", "ngram_line", "ngram_infill", "ngram_file")}  # fmt: skip
LOSSES = {"test_loss", "test_perplexity", "test_bits_per_byte"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    for i in range(24):
        body = "    total = number + 1\n    result = total * number\n    return result\n"
        (folder / f"module{i}.py").write_text(f"import os\n\n\ndef scale{i}(number):\n{body}\n\nos.name\n")
    return folder


def test_the_whole_way(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("code_text", tmp_path / "run", f"data={project}", *TINY, "lines=8", "steps=4", "validate_every=2") == 0
    output = " ".join(capsys.readouterr().out.split())
    for text in ("real data", "24 Python files", "files that training lacks", "ngram_file", "zoo infill"):
        assert text in output, text
    metrics = result(tmp_path / "run")["result"]
    assert metrics.keys() == LOSSES | {f"test_{name}" for name in (*NAMES, "ngram_bits_per_byte")}
    assert metrics["test_ngram_file_exact_match"] > 0 and 0 < metrics["test_ngram_bits_per_byte"] < 2
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert "val_bits_per_byte" in header
    with (tmp_path / "run" / "lines.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and {"reference", "in_training", "line", "infill", "ngram_file"} <= rows[0].keys()
    right = [row["reference"] == row["ngram_file"] for row in rows]
    assert sum(right) / 8 == pytest.approx(metrics["test_ngram_file_exact_match"])
    model = zoo.load(tmp_path / "run")
    assert zoo.verify(tmp_path / "run" / "model").ok and model.config.eos_token_id == 0
    assert isinstance(zoo.infill(model, "import os\n", "\n", max_new_tokens=4), str)
    assert main(["infill", str(tmp_path / "run"), "import ", "max_new_tokens=4"]) == 0


def test_a_pretrained_model(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (f"data={project}", *TINY, "steps=1", "lines=0")
    assert call("code_text", tmp_path / "one", *words) == 0
    assert result(tmp_path / "one")["result"].keys() == LOSSES and not (tmp_path / "one" / "lines.csv").exists()
    source = [word for word in words if word.partition("=")[0] in ("data", "batch_size", "val_fraction", "steps")]
    source += ["accelerator=cpu", "progress=false", "plots=false", "lines=2", "ngram_baseline=false"]
    assert call("code_text", tmp_path / "two", f"model.source={tmp_path / 'one'}", *source) == 0
    assert zoo.load(tmp_path / "two").preprocess == zoo.load(tmp_path / "one").preprocess
    assert "test_ngram_line_exact_match" not in json.loads((tmp_path / "two" / "metrics.json").read_text())["result"]


@pytest.mark.parametrize("unit", ["context", "document"])
def test_interrupted_and_started_again(
    unit: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (f"data={project}", *TINY, "lines=0", f"unit={unit}", *RESUMED[:-1])
    check_resumed_run(lambda folder: call("code_text", folder, *words), tmp_path, monkeypatch)


@pytest.mark.parametrize(("words", "says"), [
    (["data=missing"], "expected a folder of Python files"),
    (["val_fraction=0"], "val_fraction=0"),
    (["val_fraction=0.01"], "expected at least 2, for validation and test"),
    (["model=bert_tiny"], "head='lm'"),
    (["model=vit_cifar_tiny"], "expected a text model"),
    (["rate=2"], "rate=2"),
    (["lines=-1"], "lines=-1"),
])  # fmt: skip
def test_what_it_refuses(words: list[str], says: str, project: Path, tmp_path: Path,
                         capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    given = {word.partition("=")[0] for word in words}
    others = [word for word in (f"data={project}", *TINY) if word.partition("=")[0] not in given]
    if "model" in given:
        others = [word for word in others if word.startswith(("data", "accel"))]
    assert call("code_text", tmp_path / "run", *others, "steps=1", *words) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error, error


def test_it_is_short() -> None:
    assert len((RECIPES / "code_text.py").read_text().splitlines()) <= 120
