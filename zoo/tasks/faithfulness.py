"""Faithfulness of generated texts: the share of facts that they keep, and of facts in them that are not supported."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.preprocessing.text_cleaning import UNSPACED

Fact = str | Sequence[str]  # its parts, e.g. ("metformin", "500 mg", "twice a day"), or one text
Words = tuple[str, ...]

_WORD = re.compile(rf"\d+(?:[.,]\d+)*|[{UNSPACED}]|[^\W\d_{UNSPACED}]+|[^\w\s]|\n")
_THOUSANDS = re.compile(r"\b[1-9]\d{0,2}(?:,\d{3})+\b")
_SENTENCE_END = re.compile(r"[.!?](?=\s+[^\W\d_a-z]|\s*\Z)|[。！？]")
_ABBREVIATION = re.compile(r"(?<=\b[^\W\d_])\.")  # p.o.
_BREAKS = ("\n", ";")
_LESSER_BREAKS = (".", ",", "and", "&", "+")  # between two facts if there is no other


@dataclass(frozen=True)
class FactCheck:
    """What a text makes of the facts of its source.

    Attributes:
        kept: Whether the text has each fact.
        stated: The facts in the text, each as the known parts of facts in it.
        unsupported: Those of them that are not among the facts of the source.
    """

    kept: list[bool]
    stated: list[str]
    unsupported: list[str]


class Faithfulness(Metric):
    """The share of facts that texts keep, and the share of facts in them that their source does not support.

        metric = Faithfulness(FactChecker([[("metformin", "500 mg"), ("aspirin", "100 mg")]]))
        metric.update(["Aspirin 500 mg."], [[("aspirin", "100 mg")]])
        metric.compute()  # {"faithfulness": 0.0, "unsupported": 1.0}

    Args:
        checker: Finds the facts in a text; see `FactChecker`.
    """

    full_state_update = False
    directions: ClassVar[dict[str, str]] = {"faithfulness": "max", "unsupported": "min"}

    def __init__(self, checker: "FactChecker") -> None:
        super().__init__()
        self.checker = checker
        self.counts: Tensor  # facts that are kept, facts, facts in the texts that are not supported, facts in the texts
        self.add_state("counts", default=torch.zeros(4, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, texts: Sequence[str], facts: Sequence[Sequence[Fact]]) -> None:
        """Add texts with the facts of the source of each."""
        for text, row in zip(texts, facts, strict=True):
            found = self.checker.check(text, row)
            counts = [sum(found.kept), len(found.kept), len(found.unsupported), len(found.stated)]
            self.counts += self.counts.new_tensor(counts)

    def compute(self) -> dict[str, float]:
        """`faithfulness`, 0 without any fact to keep, and `unsupported`, 0 without any fact in the texts."""
        kept, facts, wrong, stated = self.counts.tolist()
        return {"faithfulness": kept / max(facts, 1), "unsupported": wrong / max(stated, 1)}


class FactChecker:
    """Finds the facts in a text, and compares them with those of its source.

    A fact is a sequence of texts, its parts; the first names what it is about. (A text alone is a fact of one part.)
    The parts are found in a text as whole words, without regard to case or to the space between a number and its unit.
    A text is split into statements with one first part each: between two of them at the last end of a sentence or
    semicolon, else at the last comma or "and", else in front of the second. A fact is kept if one statement has all of
    its parts. A statement is supported if one fact has all of its parts.

    What is recognized as a part of a fact are the parts of all known facts, with any number in place of theirs: if
    "500 mg" is known, "501 mg" in a text is a part that must be supported. A name that is in no known fact is not
    recognized. Facts are compared as texts: neither negation nor other words for the same fact are understood.

    Args:
        known: The facts of each row of the data, of all splits.

    Raises: ValueError without facts, and for a part without words.
    """

    def __init__(self, known: Iterable[Sequence[Fact]]) -> None:
        facts = [_parts(fact) for row in known for fact in row]
        if not facts:
            raise ValueError("there are no facts: expected at least one row with facts")
        self.subjects = {_pattern(fact[0]) for fact in facts}
        self.others = {_pattern(part) for fact in facts for part in fact[1:]}
        self.lengths = sorted({len(pattern) for pattern in self.subjects | self.others}, reverse=True)

    def check(self, text: str, facts: Sequence[Fact]) -> FactCheck:
        """Compare one text with the facts of its source."""
        expected = [set(_parts(fact)) for fact in facts]
        stated = list(self._statements(_words(text)))
        wrong = [parts for parts in stated if not any(fact >= set(parts) for fact in expected)]
        kept = [any(fact <= set(parts) for parts in stated) for fact in expected]
        return FactCheck(kept, list(map(_join, stated)), list(map(_join, wrong)))

    def _statements(self, words: Words) -> Iterator[list[Words]]:
        """The parts of facts in each statement of a text."""
        found = list(self._mentions(words))
        starts = [(start, end) for start, end in found if _pattern(words[start:end]) in self.subjects]
        inside = {place for start, end in found for place in range(start, end)}
        cuts = [0]
        for (_, end), (start, _) in pairwise(starts):
            between = [(word in _BREAKS, place) for place in range(end, start)
                       if (word := words[place]) in (*_BREAKS, *_LESSER_BREAKS) and place not in inside]  # fmt: skip
            cuts.append(max(between)[1] if between else start)
        for first, last in zip(cuts, [*cuts[1:], len(words)]):
            if parts := [words[start:end] for start, end in found if first <= start < last]:
                yield parts

    def _mentions(self, words: Words) -> Iterator[tuple[int, int]]:
        """(start, end) of each part of a fact, the longest first."""
        start = 0
        while start < len(words):
            lengths = (n for n in self.lengths if start + n <= len(words))
            found = next((n for n in lengths if self._is_part(_pattern(words[start : start + n]))), 0)
            if found:
                yield start, start + found
            start += found or 1

    def _is_part(self, pattern: Words) -> bool:
        return pattern in self.subjects or pattern in self.others


def _words(text: str) -> Words:
    """The numbers, words in lower case and signs of a text, with a line break at the end of each sentence."""
    text = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    return tuple(_WORD.findall(_ABBREVIATION.sub(" ", _SENTENCE_END.sub("\n", text)).lower()))


def _parts(fact: Fact) -> list[Words]:
    """The words of each part of a fact."""
    parts = [fact] if isinstance(fact, str) else fact
    found = [tuple(word for word in _words(part) if word != "\n") for part in parts]
    if not found or not all(found):
        raise ValueError(f"the fact {fact!r} has a part without words")
    return found


def _pattern(words: Words) -> Words:
    """Words with # in place of numbers."""
    return tuple("#" if word[0].isdigit() else word for word in words)


def _join(parts: Sequence[Words]) -> str:
    return " ".join(" ".join(part) for part in parts)
