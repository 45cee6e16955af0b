"""Synthetic clinic dialogues: their facts are in the dialogue and the note, and training saw no held-out dose."""

import re

import pytest

from zoo.data import load_card, make_dialogues
from zoo.data.synthetic import clinic


def mentions(name: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE) is not None


def test_the_same_for_the_same_arguments() -> None:
    rows = make_dialogues("train", 300)
    assert rows == make_dialogues("train", 300) == make_dialogues("train", 400)[:300]
    assert rows != make_dialogues("train", 300, seed=1) and rows[0] != make_dialogues("test", 1)[0]
    assert len({row["dialogue"] for row in rows}) == 300
    with pytest.raises(ValueError, match="expected train or test"):
        make_dialogues("validation")


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_note_has_the_current_medications_and_no_others(split: str) -> None:
    others = 0
    for row in make_dialogues(split, 400, seed=3):
        dialogue, note, facts = row["dialogue"], row["note"], row["facts"]
        assert 1 <= len(facts) <= 3 and not re.search(r"[{}|]", dialogue + note)
        (listed,) = re.findall(r"Medication: (.*?)\. Follow-up", note)
        assert listed == "; ".join(map(" ".join, facts))
        for name, dose, frequency in facts:
            assert mentions(name, dialogue) and mentions(dose, dialogue)
            assert any(mentions(words, dialogue) for words in clinic.FREQUENCIES[frequency])
            assert dose == clinic.MEDICATIONS[name][2] if split == "test" else dose in clinic.MEDICATIONS[name][1]
        current = [name for name, _, _ in facts]
        assert [name for name in clinic.MEDICATIONS if mentions(name, note)] == sorted(
            current, key=list(clinic.MEDICATIONS).index
        )
        others += any(mentions(name, dialogue) for name in clinic.MEDICATIONS if name not in current)
        places = [dialogue.lower().index(name) for name in current]
        assert places == sorted(places)
    assert 250 < others < 380  # four of five dialogues have a distractor


def test_training_never_saw_the_doses_of_the_test() -> None:
    trained = {dose for _, doses, _ in clinic.MEDICATIONS.values() for dose in doses}
    for condition, doses, held_out in clinic.MEDICATIONS.values():
        assert condition and len(doses) > 1 and held_out in trained and held_out not in doses
    for row in make_dialogues("train"):
        names = [name for name in clinic.MEDICATIONS if mentions(name, row["dialogue"])]
        possible = {dose for name in names for dose in clinic.MEDICATIONS[name][1]}
        assert {dose for dose in trained if mentions(dose, row["dialogue"])} <= possible
    tested = {tuple(fact[:2]) for row in make_dialogues("test") for fact in row["facts"]}
    assert tested == {(name, held_out) for name, (_, _, held_out) in clinic.MEDICATIONS.items()}


def test_the_card() -> None:
    card = load_card("synthetic_clinic")
    assert not card.real and card.splits == {"train": clinic.TRAIN, "test": clinic.TEST}
    assert f"{len(clinic.MEDICATIONS)} medications" in card.held_out
