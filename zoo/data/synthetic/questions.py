"""Synthetic questions: contexts of facts in sentences, questions about one of them, and questions without an answer.

Every context has several facts of the same form about different persons, so that the words of the question decide which
one answers it. The dataset is for learning and testing the library, not for ranking models.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

from zoo.data.synthetic.entities import FIRST, LAST, PLACES

TRAIN, TEST = 6000, 1000
UNANSWERABLE = 0.15  # of all questions

OBJECTS = """piano violin boat bridge novel poem camera clock garden kite lamp map mirror painting radio sofa telescope
tower violin wagon""".split()  # noqa: SIM905
YEARS = [str(year) for year in range(1801, 2000, 7)]

# (fact, {question: the part of the fact that answers it}); {p}, {c}, {t}, {y}: person, place, object, year.
FACTS = [
    ("{p} was born in {c} .", {"where was {p} born ?": "{c}"}),
    ("{p} bought a {t} in {y} .", {"what did {p} buy ?": "a {t}", "when did {p} buy a {t} ?": "{y}"}),
    ("{p} moved to {c} in {y} .", {"where did {p} move ?": "{c}", "when did {p} move ?": "{y}"}),
    ("in {y} {p} sold a {t} .", {"what did {p} sell ?": "a {t}", "when did {p} sell a {t} ?": "{y}"}),
    ("the teacher of {p} was from {c} .", {"where was the teacher of {p} from ?": "{c}"}),
]


def make_questions(n: int, *, seed: int) -> list[dict[str, Any]]:
    """Generate `n` different questions: {"id", "question", "context", "answers": {"text", "answer_start"}} as in SQuAD.

    Questions that the context does not answer have no answers. The result is the same for the same arguments.
    """
    uniform = random.Random(seed).random  # the only method with a guaranteed sequence across Python versions

    def pick(options: Sequence[Any]) -> Any:
        return options[int(uniform() * len(options))]

    found: dict[tuple[str, str], dict[str, Any]] = {}
    while len(found) < n:
        row = _row(pick, uniform)
        found.setdefault((row["question"], row["context"]), row)
    return [{"id": f"synthetic_{i}", **row} for i, row in enumerate(found.values())]


def _row(pick: Callable[[Sequence[Any]], Any], uniform: Callable[[], float]) -> dict[str, Any]:
    """A context of three to five facts about different persons, and a question about one of them."""
    count = 3 + int(uniform() * 3)
    persons: list[str] = []
    while len(persons) < count + 1:
        if (person := f"{pick(FIRST)} {pick(LAST)}") not in persons:
            persons.append(person)
    facts = []
    for person in persons[:count]:
        values = {"p": person, "c": pick(PLACES), "t": pick(OBJECTS), "y": pick(YEARS)}
        facts.append((pick(FACTS), values))
    sentences = [form.format(**values) for (form, _), values in facts]
    chosen = int(uniform() * count)
    (form, questions), values = facts[chosen]
    question, answer = pick(list(questions.items()))
    context = " ".join(sentences)
    if uniform() < UNANSWERABLE:  # about a person of whom the context says nothing
        values = values | {"p": persons[-1]}
        return {"question": question.format(**values), "context": context, "answers": {"text": [], "answer_start": []}}
    before = sum(len(sentence) + 1 for sentence in sentences[:chosen])
    text = answer.format(**values)
    start = before + len(form[: form.index(answer)].format(**values))
    return {"question": question.format(**values), "context": context,
            "answers": {"text": [text], "answer_start": [start]}}  # fmt: skip
