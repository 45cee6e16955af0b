"""Labels of an `id2label` that does not count from 0 without gaps stay at their own rows, or are refused by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peers import edit_json, error, timm_folder
from text_peers import transformers_text

import zoo

IDS = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "names",
    [{"1": "neg", "2": "pos"}, {"0": "neg", "2": "pos"}, {"0": "neg", "1": "pos", "01": "other"}],
    ids=["from 1", "a gap", "a number written twice"],
)
def test_labels_stay_at_their_rows(names: dict[str, str], tmp_path: Path) -> None:
    transformers_text(tmp_path, "BertForSequenceClassification", num_labels=len(names))
    edit_json(tmp_path / "config.json", id2label=names, label2id={name: int(i) for i, name in names.items()})
    try:
        labels = zoo.load(tmp_path).labels
    except zoo.LoadError as error:
        assert "id2label" in str(error)
    else:
        for row, label in enumerate(labels or []):
            assert label != "None"
            assert label not in names.values() or label == names.get(str(row))


def test_the_number_of_classes_is_that_of_the_tensors(tmp_path: Path) -> None:
    """Published: `num_labels: 50`, and two names that stand for none."""
    theirs = transformers_text(tmp_path, "BertForSequenceClassification", num_labels=5)
    names = {"0": "LABEL_0", "1": "LABEL_1"}
    edit_json(tmp_path / "config.json", num_labels=50, id2label=names, label2id={})
    model = zoo.load(tmp_path)
    assert (model.config.num_classes, model.labels) == (5, None)
    assert error(model(IDS), theirs(IDS).logits) <= 1e-5


def test_rows_without_a_name_are_reported(tmp_path: Path) -> None:
    transformers_text(tmp_path, "BertForTokenClassification", num_labels=4)
    edit_json(tmp_path / "config.json", id2label={"0": "O", "3": "PER"})
    model = zoo.load(tmp_path)
    assert model.labels == ["O", "LABEL_1", "LABEL_2", "PER"]
    assert "LABEL_1, LABEL_2" in str(model.load_report)


@pytest.mark.parametrize("names", [["a", "b"], 5, {"a": "0"}, {"0": ["a"]}, {"-1": "a"}, {"0": "a", "7": "b"}, "ab"])
def test_names_that_belong_to_no_row_are_refused(names: Any, tmp_path: Path) -> None:
    transformers_text(tmp_path, "BertForSequenceClassification", num_labels=2)
    edit_json(tmp_path / "config.json", id2label=names)
    with pytest.raises(zoo.LoadError, match=r"config\.json: id2label"):
        zoo.load(tmp_path)


@pytest.mark.parametrize("names", [{"1": "a", "2": "b"}, {"0": "a", "2": "b"}, ["a"], 3, ["a", ["b"]]])
def test_label_names_of_timm(names: Any, tmp_path: Path) -> None:
    timm_folder(tmp_path, "vit_tiny_patch16_224", num_classes=2, img_size=32, patch_size=8)
    edit_json(tmp_path / "config.json", label_names=names)
    try:
        model = zoo.load(tmp_path)
    except zoo.LoadError as problem:
        assert "label_names" in str(problem)
    else:
        assert model.labels is None
        assert "label_names" in str(model.load_report)


def test_an_old_config_without_a_model_type(tmp_path: Path) -> None:
    transformers_text(tmp_path, "BertForSequenceClassification", num_labels=5)
    edit_json(tmp_path / "config.json", model_type=..., architectures=..., id2label=...)
    with pytest.raises(zoo.LoadError, match="add its model_type, such as 'bert'"):
        zoo.load(tmp_path)
    edit_json(tmp_path / "config.json", model_type="bert", architectures=["BertForSequenceClassification"])
    assert zoo.load(tmp_path).config.num_classes == 5
