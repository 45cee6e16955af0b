"""The embedded text set: verdicts of guests, composed by the program, so that every path runs without a download.

A sentence praises or blames. What it says hangs on how its words stand together: a negation turns an adjective round,
and of two clauses in contrast the main one decides ("although the soup was cold, the evening was not bad" praises).
Each adjective stands in both kinds of sentences nearly as often, so counting words says little, and anything that sees
which word belongs to which says all. The set is for learning and testing the library; it ranks no model.
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
    """`n` different sentences and their labels, 0 (blames) and 1 (praises) in equal shares; equal for equal arguments.

    Sets that shall have no sentence in common are parts of one call.
    """
    draw = random.Random(seed).random  # the one method whose numbers are promised to stay
    sentences: dict[str, int] = {}

    def pick(options: Sequence[str]) -> str:
        return options[int(draw() * len(options))]

    while len(sentences) < n:
        label = len(sentences) % 2
        sentence = _sentence(pick, draw, bool(label))
        sentences.setdefault(sentence, label)
    order = sorted(range(n), key=lambda _: draw())
    texts, labels = list(sentences), list(sentences.values())
    return [texts[i] for i in order], [labels[i] for i in order]


def _sentence(pick: Pick, draw: Callable[[], float], praises: bool) -> str:
    """One sentence: a clause, two that agree, or two of which the main one decides."""
    opening = pick(OPENINGS)
    main, kind = _clause(pick, draw, praises), draw()
    if kind < 0.4:
        body = main
    elif kind < 0.5:
        body = f"{main} and {_clause(pick, draw, praises)}"
    else:
        other = _clause(pick, draw, not praises)
        forms = ("{0} but {1}", "{0} , yet {1}", "although {0} , {1}", "{1} , although {0}", "{1} even though {0}")
        body = pick(forms).format(other, main)
    return f"{opening} {body} .".strip()


def _clause(pick: Pick, draw: Callable[[], float], praises: bool) -> str:
    """`the soup was [not] [very] cold`: says what `praises` asks for."""
    turned = draw() < 0.35
    negation = pick(NEGATIONS) if turned else ""
    words = ["the", pick(NOUNS), "was", negation, pick(DEGREES), pick(GOOD if praises != turned else BAD)]
    return " ".join(word for word in words if word)
