"""CIDEr-D: the agreement of captions with those that people wrote, by n-grams weighted by how rare they are.

The libraries that compute it (pycocoevalcap, aac-metrics) need Java or pretrained models for their other metrics.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.preprocessing.text_cleaning import UNSPACED

LONGEST, SIGMA = 4, 6.0  # n-grams of up to four words; the standard deviation of lengths in the penalty
NGrams = Counter[tuple[str, ...]]
Vectors = tuple[Sequence[Mapping[tuple[str, ...], float]], int]

_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:'[^\W{UNSPACED}]+)?")


class CIDEr(Metric):
    """Mean CIDEr-D of captions with one or several references each, from 0 to 10.

    For each length of n-grams, the caption and a reference are vectors of counts weighted by log(documents / documents
    with the n-gram); their similarity is the cosine with the caption's weights clipped to those of the reference, times
    a Gaussian penalty for different lengths. The score is ten times the mean over lengths and references. Words are in
    lower case, without punctuation; scripts without spaces are split into characters.

    Args:
        documents: The references of all images that are tested, one or several texts each: they say how rare an n-gram
            is.

    Source: Vedantam et al. 2015, sections 4 and 5.2 (CIDEr-D), https://arxiv.org/abs/1411.5726; numbers as those of
        pycocoevalcap on the same words.
    """

    higher_is_better = True
    full_state_update = False
    directions: ClassVar[dict[str, str]] = {"cider": "max"}

    def __init__(self, documents: Sequence[str | Sequence[str]]) -> None:
        super().__init__()
        if not documents:
            raise ValueError("CIDEr needs the references of all images as documents=, given none")
        self.frequencies: NGrams = Counter()
        for texts in documents:
            self.frequencies.update({gram for text in as_list(texts) for gram in ngrams(text)})
        self.log_count = math.log(len(documents))
        self.sums: Tensor  # of the scores, and their number
        self.add_state("sums", default=torch.zeros(2), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> None:
        """Add captions with the references of each."""
        for prediction, texts in zip(predictions, references, strict=True):
            self.sums += self.sums.new_tensor([self.score(prediction, as_list(texts)), 1.0])

    def compute(self) -> dict[str, float]:
        """`cider`; 0 without captions."""
        total, count = self.sums.tolist()
        return {"cider": total / max(count, 1.0)}

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """CIDEr-D of one caption."""
        own = self.vectors(prediction)
        found = [self.similarity(own, self.vectors(text)) for text in references]
        return 10.0 * sum(found) / len(found)

    def vectors(self, text: str) -> Vectors:
        """(weights of the n-grams of each length, number of pairs of words, which stands for the length)."""
        parts: list[dict[tuple[str, ...], float]] = [{} for _ in range(LONGEST)]
        length = 0
        for gram, count in ngrams(text).items():
            parts[len(gram) - 1][gram] = count * (self.log_count - math.log(max(1, self.frequencies[gram])))
            length += count * (len(gram) == 2)
        return parts, length

    @staticmethod
    def similarity(one: Vectors, other: Vectors) -> float:
        """The mean similarity over the lengths of n-grams, from 0 to 1."""
        total = 0.0
        for own, theirs in zip(one[0], other[0], strict=True):
            norm = math.sqrt(sum(v * v for v in own.values()) * sum(v * v for v in theirs.values()))
            shared = sum(min(value, theirs[gram]) * theirs[gram] for gram, value in own.items() if gram in theirs)
            total += shared / norm if norm else 0.0
        return total / LONGEST * math.exp(-((one[1] - other[1]) ** 2) / (2 * SIGMA**2))


def ngrams(text: str) -> NGrams:
    """The n-grams of up to four words of a text with their counts."""
    words = _WORD.findall(text.lower())
    return Counter(tuple(words[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(words) - n + 1))


def as_list(texts: str | Iterable[str]) -> list[str]:
    """One text or several as a list."""
    return [texts] if isinstance(texts, str) else list(texts)
