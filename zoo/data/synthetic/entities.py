"""Synthetic sentences with named entities: persons, places and organizations.

Many names belong to several types ("Lincoln" is a person, a town, and part of "Lincoln Motors"), so that the words
around a name decide. The dataset is for learning and testing the library, not for ranking models.
"""

import random
from collections.abc import Callable, Sequence

TAGS = ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
TRAIN, TEST = 4000, 1000

FIRST = """Ada Alan Anna Austin Carl Charlotte Chelsea Clara Dakota David Emma Erik Florence Georgia Grace Henry Ida
Ivan Jordan Kenya Lena Madison Marie Max Nora Olga Paris Peter Rosa Sofia Sydney Tom Victoria""".split()  # noqa: SIM905
LAST = """Adams Baker Bergen Bristol Brooks Clark Cork Dallas Darwin Denver Essex Fisher Ford Harper Hamilton Houston
Jackson Lancaster Lincoln London Marsh Miller Newton Parker Perth Stein Walker Warwick Washington York""".split()  # noqa: SIM905
PLACES = """Austin Bergen Bristol Chelsea Cork Dallas Darwin Denver Essex Florence Hamilton Houston Jackson Jordan Kenya
Lancaster Lincoln London Madison Newton Paris Perth Sofia Sydney Victoria Warwick Washington York""".split()  # noqa: SIM905
BEFORE = ["New", "North", "South", "Port", "Lake", "Mount"]
KINDS = """Motors Bank Press Airlines Records Foods Steel Energy Museum University Institute Times Hotels""".split()  # noqa: SIM905
VERBS = ["met", "called", "praised", "sued", "visited", "thanked", "interviewed", "replaced"]
DAYS = ["on monday", "last week", "in may", "yesterday", "after the election", "this summer"]

# P, L, O stand for a person, a place, an organization.
FORMS = """P was born in L .
P , who works for O , moved to L D .
O opened an office in L D .
the mayor of L V P D .
P V P in L .
P left O and joined O D .
shares of O fell D , P wrote .
O , based in L , hired P .
from L to L it is a long way , P wrote D .
the spokesman of O , P , V P .
trains between L and L were late D .
P and P V the head of O .
O V O over a contract with the city of L .
it rained in L D .
nobody in L knew P before .
the report by O was long .""".splitlines()

Pick = Callable[[Sequence[str]], str]
Named = list[tuple[str, str]]  # (word, tag)


def make_entities(n: int, *, seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """Generate `n` different sentences: (the words of each, the names of their tags in IOB2).

    The result is the same for the same arguments. Split one call to get datasets without common sentences.
    """
    uniform = random.Random(seed).random  # the only method with a guaranteed sequence across Python versions

    def pick(options: Sequence[str]) -> str:
        return options[int(uniform() * len(options))]

    found: dict[tuple[str, ...], list[str]] = {}
    while len(found) < n:
        named = [pair for word in pick(FORMS).split() for pair in _words(word, pick, uniform)]
        found.setdefault(tuple(word for word, _ in named), [tag for _, tag in named])
    return [list(words) for words in found], list(found.values())


def _words(symbol: str, pick: Pick, uniform: Callable[[], float]) -> Named:
    """The words that a symbol of a form stands for, with their tags; any other word is itself."""
    if symbol in ("V", "D"):
        return [(word, "O") for word in pick(VERBS if symbol == "V" else DAYS).split()]
    if symbol == "P":
        kind = uniform()
        return _entity([pick(FIRST), pick(LAST)] if kind < 0.6 else [pick(LAST if kind < 0.8 else FIRST)], "PER")
    if symbol == "L":
        return _entity([pick(BEFORE), pick(PLACES)] if uniform() < 0.3 else [pick(PLACES)], "LOC")
    if symbol == "O":
        name = [pick(PLACES if uniform() < 0.5 else LAST)]
        kind = uniform()
        if kind < 0.2:
            return _entity([*name, "and", pick(LAST)], "ORG")
        return _entity([*name, pick(KINDS)] if kind < 0.8 else name, "ORG")
    return [(symbol, "O")]


def _entity(words: Sequence[str], kind: str) -> Named:
    return [(word, f"{'I' if i else 'B'}-{kind}") for i, word in enumerate(words)]
