"""Synthetic translations: sentences of a small English grammar with their German translations.

German orders words in other ways: the verb is the second part of a main clause and the last one of a subordinate
clause, and participles are at the end; articles and adjectives agree in gender and case. A model that translates word
by word, in order, is wrong in most sentences. The dataset is for learning and testing the library, not for ranking
models.
"""

import random
from collections.abc import Callable, Sequence

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


def make_translations(n: int, *, seed: int) -> tuple[list[str], list[str]]:
    """Generate `n` different English sentences and their German translations.

    The result is the same for the same arguments. Split one call to get datasets without common sentences.
    """
    uniform = random.Random(seed).random  # the only method with a guaranteed sequence across Python versions
    found: dict[str, str] = {}
    while len(found) < n:
        english, german = _sentence(uniform)
        found.setdefault(f"{english} .", f"{german} .")
    return [_written(text) for text in found], [_written(text) for text in found.values()]


def _written(text: str) -> str:
    """With a capital letter, and without blanks before punctuation."""
    return text[:1].upper() + text[1:].replace(" .", ".").replace(" ,", ",")


def _pick(options: Sequence[tuple[str, ...]], uniform: Uniform) -> tuple[str, ...]:
    return options[int(uniform() * len(options))]


def _noun_phrase(nouns: Sequence[tuple[str, ...]], case: str, uniform: Uniform) -> tuple[str, str]:
    """(English, German) of a noun with an article, and an adjective in half of all cases."""
    english, german, gender = _pick(nouns, uniform)
    definite = uniform() < 0.6
    article, ending = (DEFINITE if definite else INDEFINITE)[gender + case]
    adjective = _pick(ADJECTIVES, uniform) if uniform() < 0.5 else None
    first = adjective[0] if adjective else english
    words = [("the" if definite else "an" if first[0] in "aeiou" else "a"), *([adjective[0]] if adjective else [])]
    other = [article, *([adjective[1] + ending] if adjective else [])]
    return " ".join([*words, english]), " ".join([*other, german])


def _clause(uniform: Uniform, order: str, perfect: bool) -> tuple[str, str]:
    """A clause in the past tense or the perfect.

    order: of its German parts, as in "SVO": the subject, the finite verb, the object and all that follows it.
    """
    subject, item = _noun_phrase(PERSONS, "", uniform), _noun_phrase(OBJECTS, "4", uniform)
    place = _pick(PLACES, uniform) if uniform() < 0.4 else ("", "")
    past, participle, german_past, german_participle = _pick(VERBS, uniform)
    english = [subject[0], f"has {participle}" if perfect else past, item[0], place[0]]
    rest = " ".join(filter(None, [item[1], place[1], german_participle if perfect else ""]))
    parts = {"S": subject[1], "V": "hat" if perfect else german_past, "O": rest}
    return " ".join(filter(None, english)), " ".join(parts[letter] for letter in order)


def _sentence(uniform: Uniform) -> tuple[str, str]:
    """A main clause, with a time before it or a subordinate clause after it in some cases."""
    kind, perfect = uniform(), uniform() < 0.5
    if kind < 0.35:
        return _clause(uniform, "SVO", perfect)
    if kind < 0.7:
        time = _pick(TIMES, uniform)
        main = _clause(uniform, "VSO", perfect)
    else:
        main, joined = _clause(uniform, "SVO", perfect), _pick(CLAUSES, uniform)
        other = _clause(uniform, "SOV", uniform() < 0.5)
        return f"{main[0]} {joined[0]} {other[0]}", f"{main[1]} , {joined[1]} {other[1]}"
    return f"{time[0]} {main[0]}", f"{time[1]} {main[1]}"
