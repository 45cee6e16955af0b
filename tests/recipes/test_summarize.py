"""The recipe of summaries from its command line: scores, examples, adapters, resumed runs, what it refuses."""

import csv
import json
from pathlib import Path

import pytest
import torch
from recipe_calls import RECIPES, RESUMED, caller, check_resumed_run, result

import zoo
from zoo.training.recipes.config import SummarizeSettings

call = caller({"summarize": SummarizeSettings})
QUIET = ("accelerator=cpu", "precision=fp32", "progress=false", "log_every=1")
TINY = ("width=16", "depth=1", "heads=2", "batch_size=8", "vocab_size=400", "max_target_length=24", "num_beams=1",
        "val_samples=6", *QUIET)  # fmt: skip
FEW = ("max_train_samples=60", "max_test_samples=9", *TINY)
ROUGE = {"test_rouge1", "test_rouge2", "test_rougeL"}
LOSSES = {"test_loss", "test_perplexity", "test_token_accuracy"}


@pytest.fixture(autouse=True)
def few_dialogues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.data.synthetic.clinic.TRAIN", 200)
    monkeypatch.setattr("zoo.data.synthetic.clinic.TEST", 20)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "summaries.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def table(file: Path, count: int = 60, **more: str) -> Path:
    lines = [json.dumps({"story": f"first {i} and then {i + 1} and more", "short": f"{i} {i + 1}", **more})
             for i in range(count)]  # fmt: skip
    file.write_text("\n".join(lines))
    return file


def test_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rouge_score")
    assert call("summarize", tmp_path / "run", *FEW, "steps=3", "monitor=rougeL", "export=transformers") == 0
    output = capsys.readouterr().out
    for text in ("generated clinic dialogues with notes", "60 training and 9 test items", "faithfulness", "rougeL",
                 "medications in doses that training lacks", "lost", "zoo generate", "exported"):  # fmt: skip
        assert text in " ".join(output.split()), text
    found = result(tmp_path / "run")["result"]
    assert found.keys() == LOSSES | ROUGE | {"test_faithfulness", "test_unsupported"}
    written = rows(tmp_path / "run")
    assert len(written) == 9 and set(written[0]) == {"source", "reference", "summary", "lost", "unsupported"}
    assert all(one["reference"].startswith("Complaint: ") and one["lost"] for one in written)
    assert found["test_faithfulness"] == 0  # after three steps
    model = zoo.load(tmp_path / "run")
    texts = zoo.generate(model, [one["source"] for one in written], max_new_tokens=24)
    assert [text.strip() for text in texts] == [one["summary"].strip() for one in written]
    assert result(tmp_path / "run")["monitor"] == "val_rougeL"
    assert "val_faithfulness" in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]


def test_adapters_on_a_folder_of_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft", reason="adapters need the extra `lora`")
    assert call("summarize", tmp_path / "one", *FEW, "steps=1", "export=transformers") == 0
    words = (f"data={table(tmp_path / 'a.jsonl')}", "source_text=story", "target_text=short", "lora.rank=2", "steps=2",
             "batch_size=8", "max_source_length=8", "num_beams=2", "val_samples=4",
             "export=transformers", *QUIET)  # fmt: skip
    capsys.readouterr()
    with pytest.warns(UserWarning, match="expected at most max_length=8; 51 of 51 source texts are truncated"):
        assert call("summarize", tmp_path / "two", f"model.source={tmp_path / 'one' / 'transformers'}", *words) == 0
    before, after = zoo.load(tmp_path / "one"), zoo.load(tmp_path / "two")
    assert not any("lora" in name for name in after.state_dict())
    exported = zoo.load(tmp_path / "two" / "transformers").state_dict()
    assert all(torch.equal(exported[name], value) for name, value in after.state_dict().items())
    changed = {name for name, value in before.state_dict().items() if not torch.equal(value, after.state_dict()[name])}
    assert len(changed) == 2 * 3 and all(name.split(".")[-2] in ("q", "v") for name in changed), changed
    assert result(tmp_path / "two")["result"].keys() == LOSSES | ROUGE  # the table has no facts
    assert set(rows(tmp_path / "two")[0]) == {"source", "reference", "summary"}
    assert "lost" not in capsys.readouterr().out


def test_without_the_package_of_rouge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(self: object) -> None:
        raise ImportError("ROUGE needs rouge-score: pip install 'attention-zoo[summarize]'")

    monkeypatch.setattr("zoo.tasks.rouge.ROUGE.__init__", missing)
    assert call("summarize", tmp_path / "one", *FEW, "steps=1") == 0
    assert "ROUGE is not computed: ROUGE needs rouge-score: pip install" in "".join(capsys.readouterr())
    assert result(tmp_path / "one")["result"].keys() == LOSSES | {"test_faithfulness", "test_unsupported"}
    words = (f"data={table(tmp_path / 'a.jsonl', facts='')}", "source_text=story", "target_text=short")
    assert call("summarize", tmp_path / "two", *words, *TINY, "steps=1") == 0
    assert "no row has facts: faithfulness is not measured" in "".join(capsys.readouterr())
    assert result(tmp_path / "two")["result"].keys() == LOSSES


def test_interrupted_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*FEW, "dropout=0.1", *RESUMED)
    check_resumed_run(lambda folder: call("summarize", folder, *words), tmp_path, monkeypatch)


@pytest.mark.parametrize(("words", "says"), [
    (["model=bert_tiny"], "expected one, such as bart_nano"),
    (["data=missing.jsonl"], "missing.jsonl does not exist"),
    (["facts=medications"], "facts= is for your own data"),
    (["max_source_length=2"], "max_source_length=2: expected at least 3"),
    (["num_beams=0"], "num_beams=0"),
    (["truncate=error", "max_source_length=20"], "source text 0 has"),
])  # fmt: skip
def test_what_it_refuses(words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("summarize", tmp_path / "run", *words, *QUIET) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error, error


def test_it_is_short() -> None:
    assert len((RECIPES / "summarize.py").read_text().splitlines()) <= 70
