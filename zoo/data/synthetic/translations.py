"""Synthetic translations: sentences of a small English grammar with their German translations.

German orders words in other ways: the verb is the second part of a main clause and the last one of a subordinate
clause, and participles are at the end; articles and adjectives agree in gender and case. A model that translates word
by word, in order, is wrong in most sentences. The dataset is for learning and testing the library, not for ranking
models.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TRAIN, TEST = 8000, 1000

# (English, German, gender)
PERSONS = [
    ("man", "Mann", "m"), ("boy", "Junge", "m"), ("doctor", "Arzt", "m"), ("farmer", "Landwirt", "m"),
    ("teacher", "Lehrer", "m"), ("woman", "Frau", "f"), ("queen", "Königin", "f"), ("sister", "Schwester", "f"),
    ("nurse", "Pflegerin", "f"), ("child", "Kind", "n"), ("girl", "Mädchen", "n"),
]  # fmt: skip
OBJECTS = [
    ("dog", "Hund", "m"), ("hat", "Hut", "m"), ("letter", "Brief", "m"), ("table", "Tisch", "m"),
    ("key", "Schlüssel", "m"), ("cat", "Katze", "f"), ("lamp", "Lampe", "f"), ("flower", "Blume", "f"),
    ("bag", "Tasche", "f"), ("book", "Buch", "n"), ("horse", "Pferd", "n"),
    ("bicycle", "Fahrrad", "n"), ("violin", "Geige", "f"),
]  # fmt: skip
ADJECTIVES = [("old", "alt"), ("small", "klein"), ("new", "neu"), ("beautiful", "schön"), ("strange", "seltsam"),
              ("famous", "berühmt"), ("clever", "klug"), ("quiet", "still")]  # fmt: skip
# (English past tense, participle, German past tense, participle)
VERBS = [
    ("saw", "seen", "sah", "gesehen"), ("bought", "bought", "kaufte", "gekauft"),
    ("found", "found", "fand", "gefunden"), ("lost", "lost", "verlor", "verloren"),
    ("sold", "sold", "verkaufte", "verkauft"), ("painted", "painted", "malte", "gemalt"),
    ("carried", "carried", "trug", "getragen"), ("forgot", "forgotten", "vergaß", "vergessen"),
    ("described", "described", "beschrieb", "beschrieben"),
]  # fmt: skip
TIMES = [("yesterday", "gestern"), ("today", "heute"), ("in summer", "im Sommer"), ("after the war", "nach dem Krieg"),
         ("on sunday", "am Sonntag"), ("at night", "in der Nacht")]  # fmt: skip
PLACES = [("in the garden", "im Garten"), ("near the bridge", "bei der Brücke"), ("at home", "zu Hause"),
          ("in the city", "in der Stadt"), ("behind the church", "hinter der Kirche")]  # fmt: skip
CLAUSES = [("because", "weil"), ("although", "obwohl"), ("before", "bevor")]

# {gender and case: (article, ending of the adjective)}
DEFINITE = {"m": ("der", "e"), "f": ("die", "e"), "n": ("das", "e"), "m4": ("den", "en"), "f4": ("die", "e"),
            "n4": ("das", "e")}  # fmt: skip
INDEFINITE = {"m": ("ein", "er"), "f": ("eine", "e"), "n": ("ein", "es"), "m4": ("einen", "en"), "f4": ("eine", "e"),
              "n4": ("ein", "es")}  # fmt: skip

Uniform = Callable[[], float]


@dataclass(frozen=True, eq=False)
class Piece:
    """Words of a sentence in both languages that translate each other, such as "in the" and "im"."""

    english: str
    german: str


COMMA = Piece("", ",")
Clause = tuple[list[Piece], list[Piece]]  # the pieces in their English and in their German order


def make_translations(n: int, *, seed: int) -> tuple[list[str], list[str]]:
    """Generate `n` different English sentences and their German translations.

    The result is the same for the same arguments. Split one call to get datasets without common sentences.
    """
    found = make_aligned_translations(n, seed=seed)
    return [english for english, _, _ in found], [german for _, german, _ in found]


def make_aligned_translations(n: int, *, seed: int) -> list[tuple[str, str, str]]:
    """Generate the sentences of `make_translations` with the words that translate each other.

    Returns: (English, German, alignment) of each. An alignment such as "0-0 1-2" links numbers of English and of German
        words, counted from 0 and separated by spaces, as `zoo.head_roles` takes it.
    """
    uniform = random.Random(seed).random  # the only method with a guaranteed sequence across Python versions
    found: dict[str, tuple[str, str, str]] = {}
    while len(found) < n:
        first, second = _sentence(uniform)
        english, german = (_written(words) for words in ([p.english for p in first], [p.german for p in second]))
        found.setdefault(english, (english, german, _links(first, second)))
    return list(found.values())


def _written(words: Sequence[str]) -> str:
    """A sentence, with a capital letter and without blanks before punctuation."""
    text = " ".join(words).replace(" ,", ",")
    return f"{text[:1].upper()}{text[1:]}."


def _links(first: Sequence[Piece], second: Sequence[Piece]) -> str:
    """The numbers of words of equal pieces, in their English and in their German order."""
    places: dict[Piece, list[int]] = {}
    number = 0
    for piece in second:
        count = 0 if piece is COMMA else len(piece.german.split())  # a comma is part of the word before
        places[piece] = list(range(number, number + count))
        number += count
    sources = [piece for piece in first for _ in piece.english.split()]
    return " ".join(f"{i}-{j}" for i, piece in enumerate(sources) for j in places[piece])


def _pick(options: Sequence[tuple[str, ...]], uniform: Uniform) -> tuple[str, ...]:
    return options[int(uniform() * len(options))]


def _pieces(english: str, german: str) -> list[Piece]:
    """The pieces of two phrases: word by word if there are equal numbers of them, otherwise the last words and the
    others ("in the" is "im", "garden" is "Garten")."""
    first, second = english.split(), german.split()
    if len(first) != len(second):
        first, second = ([" ".join(words[:-1]), words[-1]] for words in (first, second))
    return [Piece(*words) for words in zip(first, second, strict=True)]


def _noun_phrase(nouns: Sequence[tuple[str, ...]], case: str, uniform: Uniform) -> list[Piece]:
    """A noun with an article, and an adjective in half of all cases."""
    english, german, gender = _pick(nouns, uniform)
    definite = uniform() < 0.6
    article, ending = (DEFINITE if definite else INDEFINITE)[gender + case]
    adjective = _pick(ADJECTIVES, uniform) if uniform() < 0.5 else None
    first = adjective[0] if adjective else english
    pieces = [Piece("the" if definite else "an" if first[0] in "aeiou" else "a", article)]
    if adjective:
        pieces.append(Piece(adjective[0], adjective[1] + ending))
    return [*pieces, Piece(english, german)]


def _clause(uniform: Uniform, order: str, perfect: bool) -> Clause:
    """A clause in the past tense or the perfect.

    order: of its German parts, as in "SVO": the subject, the finite verb, the object and all that follows it.
    """
    subject, item = _noun_phrase(PERSONS, "", uniform), _noun_phrase(OBJECTS, "4", uniform)
    place = _pieces(*_pick(PLACES, uniform)) if uniform() < 0.4 else []
    past, participle, german_past, german_participle = _pick(VERBS, uniform)
    verb = [Piece("has", "hat"), Piece(participle, german_participle)] if perfect else [Piece(past, german_past)]
    parts = {"S": subject, "V": verb[:1], "O": item + place + verb[1:]}
    return subject + verb + item + place, [piece for letter in order for piece in parts[letter]]


def _sentence(uniform: Uniform) -> Clause:
    """A main clause, with a time before it or a subordinate clause after it in some cases."""
    kind, perfect = uniform(), uniform() < 0.5
    if kind < 0.35:
        return _clause(uniform, "SVO", perfect)
    if kind < 0.7:
        time = _pieces(*_pick(TIMES, uniform))
        main = _clause(uniform, "VSO", perfect)
        return time + main[0], time + main[1]
    main, joined = _clause(uniform, "SVO", perfect), _pieces(*_pick(CLAUSES, uniform))
    other = _clause(uniform, "SOV", uniform() < 0.5)
    return main[0] + joined + other[0], [*main[1], COMMA, *joined, *other[1]]
