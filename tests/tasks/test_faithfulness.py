"""Facts that texts keep, and facts in them that are not supported: by hand, case by case."""

from typing import Any

import pytest

from zoo.data import make_dialogues
from zoo.tasks.faithfulness import FactChecker, Faithfulness

METFORMIN, ASPIRIN = ("metformin", "500 mg", "twice a day"), ("aspirin", "100 mg", "once a day")
INSULIN, GLARGINE = ("insulin", "10 units"), ("insulin glargine", "2.5 units", "at bedtime")
KNOWN = [[METFORMIN, ASPIRIN], [("warfarin", "5 mg", "every 8 hours")], [INSULIN, GLARGINE]]
BOTH = [METFORMIN, ASPIRIN]


@pytest.mark.parametrize(("text", "facts", "kept", "unsupported"), [
    ("Metformin 500 mg twice a day; aspirin 100 mg once a day.", BOTH, [True, True], []),
    ("He takes 500mg of METFORMIN twice a day and 100 mg of aspirin once a day.", BOTH, [True, True], []),
    ("Twice a day metformin (500 mg), once a day aspirin, 100 mg", BOTH, [True, True], []),
    ("Metformin, 500 mg, twice a day, and aspirin, 100 mg, once a day", BOTH, [True, True], []),
    ("Metformin 500 mg p.o. twice a day aspirin 100 mg p.o. once a day", BOTH, [True, True], []),
    ("Takes metformin 500 mg. Twice a day. Also aspirin: 100 mg once a day.", BOTH, [True, True], []),
    ("Aspirin 100 mg once a day", BOTH, [False, True], []),  # lost
    ("Metformin twice a day; aspirin", BOTH, [False, False], []),  # without the dose: lost, but not wrong
    # doses of each other; another number; a part of the number
    ("Metformin 100 mg twice a day; aspirin 500 mg once a day", BOTH, [False, False],
     ["metformin 100 mg twice a day", "aspirin 500 mg once a day"]),
    ("Metformin 850 mg twice a day", BOTH, [False, False], ["metformin 850 mg twice a day"]),
    ("Metformin 1500 mg twice a day", BOTH, [False, False], ["metformin 1500 mg twice a day"]),
    ("Metformin 50.0 mg twice a day", BOTH, [False, False], ["metformin 50.0 mg twice a day"]),
    ("Metformin 500 mg once a day", BOTH, [False, False], ["metformin 500 mg once a day"]),
    ("Metformin 500 mg every 6 hours", BOTH, [False, False], ["metformin 500 mg every 6 hours"]),
    # invented, or another patient's
    ("Warfarin 5 mg every 8 hours, metformin 500 mg twice a day", BOTH, [True, False], ["warfarin 5 mg every 8 hours"]),
    ("Warfarin, metformin 500 mg twice a day", [METFORMIN], [True], ["warfarin"]),
    ("Nometformin 500 mg twice a day", [METFORMIN], [False], []),  # words are whole
    # both doses: the right one is kept, and the text is wrong
    ("Metformin 500 mg or 850 mg twice a day", [METFORMIN], [True], ["metformin 500 mg 850 mg twice a day"]),
    # the longest name counts
    ("Insulin glargine 2.5 units at bedtime", [INSULIN], [False], ["insulin glargine 2.5 units at bedtime"]),
    ("Insulin glargine 2.5 units at bedtime", [GLARGINE, INSULIN], [True, False], []),
    ("Insulin glargine 25 units at bedtime", [GLARGINE], [False], ["insulin glargine 25 units at bedtime"]),
    ("", BOTH, [False, False], []),
    ("Nothing to report.", [], [], []),
])  # fmt: skip
def test_what_a_text_makes_of_the_facts(text: str, facts: Any, kept: list[bool], unsupported: list[str]) -> None:
    check = FactChecker(KNOWN).check(text, facts)
    assert (check.kept, check.unsupported) == (kept, unsupported)


def scores(texts: list[str], facts: Any, known: Any = KNOWN) -> dict[str, float]:
    metric = Faithfulness(FactChecker(known))
    for text, row in zip(texts, facts, strict=True):
        metric.update([text], [row])
    return metric.compute()


def test_the_scores_are_shares_of_all_facts() -> None:
    texts = ["Metformin 500 mg twice a day", "Warfarin 5 mg", "Aspirin 100 mg once a day; warfarin 5 mg"]
    found = scores(texts, [BOTH, [], [ASPIRIN]])
    assert found == {"faithfulness": pytest.approx(2 / 3), "unsupported": pytest.approx(2 / 4)}
    assert scores([""], [BOTH]) == {"faithfulness": 0.0, "unsupported": 0.0}
    assert scores(["Nothing"], [[]]) == {"faithfulness": 0.0, "unsupported": 0.0}
    with pytest.raises(ValueError, match="zip"):
        Faithfulness(FactChecker(KNOWN)).update(["a", "b"], [BOTH])


def test_facts_of_one_part_and_of_other_scripts() -> None:
    checker = FactChecker([["allergic to penicillin", ("1,500 steps",)]])
    check = checker.check("Allergic to penicillin; walks 1500 steps.", ["allergic to penicillin", "1,500 steps"])
    assert check.kept == [True, True] and check.unsupported == []
    assert checker.check("Walks 1600 steps", ["1,500 steps"]).unsupported == ["1600 steps"]
    checker = FactChecker([[("二甲双胍", "500毫克")]])
    assert checker.check("患者服用二甲双胍500毫克。", [("二甲双胍", "500毫克")]).kept == [True]
    assert checker.check("患者服用二甲双胍850毫克。", [("二甲双胍", "500毫克")]).kept == [False]


def test_notes_of_the_synthetic_set() -> None:
    rows = make_dialogues("train", 200) + make_dialogues("test", 100)
    facts = [row["facts"] for row in rows]
    assert scores([row["note"] for row in rows], facts, facts) == {"faithfulness": 1.0, "unsupported": 0.0}
    shifted = scores([row["note"] for row in rows[1:] + rows[:1]], facts, facts)  # the note of another dialogue
    assert shifted["faithfulness"] < 0.05 and shifted["unsupported"] > 0.95
    without = scores([row["note"].replace(" mg", "0 mg") for row in rows], facts, facts)  # ten times the dose
    assert without["faithfulness"] < 0.15 and without["unsupported"] > 0.85


@pytest.mark.parametrize(("known", "says"), [
    ([], "there are no facts"), ([[], []], "there are no facts"), ([[("a", "")]], "without words"),
    ([[()]], "without words"),
])  # fmt: skip
def test_facts_that_are_not_there(known: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FactChecker(known)
