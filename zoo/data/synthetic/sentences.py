"""Synthetic review sentences for sentiment classification.

The label depends on how words combine: a negation inverts an adjective, and of two contrasting clauses the main clause
decides ("although the soup was cold, the evening was not bad" is positive). Each adjective occurs about equally often
in both classes, so that counting words is not enough. The dataset is for learning and testing the library, not for
ranking models.
"""

import random
from collections.abc import Callable, Sequence

CLASSES = ["negative", "positive"]
TRAIN, TEST = 8000, 2000

NOUNS = """food service room view staff music coffee breakfast pool garden terrace soup bread wine menu lobby bed shower
price location waiter kitchen dessert carpet lift parking beach evening concert tour guide driver museum park bridge
market harbour train ferry hotel""".split()  # noqa: SIM905
GOOD = """good great lovely excellent charming pleasant wonderful fresh clean friendly warm bright perfect superb
delightful tasty splendid generous""".split()  # noqa: SIM905
BAD = """bad awful terrible dull dreadful horrible stale dirty rude cold noisy poor mediocre bland disappointing shabby
dismal unpleasant""".split()  # noqa: SIM905
DEGREES = ["", "", "", "very", "really", "quite", "truly"]
NEGATIONS = ["not", "never", "hardly", "far from", "anything but", "by no means"]
OPENINGS = ["", "", "", "last week", "on our second visit", "this summer", "for once", "on sunday", "as we remember"]

Pick = Callable[[Sequence[str]], str]


def make_sentences(n: int, *, seed: int) -> tuple[list[str], list[int]]:
    """Generate `n` different sentences and their labels, 0 (negative) and 1 (positive), balanced.

    The result is the same for the same arguments. Split one call to get datasets without common sentences.
    """
    uniform = random.Random(seed).random  # the only method with a guaranteed sequence across Python versions
    sentences: dict[str, int] = {}

    def pick(options: Sequence[str]) -> str:
        return options[int(uniform() * len(options))]

    while len(sentences) < n:
        label = len(sentences) % 2
        sentence = _sentence(pick, uniform, bool(label))
        sentences.setdefault(sentence, label)
    order = sorted(range(n), key=lambda _: uniform())
    texts, labels = list(sentences), list(sentences.values())
    return [texts[i] for i in order], [labels[i] for i in order]


def _sentence(pick: Pick, uniform: Callable[[], float], positive: bool) -> str:
    """One sentence: a clause, two agreeing clauses, or two contrasting clauses of which the main one decides."""
    opening = pick(OPENINGS)
    main, kind = _clause(pick, uniform, positive), uniform()
    if kind < 0.4:
        body = main
    elif kind < 0.5:
        body = f"{main} and {_clause(pick, uniform, positive)}"
    else:
        other = _clause(pick, uniform, not positive)
        forms = ("{0} but {1}", "{0} , yet {1}", "although {0} , {1}", "{1} , although {0}", "{1} even though {0}")
        body = pick(forms).format(other, main)
    return f"{opening} {body} .".strip()


def _clause(pick: Pick, uniform: Callable[[], float], positive: bool) -> str:
    """A clause like `the soup was [not] [very] cold` with the given sentiment."""
    negated = uniform() < 0.35
    negation = pick(NEGATIONS) if negated else ""
    words = ["the", pick(NOUNS), "was", negation, pick(DEGREES), pick(GOOD if positive != negated else BAD)]
    return " ".join(word for word in words if word)
