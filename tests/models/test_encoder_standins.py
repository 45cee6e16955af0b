"""The files that people download: their names, extras and configs at a tiny size, with the numbers of transformers."""

import json
import re

import pytest
import torch
from peers import error
from safetensors.torch import load_file, save_file
from text_peers import answer, ragged, transformers_text

import zoo
from zoo.preprocessing.tokenizer_training import train

POSITIONS = torch.arange(40)[None]


def old_norms(tensors):
    """As the files converted from TensorFlow name them."""
    tensors = {re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", name): t for name, t in tensors.items()}
    return {re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name): t for name, t in tensors.items()}


def bert_base_uncased(tensors):
    """cls.predictions.decoder is absent: its weight is the word table, its bias cls.predictions.bias."""
    return old_norms({name: t for name, t in tensors.items() if "predictions.decoder" not in name})


def bert_bin(tensors):
    return old_norms({name: t for name, t in tensors.items() if name != "cls.predictions.decoder.bias"})


def roberta_base(tensors):
    tensors = {name: t for name, t in tensors.items() if "lm_head.decoder" not in name}
    pooler = {"roberta.pooler.dense.weight": torch.randn(32, 32), "roberta.pooler.dense.bias": torch.randn(32)}
    return tensors | pooler | {"roberta.embeddings.position_ids": POSITIONS}


def roberta_bin(tensors):
    return roberta_base(tensors) | {"lm_head.decoder.weight": tensors["roberta.embeddings.word_embeddings.weight"]}


def distilbert(tensors):
    return {name: t for name, t in tensors.items() if name != "vocab_projector.weight"}


def modernbert(tensors):
    return {name: t for name, t in tensors.items() if name != "decoder.weight"}


def with_positions(tensors):
    return tensors | {"embeddings.position_ids": POSITIONS}


POOLER = ["pooler.dense.bias", "pooler.dense.weight"]
NEXT = ["cls.seq_relationship.bias", "cls.seq_relationship.weight"]
# repository: (class of its tensors, class in config.json, its tensors, changed config, .bin?, dropped)
REPOSITORIES = {
    "google-bert/bert-base-uncased": (
        "BertForPreTraining", "BertForMaskedLM", bert_base_uncased, {"gradient_checkpointing": False}, False,
        [f"bert.{name}" for name in POOLER] + NEXT,
    ),
    "google-bert/bert-base-uncased .bin": (
        "BertForPreTraining", "BertForMaskedLM", bert_bin, {}, True,
        ["bert." + POOLER[0], "bert." + POOLER[1], "cls.predictions.decoder.weight", *NEXT],
    ),
    "google/bert_uncased_L-2_H-128_A-2": (
        "BertForPreTraining", None, bert_bin, {}, True, None,
    ),
    "FacebookAI/roberta-base": (
        "RobertaForMaskedLM", "RobertaForMaskedLM", roberta_base, {}, False,
        ["roberta.embeddings.position_ids", "roberta.pooler.dense.bias", "roberta.pooler.dense.weight"],
    ),
    "FacebookAI/roberta-base .bin": (
        "RobertaForMaskedLM", "RobertaForMaskedLM", roberta_bin, {}, True,
        ["lm_head.decoder.weight", "roberta.embeddings.position_ids", "roberta.pooler.dense.bias",
         "roberta.pooler.dense.weight"],
    ),
    "FacebookAI/xlm-roberta-base": (
        "XLMRobertaForMaskedLM", "XLMRobertaForMaskedLM", roberta_bin, {"output_past": True}, False,
        ["lm_head.decoder.weight", "roberta.embeddings.position_ids", "roberta.pooler.dense.bias",
         "roberta.pooler.dense.weight"],
    ),
    "distilbert/distilbert-base-uncased": (
        "DistilBertForMaskedLM", "DistilBertForMaskedLM", distilbert, {"tie_weights_": True}, False, [],
    ),
    "answerdotai/ModernBERT-base": (
        "ModernBertForMaskedLM", "ModernBertForMaskedLM", modernbert,
        {"layer_types": ..., "rope_parameters": ..., "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0,
         "local_rope_theta": 10000.0, "position_embedding_type": "absolute", "layer_norm_eps": 1e-5}, False, [],
    ),
}  # fmt: skip


def stand_in(folder, repository):
    """The folder of a repository, and transformers' model with the same weights."""
    name, architecture, rename, changes, pickled, dropped = REPOSITORIES[repository]
    theirs = transformers_text(folder, name)
    write(folder, rename(theirs.state_dict()), pickled)
    values = (
        json.loads((folder / "config.json").read_text()) | changes | {"architectures": architecture and [architecture]}
    )
    values = {key: value for key, value in values.items() if value not in (..., None)}
    (folder / "config.json").write_text(json.dumps(values))
    return theirs, dropped


def write(folder, tensors, pickled=False):
    (folder / "model.safetensors").unlink()
    tensors = {key: tensor.clone().contiguous() for key, tensor in tensors.items()}
    if pickled:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors")


def body_of(model):
    return getattr(model, "bert", model)


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_what_people_download(tmp_path, repository):
    theirs, dropped = stand_in(tmp_path, repository)
    ours, batch = zoo.load(tmp_path), ragged(types="google-bert" in repository)
    report = ours.load_report
    assert not report.initialized and (dropped is None or sorted(report.dropped) == sorted(dropped))
    if ours.config.head is None:
        theirs = body_of(theirs)
    elif type(theirs).__name__ == "BertForPreTraining":
        forward = theirs.forward
        theirs.forward = lambda **batch: {"logits": forward(**batch).prediction_logits}
    assert error(answer(ours, batch), answer(theirs, batch)) <= 1e-5


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_a_classifier_on_each_of_them(tmp_path, repository):
    stand_in(tmp_path, repository)
    model = zoo.load(tmp_path, labels=["no", "perhaps", "yes"])
    assert {"head.proj.weight", "head.proj.bias"} <= set(model.load_report.initialized)
    assert all(name.startswith("head.") for name in model.load_report.initialized)
    assert model(**ragged()).shape == (3, 3) and model.labels == ["no", "perhaps", "yes"]


def test_a_tensor_too_many_is_an_error(tmp_path):
    theirs, _ = stand_in(tmp_path, "google-bert/bert-base-uncased")
    write(tmp_path, bert_base_uncased(theirs.state_dict()) | {"bert.embeddings.extra": torch.ones(1)})
    with pytest.raises(zoo.LoadError, match=r"left over bert\.embeddings\.extra"):
        zoo.load(tmp_path)


# --- sentence-transformers/all-MiniLM-L6-v2 ---------------------------------------------------------------------------

SENTENCES = ["a small dog", "the fox jumps over a dog", "one fox"]


def mini_lm(folder, normalize=True, **pooling):
    """The repository at a tiny size, and transformers' model with the same weights."""
    theirs = transformers_text(folder, "BertModel")
    write(folder, with_positions(theirs.state_dict()))
    tokenizer = train("wordpiece", SENTENCES * 3, 60)
    (folder / "tokenizer.json").write_text(tokenizer.tokenizer)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512, "do_lower_case": True}))
    modules = ["Transformer", "Pooling", "Normalize"][: 3 if normalize else 2]
    (folder / "modules.json").write_text(json.dumps([
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(modules)
    ]))  # fmt: skip
    (folder / "1_Pooling").mkdir()
    settings = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    settings |= {"pooling_mode_max_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings | pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 25, "do_lower_case": False}))
    return theirs


def embedded(theirs, batch, pool="mean", normalize=True):
    with torch.no_grad():
        x = theirs(**batch).last_hidden_state
    keep = batch["attention_mask"][..., None]
    x = x[:, 0] if pool == "cls" else (x * keep).sum(1) / keep.sum(1)
    return torch.nn.functional.normalize(x, dim=-1) if normalize else x


def test_sentences_become_vectors(tmp_path):
    theirs = mini_lm(tmp_path)
    ours = zoo.load(tmp_path)
    assert ours.config.head == "pool" and ours.preprocess.max_length == 25
    assert set(ours.load_report.dropped) == {*POOLER, "embeddings.position_ids"}
    batch = ours.preprocess(SENTENCES)
    with torch.no_grad():
        vectors = ours(**batch)
    assert error(vectors, embedded(theirs, batch)) <= 1e-5 and vectors.shape == (3, 32)
    assert zoo.verify(tmp_path).ok


def test_the_first_token_and_no_norm(tmp_path):
    theirs = mini_lm(tmp_path, normalize=False, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    ours = zoo.load(tmp_path)
    batch = ours.preprocess(SENTENCES)
    with torch.no_grad():
        assert error(ours(**batch), embedded(theirs, batch, "cls", False)) <= 1e-5


def test_exported_for_sentence_transformers(tmp_path):
    mini_lm(tmp_path / "first")
    ours = zoo.load(tmp_path / "first")
    zoo.export(ours, tmp_path / "second")
    again = zoo.load(tmp_path / "second")
    batch = ours.preprocess(SENTENCES)
    assert again.config == ours.config and again.preprocess == ours.preprocess
    assert torch.equal(answer(again, batch), answer(ours, batch))
    modules = json.loads((tmp_path / "second" / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]


def test_a_classifier_on_an_embedding_model(tmp_path):
    mini_lm(tmp_path)
    model = zoo.load(tmp_path, labels=["a", "b"])
    assert model.load_report.initialized == ["head.proj.weight", "head.proj.bias"] and model.config.pool == "mean"


@pytest.mark.parametrize("pooling, message", [
    ({"pooling_mode_cls_token": True}, "pooling cls and mean is not supported"),
    ({"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}, "pooling max is not supported"),
])  # fmt: skip
def test_other_poolings_are_refused(tmp_path, pooling, message):
    mini_lm(tmp_path, **pooling)
    with pytest.raises(zoo.LoadError, match=message):
        zoo.load(tmp_path)


@pytest.mark.parametrize("act", ["gelu_new", "gelu", "silu"])
def test_activations_have_the_names_of_transformers(tmp_path, act):
    theirs = transformers_text(tmp_path, "BertForSequenceClassification", hidden_act=act)
    batch = ragged((9, 5))
    with torch.no_grad():
        assert error(zoo.load(tmp_path)(**batch), answer(theirs, batch)) <= 1e-6


def test_a_classifier_without_its_pooler_is_incomplete(tmp_path):
    transformers_text(tmp_path, "BertForSequenceClassification")
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if "pooler" not in name}, tmp_path / "model.safetensors")
    with pytest.raises(zoo.LoadError, match=r"missing bert\.pooler\.dense\.weight"):
        zoo.load(tmp_path)


@pytest.mark.parametrize("changes", [
    {"global_attn_every_n_layers": 2, "global_rope_theta": 3000.0, "local_rope_theta": 200.0}, {},
], ids=["given", "omitted"])  # fmt: skip
def test_an_old_config_of_modernbert(tmp_path, changes):
    """Its rotary bases and the interval of its global layers, or what transformers takes where they are omitted."""
    from transformers import AutoModelForMaskedLM

    transformers_text(tmp_path, "ModernBertForMaskedLM")
    values = json.loads((tmp_path / "config.json").read_text())
    for key in ("layer_types", "rope_parameters", "global_attn_every_n_layers"):
        values.pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps(values | changes))
    theirs, ours, batch = AutoModelForMaskedLM.from_pretrained(tmp_path).eval(), zoo.load(tmp_path), ragged()
    assert ours.config.global_every == changes.get("global_attn_every_n_layers", 3)
    assert error(answer(ours, batch), answer(theirs, batch)) <= 1e-5
