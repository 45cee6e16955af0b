"""A head of another kind at load: what of the file serves it, and what is drawn."""

import pytest
import torch
from text_peers import ragged, transformers_text

import zoo


def heads_of(model):
    return {name: value for name, value in model.state_dict().items() if name.startswith("head.")}


@pytest.mark.parametrize(
    "name, pooled", [("BertModel", True), ("BertForMaskedLM", False), ("BertForPreTraining", True)]
)
def test_a_classifier_on_a_pretrained_body(tmp_path, name, pooled):
    theirs = transformers_text(tmp_path, name)
    model = zoo.load(tmp_path, head="classify", labels=["bad", "good", "so so"])
    report, head = model.load_report, heads_of(model)
    assert model.labels == ["bad", "good", "so so"] and head["head.proj.weight"].shape == (3, 32)
    assert {"head.proj.weight", "head.proj.bias"} <= set(report.initialized)
    assert ("head.dense.weight" in report.initialized) is not pooled
    if pooled:
        pooler = getattr(theirs, "bert", theirs).pooler.dense.weight
        assert torch.equal(head["head.dense.weight"], pooler)
        assert not any("pooler" in dropped for dropped in report.dropped)
    else:
        assert not torch.equal(head["head.dense.weight"], theirs.cls.predictions.transform.dense.weight)
    assert torch.isfinite(model(**ragged(types=True))).all()


def test_the_same_names_in_another_head_are_not_carried_over(tmp_path):
    first = zoo.create_model("bert_tiny", width=32, vocab_size=99, max_length=20, seed=1)
    zoo.save(first, tmp_path)
    model = zoo.load(tmp_path, labels=["no", "yes"])
    assert "head.dense.weight" in model.load_report.dropped and "head.dense.weight" in model.load_report.initialized
    assert not torch.equal(model.head.dense.weight, first.head.dense.weight)


def test_pooling_and_classifying_share_the_pooler(tmp_path):
    first = zoo.create_model("bert_tiny", width=32, vocab_size=99, max_length=20, head="classify", seed=1)
    zoo.save(first, tmp_path)
    model = zoo.load(tmp_path, head="pool")
    assert torch.equal(model.head.dense.weight, first.head.dense.weight) and not model.load_report.initialized


def test_a_bare_file_that_does_not_say_its_class(tmp_path):
    from peers import edit_json

    transformers_text(tmp_path, "BertForPreTraining")
    edit_json(tmp_path / "config.json", architectures=...)
    assert zoo.load(tmp_path).config.head is None
    assert not zoo.load(tmp_path, head="masked_lm").load_report.initialized


@pytest.mark.parametrize(("name", "fields", "kept"), [
    ("bert_tiny", {"vocab_size": 99}, "head.dense.weight"),
    ("vit_base_patch16_siglip_224", {"width": 32, "heads": 4, "depth": 1}, "head.probe"),
])  # fmt: skip
def test_reset_head_keeps_the_pooling_layers_as_loading_with_other_classes_does(tmp_path, name, fields, kept):
    model = zoo.create_model(name, head="classify", num_classes=5, seed=1, **fields)
    zoo.save(model, tmp_path / "five")
    before = heads_of(model)
    model.reset_head(3, seed=2)
    loaded = heads_of(zoo.load(tmp_path / "five", num_classes=3))
    assert kept in before and heads_of(model).keys() == loaded.keys() == before.keys()
    for key, weight in heads_of(model).items():
        if not key.startswith("head.proj"):
            assert torch.equal(weight, before[key]) and torch.equal(weight, loaded[key])
    model.reset_head(0)
    assert torch.equal(heads_of(model)[kept], before[kept])


def test_reset_head_takes_nothing_from_a_head_of_another_kind():
    model = zoo.create_model("bert_tiny", vocab_size=99, seed=1)
    before = heads_of(model)
    model.reset_head(3)
    assert not torch.equal(heads_of(model)["head.dense.weight"], before["head.dense.weight"])
