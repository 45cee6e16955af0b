"""`zoo.predict` of alignments: the most probable contacts."""

import math

import pytest
import torch

import zoo
from zoo.inference.contacts import Contact, contacts_of
from zoo.preprocessing.alignment import Alignment

ROWS = ["MKVAGEWLDR", "MKV-GEWLDR", "AKVAGEFLDK"]


def model():
    return zoo.create_model(
        "evoformer_nano", width=8, heads=2, pair_width=8, pair_heads=2, outer_width=4, depth=1
    ).eval()


def test_contacts_are_named_by_letters_and_numbers():
    scores = torch.full((9, 9), -5.0)
    scores[0, 8], scores[1, 8], scores[0, 1] = 2.0, 1.0, 9.0
    found = contacts_of(scores, Alignment.of_rows(["MKVAGEW-LD".replace("-", "X")[:9]]).ids()[0], 2)
    assert [contact[0] for contact in found] == ["M1-L9", "K2-L9"]
    assert found[0] == Contact("M1-L9", pytest.approx(1 / (1 + math.exp(-2))), 1, 9)
    halved = contacts_of(scores, torch.zeros(9, dtype=torch.long), 1, temperature=2.0)
    assert halved[0].probability == pytest.approx(1 / (1 + math.exp(-1)))
    assert contacts_of(scores[:5, :5], torch.zeros(5, dtype=torch.long), 3) == []


def test_predict_reads_files_and_alignments(tmp_path):
    made = model()
    path = tmp_path / "family.a3m"
    path.write_text("".join(f">s{i}\n{row}\n" for i, row in enumerate(ROWS)))
    alignment, short = Alignment.of_rows(ROWS), Alignment.of_rows(["MKVAGEWL"])
    with torch.no_grad():
        scores = made(**made.preprocess(path))[0]
    found = zoo.predict(made, path, top_k=3)
    best = max((float(scores[i, j].sigmoid()), i + 1, j + 1) for i in range(10) for j in range(i + 6, 10))
    assert (found[0].first, found[0].second) == best[1:] and found[0].probability == pytest.approx(best[0], abs=1e-6)
    several = zoo.predict(made, [alignment, short, str(path)], top_k=3)
    assert [contact[0] for contact in several[0]] == [contact[0] for contact in several[2]] == [c[0] for c in found]
    assert len(several[1]) == 3
    (tmp_path / "bad.a3m").write_text(">a\nMKV\n>b\nMK\n")
    with pytest.raises(ValueError, match=r"bad.a3m: sequence 2 \(b\) has 2 columns"):
        zoo.predict(made, tmp_path / "bad.a3m")
    with pytest.warns(UserWarning):
        failed = zoo.predict(made, [alignment, str(tmp_path / "bad.a3m")], on_error="label")
    assert failed[1][0].contact.startswith("error: ") and math.isnan(failed[1][0].probability)


def test_hidden_states_are_no_prediction():
    with pytest.raises(ValueError, match="a model of alignments with head='contacts'"):
        zoo.predict(zoo.create_model("evoformer_nano", head=None, depth=1), Alignment.of_rows(ROWS))
