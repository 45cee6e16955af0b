"""Sentences of known structure in English and German: subjects and verbs, pronouns and what they refer to.

They come in pairs: the subject before and after the other noun, the reason that fits the first and the second noun.
Over all of them a head scores 0 that looks at the first noun, at the nearer one, at a plural or at a certain word.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

LANGUAGES = ("en", "de")
Pairs = Mapping[str, Sequence[tuple[str, ...]]]  # of words, by language

# Singular and plural of what can lie somewhere. The German nouns are the same in the nominative and the dative, so that
# none of their forms is a subject alone.
NOUNS = {
    "en": [("lamp", "lamps"), ("bag", "bags"), ("flower", "flowers"), ("card", "cards"), ("photo", "photos"),
           ("clock", "clocks"), ("shirt", "shirts"), ("vase", "vases"), ("box", "boxes")],
    "de": [("die Lampe", "die Lampen"), ("die Tasche", "die Taschen"), ("die Blume", "die Blumen"),
           ("die Karte", "die Karten"), ("das Foto", "die Fotos"), ("die Uhr", "die Uhren"), ("das Hemd", "die Hemden"),
           ("die Vase", "die Vasen"), ("der Karton", "die Kartons")],
}  # fmt: skip
DATIVE = {"die": "der", "das": "dem", "der": "dem"}  # of the singular; the plural has "den"
BESIDE = {"en": ("near", "under", "behind"), "de": ("neben", "unter", "hinter")}
# the subject before the other noun, and after it
AGREEMENT = {
    "en": ("They say that the {subject} {beside} the {other} {verb} there.",
           "They say that {beside} the {other} the {subject} {verb} there."),
    "de": ("Man sagt, dass {article} {subject} {beside} {article2} {other} dort {verb}.",
           "Man sagt, dass {beside} {article2} {other} {article} {subject} dort {verb}."),
}  # fmt: skip
VERB = {"en": ("is", "are"), "de": ("liegt", "liegen")}

# In German both nouns have the same gender, so that the pronoun fits both.
CROSSED: Pairs = {
    "en": [("dog", "river"), ("wolf", "path"), ("cat", "street"), ("cow", "bridge"), ("horse", "field"),
           ("animal", "valley")],
    "de": [("der Hund", "den Fluss", "er"), ("der Wolf", "den Weg", "er"), ("die Katze", "die Straße", "sie"),
           ("die Kuh", "die Brücke", "sie"), ("das Pferd", "das Feld", "es"), ("das Tier", "das Tal", "es")],
}  # fmt: skip
# what an animal can be too much of, and what a way
REASONS = {
    "en": [("tired", "wide"), ("weak", "long"), ("lazy", "narrow"), ("ill", "steep")],
    "de": [("müde", "breit"), ("schwach", "lang"), ("faul", "schmal"), ("krank", "steil")],
}
FITTED: Pairs = {
    "en": [("ball", "basket"), ("jar", "sack"), ("lamp", "box"), ("vase", "bag"), ("book", "drawer"),
           ("glass", "cupboard")],
    "de": [("der Ball", "den Korb", "er"), ("der Krug", "den Sack", "er"), ("die Lampe", "die Kiste", "sie"),
           ("die Vase", "die Tasche", "sie"), ("das Buch", "das Fach", "es"), ("das Glas", "das Regal", "es")],
}  # fmt: skip
SIZES = {"en": [("big", "small"), ("wide", "narrow")], "de": [("groß", "klein"), ("breit", "schmal")]}
COREFERENCE = {
    "en": ("The {first} did not cross the {second} because {pronoun} was too {reason}.",
           "The {first} did not fit into the {second} because {pronoun} was too {reason}."),
    "de": ("{article} {first} überquerte {article2} {second} nicht, weil {pronoun} zu {reason} war.",
           "{article} {first} passte nicht in {article2} {second}, weil {pronoun} zu {reason} war."),
}  # fmt: skip


@dataclass(frozen=True)
class Sentence:
    """A sentence with the characters (first, end) of its parts.

    Attributes:
        text: The sentence.
        target: What the queries refer to.
        other: What they could refer to as well.
        queries: The words that look for it, by name.
    """

    text: str
    target: tuple[int, int]
    other: tuple[int, int]
    queries: dict[str, tuple[int, int]]


def fill(template: str, **words: str) -> tuple[str, dict[str, tuple[int, int]]]:
    """The text of a template and the characters of each word in it; the text begins with a capital letter."""
    text, places = "", {}
    for before, name, _, _ in Formatter().parse(template):
        text += before
        if name is not None:
            places[name] = (len(text), len(text) + len(words[name]))
            text += words[name]
    return text[:1].upper() + text[1:], places


def agreement(language: str) -> Iterator[Sentence]:
    """Pairs of sentences in which a verb agrees with its subject, not with a noun of the other number (Linzen et al.
    2016): the subject is the first of the two nouns, and then the second."""
    nouns, besides = NOUNS[language], BESIDE[language]
    for i in range(len(nouns)):
        for step in (1, 2):
            for number in (0, 1):
                one, two = nouns[i], nouns[(i + step) % len(nouns)]
                parts = {"beside": besides[i % 3], "verb": VERB[language][number]}
                subject, other = one[number], two[1 - number]
                if language == "de":
                    parts["article"], subject = subject.split()
                    article, other = other.split()
                    parts["article2"] = DATIVE[article] if number else "den"
                for template in AGREEMENT[language]:
                    text, at = fill(template, subject=subject, other=other, **parts)
                    yield Sentence(text, at["subject"], at["other"], {"verb": at["verb"]})


def coreference(language: str) -> Iterator[Sentence]:
    """Pairs of sentences in which one word decides what the pronoun refers to (Levesque et al. 2012): the animal was
    too tired, or the street too wide."""
    nouns: tuple[Pairs, ...] = (CROSSED, FITTED)
    for number, (pairs, reasons) in enumerate(zip(nouns, (REASONS, SIZES), strict=True)):
        for pair in pairs[language]:
            for reason in reasons[language]:
                for which in (0, 1):
                    yield referring(language, COREFERENCE[language][number], pair, reason[which], which)


def referring(language: str, template: str, pair: tuple[str, ...], reason: str, which: int) -> Sentence:
    """A sentence whose pronoun refers to the first (0) or the second (1) noun."""
    parts = {"pronoun": "it", "reason": reason}
    first, second = pair[:2]
    if language == "de":
        parts["pronoun"] = pair[2]
        parts["article"], first = first.split()
        parts["article2"], second = second.split()
    text, at = fill(template, first=first, second=second, **parts)
    nouns = (at["first"], at["second"])
    return Sentence(text, nouns[which], nouns[1 - which], {"pronoun": at["pronoun"], "reason": at["reason"]})
