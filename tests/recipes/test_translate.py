"""The recipe for translation, with tiny models: its files, its tokenizer, what it resumes and what it refuses."""

import csv
import json
import sys
from pathlib import Path

import pytest
from recipe_calls import RESUMED, caller, check_resumed_run, result

import zoo
from zoo.data.synthetic.translations import make_translations
from zoo.inference.generation.streaming import stream_text
from zoo.training.recipes.config import TranslateSettings

call = caller({"translate": TranslateSettings})
QUIET = ("progress=false",)
TINY = (*QUIET, "log_every=1", "width=16", "depth=1", "heads=2", "vocab_size=400", "data.batch_size=16",
        "max_train_samples=96", "max_test_samples=6", "val_samples=4", "data.max_target_length=12",
        "num_beams=2")  # fmt: skip


def test_the_files_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("translate", tmp_path / "run", *TINY, "steps=2") == 0
    printed = "".join(capsys.readouterr())
    assert "Synthetic data" in printed and "nrefs:1|case:mixed" in printed
    found = result(tmp_path / "run")
    assert {"test_loss", "test_perplexity", "test_token_accuracy", "test_bleu"} == set(found["result"])
    assert found["bleu_signature"].startswith("nrefs:1|") and "val_bleu" in found["validation"]
    with open(tmp_path / "run" / "translations.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and rows[0].keys() == {"source", "reference", "translation"}
    assert {"alignment.png", "curves.png"} <= {file.name for file in (tmp_path / "run").iterdir()}
    model = zoo.load(tmp_path / "run")
    texts = zoo.generate(model, [row["source"] for row in rows], num_beams=2, max_new_tokens=12)
    assert texts == [row["translation"] for row in rows]
    written: list[str] = []
    assert stream_text(model, rows[0]["source"], write=written.append, max_new_tokens=12) == "".join(written)
    assert "".join(written) == zoo.generate(model, rows[0]["source"], max_new_tokens=12)
    c, tokens = model.config, model.preprocess
    ids = (c.vocab_size, c.pad_token_id, c.eos_token_id, c.decoder_start_token_id)
    assert ids == (tokens.vocab_size, tokens.id("pad"), tokens.id("eos"), tokens.id("bos"))
    source, target = make_translations(1, seed=0)
    assert "<unk>" not in "".join(tokens.backend.encode(source[0] + target[0]).tokens)


def test_two_files_and_another_family(tmp_path: Path) -> None:
    english, german = make_translations(60, seed=1)
    for name, texts in (("en", english), ("de", german)):
        (tmp_path / f"train.{name}").write_text("\n".join(texts) + "\n", encoding="utf-8")
    words = (*TINY, "model=bart_nano", "steps=1", f"data={tmp_path}/train.en,{tmp_path}/train.de", "plots=false",
             "export=transformers", "label_smoothing=0")  # fmt: skip
    assert call("translate", tmp_path / "run", *words) == 0
    found = result(tmp_path / "run")
    assert found["real"] and found["data"].endswith("train.de")
    config = json.loads((tmp_path / "run" / "transformers" / "config.json").read_text())
    assert (
        config["decoder_start_token_id"] == 0 and config["vocab_size"] == zoo.load(tmp_path / "run").config.vocab_size
    )
    tuned = ("model.source=" + str(tmp_path / "run"), "lora.rank=2", "steps=1", "max_train_samples=32", *QUIET)
    tuned += ("data.batch_size=16", "max_test_samples=4", "val_samples=2", "data.max_target_length=8", "plots=false")
    pytest.importorskip("peft")
    assert call("translate", tmp_path / "tuned", *tuned) == 0
    assert zoo.load(tmp_path / "tuned").preprocess.vocab_size == config["vocab_size"]


def test_without_sacrebleu_the_loss_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    assert call("translate", tmp_path / "run", *TINY, "steps=1", "plots=false") == 0
    assert "BLEU needs sacrebleu: pip install 'attention-zoo[translate]'" in "".join(capsys.readouterr())
    found = result(tmp_path / "run")
    assert "test_loss" in found["result"] and "test_bleu" not in found["result"] and "bleu_signature" not in found


def test_interrupted_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*TINY, "dropout=0.1", "ema=0.9", *RESUMED)
    check_resumed_run(lambda folder: call("translate", folder, *words), tmp_path, monkeypatch)


@pytest.mark.parametrize(("words", "says"), [
    (["model=bert_tiny"], "bert_tiny is not an encoder-decoder"),
    (["model=vit_cifar_tiny"], "is not an encoder-decoder"),
    (["data=a.en,b.de"], "a.en does not exist"),
    (["data=multi3k"], "did you mean 'multi30k'"),
    (["vocab_size=100"], "vocab_size=100 is too small"),
    (["num_beams=0"], "num_beams=0: expected at least 1"),
    (["data.max_source_length=2"], "max_source_length=2: expected at least 3"),
    (["data.max_target_length=4", "truncate=error", "steps=1"], "expected at most max_length=4"),
    (["warmup=0"], "schedule=inverse_sqrt with warmup=0"),
])  # fmt: skip
def test_what_it_refuses(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert call("translate", tmp_path / "run", *QUIET, *words) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error, error
