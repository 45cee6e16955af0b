"""Labels of an `id2label` that does not count from 0 without gaps stay at their own rows, or are refused by name."""

from pathlib import Path

import pytest
from peers import edit_json
from text_peers import transformers_text

import zoo


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="rows without a name are called 'None', others shift")
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
